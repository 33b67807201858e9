"""What a page that could not be written leaves behind: nothing, and the one before as it was."""

import errno
from pathlib import Path

import pytest

from decayfree.report import write_report
from decayfree.study import DiskFullError
from support.crashing import Faults
from support.synthetic_study import Writer


@pytest.mark.parametrize("was_there", [False, True])
def test_a_disk_that_is_full_while_the_page_is_written_leaves_nothing_behind(
    tmp_path: Path, was_there: bool
) -> None:
    out = Writer(tmp_path).write()
    if was_there:
        (out / "report.html").write_text("the page before")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}

    def disk_is_full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    faults = Faults(1, disk_is_full, also_after=True)
    what_to_do = (
        f"no room left while writing to {out} .*No space left.*: the page is as it was before; make room"
    )
    with faults.installed(), pytest.raises(DiskFullError, match=what_to_do):
        write_report(out)
    assert faults.labels[:2] == ["open report.html.partial", "write report.html.partial"]
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
