"""Show me: one self-contained page from the result files of a study.

It trains nothing and changes no result file; nothing but the command line imports it.
"""

from typing import TYPE_CHECKING

from decayfree.lazy_face import lazy_face

if TYPE_CHECKING:
    from decayfree.report.numbers.compared import compare, study_numbers
    from decayfree.report.numbers.groups import StudyGroups, study_groups
    from decayfree.report.numbers.series import StudyNumbers
    from decayfree.report.page import render, write_report

__all__ = [
    "StudyGroups",
    "StudyNumbers",
    "compare",
    "render",
    "study_groups",
    "study_numbers",
    "write_report",
]

__getattr__ = lazy_face(
    __name__,
    {
        "page": "render write_report",
        "numbers.compared": "compare study_numbers",
        "numbers.groups": "StudyGroups study_groups",
        "numbers.series": "StudyNumbers",
    },
)
