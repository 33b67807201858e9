"""Show me: one self-contained page from the result files of a study.

It trains nothing and changes no result file; nothing but the command line imports it.
"""

from typing import TYPE_CHECKING

from decayfree.lazy_face import lazy_face

if TYPE_CHECKING:
    from decayfree.report.numbers.series import StudyNumbers, study_numbers
    from decayfree.report.page import render, write_report
    from decayfree.report.tables.final_rows import FinalRow, final_rows

__all__ = [
    "FinalRow",
    "StudyNumbers",
    "final_rows",
    "render",
    "study_numbers",
    "write_report",
]

__getattr__ = lazy_face(
    __name__,
    {
        "page": "render write_report",
        "numbers.series": "StudyNumbers study_numbers",
        "tables.final_rows": "FinalRow final_rows",
    },
)
