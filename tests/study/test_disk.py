"""Files that come to their names whole, and locks: what a reader, a rival and a full disk see."""

import pytest

from decayfree.study.disk import replace_text, replacing, take_lock


@pytest.mark.parametrize("has_rivals", [False, True])
def test_a_file_is_replaced_at_once_or_not_at_all(tmp_path, has_rivals):
    path = tmp_path / "file"
    replace_text(path, "before")

    def fail_in_a_write():
        with replacing(path, has_rivals=has_rivals) as file:
            file.write(b"half")
            raise OSError("out of breath")

    with pytest.raises(OSError, match="out of breath"):
        fail_in_a_write()
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_rivals_do_not_write_into_each_others_files(tmp_path):
    path = tmp_path / "file"
    with replacing(path, has_rivals=True) as first, replacing(path, has_rivals=True) as second:
        first.write(b"one")
        second.write(b"another")
        assert len(list(tmp_path.iterdir())) == 2
    assert path.read_bytes() == b"one", "the outer one is done last"


def test_what_a_killed_process_left_is_overwritten(tmp_path):
    (tmp_path / "file.partial").write_text("more than is written now")
    replace_text(tmp_path / "file", "whole")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("file", "whole")]


def test_a_lock_is_had_by_one_and_its_shares_by_many(tmp_path):
    path = tmp_path / "lock"
    with path.open("w") as one, path.open("r") as two, path.open("r") as three:
        assert take_lock(two, exclusive=False)
        assert take_lock(three, exclusive=False)
        assert not take_lock(one, exclusive=True)
    with path.open("w") as one, path.open("r") as two:
        assert take_lock(one, exclusive=True, waits=True)
        assert not take_lock(two, exclusive=False)
