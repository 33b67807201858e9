"""Show me: one self-contained page from the result files of a study.

It trains nothing and changes no result file; nothing but the command line imports it.
"""

from decayfree.report.page import render, write_report
from decayfree.report.series import StudyNumbers, study_numbers
from decayfree.report.table import FinalRow, final_rows

__all__ = ["FinalRow", "StudyNumbers", "final_rows", "render", "study_numbers", "write_report"]
