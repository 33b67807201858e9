"""Show me: one self-contained page from the result files of a study.

It trains nothing and changes no result file; nothing but the command line imports it.
"""

from typing import TYPE_CHECKING

from decayfree.lazy_face import lazy_face

if TYPE_CHECKING:
    from decayfree.report.numbers.compared import compare as compare
    from decayfree.report.numbers.compared import study_numbers as study_numbers
    from decayfree.report.numbers.groups import StudyGroups as StudyGroups
    from decayfree.report.numbers.groups import study_groups as study_groups
    from decayfree.report.numbers.series import StudyNumbers as StudyNumbers
    from decayfree.report.page import render as render
    from decayfree.report.page import write_report as write_report
    from decayfree.report.page import write_samples as write_samples

__getattr__ = lazy_face(__name__, extra="study")
