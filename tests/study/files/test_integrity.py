"""Seals: every kind of damage shows, and what is whole passes; full disks are told from other errors."""

import errno
import json
import re
import zipfile
import zlib

import pytest
import torch

from decayfree.study.files.checkpoint import load_checkpoint, save_checkpoint
from decayfree.study.files.integrity import (
    DiskFullError,
    GrowingFile,
    ResultError,
    Seal,
    is_no_room,
    seal_zip,
    sealed_json,
    unsealed_json,
    zip_fault,
)


def test_a_seal_is_the_length_and_the_crc(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"123456789")
    assert Seal.of(path) == Seal.of_bytes(b"123456789") == Seal(9, 0xCBF43926)  # the check value of CRC-32
    assert Seal.of(path, n_bytes=4) == Seal(4, zlib.crc32(b"1234"))
    assert Seal.of(tmp_path / "nothing") == Seal(0, 0)


def test_a_file_that_has_grown_begins_with_what_was_sealed_but_is_not_it(tmp_path):
    path = tmp_path / "file"
    seal = Seal.of_bytes(b"1234")
    path.write_bytes(b"12345")
    assert seal.fault(path) is None
    assert seal.fault_of_all(path) == f"{path}: 5 bytes long, expected 4"
    path.write_bytes(b"123")
    assert seal.fault(path) == f"{path}: 3 bytes long, expected 4"
    path.write_bytes(b"1235")
    assert seal.fault(path).startswith(f"{path}: its content has changed (CRC-32 ")


def test_a_seal_goes_to_json_and_back():
    assert Seal.from_dict({"n_bytes": 4, "crc32": 7}) == Seal(4, 7)


@pytest.mark.parametrize(
    "record", [{}, {"n_bytes": 4}, {"n_bytes": "4", "crc32": 7}, {"n_bytes": 4, "crc32": 7.0}]
)
def test_what_is_no_seal_is_refused(record):
    with pytest.raises(ValueError, match="expected n_bytes and crc32, got"):
        Seal.from_dict(record)


def test_a_growing_file_knows_what_was_written(tmp_path):
    path = tmp_path / "file"
    file = GrowingFile(path)
    for piece in (b"12", b"", b"345"):
        file.append(piece)
        assert file.seal == Seal.of(path)
    assert path.read_bytes() == b"12345"


def test_a_growing_file_goes_on_after_what_was_sealed(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"1234 written after the checkpoint")
    file = GrowingFile(path, Seal.of_bytes(b"1234"))
    file.append(b"5")
    assert path.read_bytes() == b"12345"
    assert file.seal == Seal.of_bytes(b"12345")


@pytest.mark.parametrize("found", [b"12", b"12345"])
def test_what_something_else_has_written_to_a_growing_file_is_an_error(tmp_path, found):
    file = GrowingFile(tmp_path / "file")
    file.append(b"1234")
    (tmp_path / "file").write_bytes(found)
    message = f"{len(found)} bytes long, but 4 were written: something else writes to it"
    with pytest.raises(ResultError, match=re.escape(message)):
        file.append(b"5")


RECORD = {"state": "done", "numbers": [1, 0.1, None], "text": "ηλ"}


def test_sealed_json_comes_back_without_its_seal():
    assert unsealed_json(sealed_json(RECORD)) == unsealed_json(sealed_json(RECORD, indent=1)) == RECORD
    assert unsealed_json(json.dumps(RECORD)) == RECORD


def test_every_bit_of_sealed_json_counts():
    content = sealed_json(RECORD, indent=1).encode()
    for position in range(len(content)):
        for bit in range(8):
            damaged = bytearray(content)
            damaged[position] ^= 1 << bit
            try:
                record = unsealed_json(damaged.decode())
            except (ValueError, TypeError):
                continue
            # What else a flip may do: turn one space into another, or the seal's name into a key that is not
            # known.
            assert record == RECORD or "crc32" not in damaged.decode()
            assert record == RECORD or set(record) - set(RECORD)


def test_what_is_no_table_is_refused():
    with pytest.raises(ValueError, match=re.escape("expected a table, got '[1]'")):
        unsealed_json("[1]")


STATE = {
    "key": "abc",
    "model": {"weight": torch.arange(6.0).view(2, 3)},
    "optimizer": {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]},
}


def same(ours, theirs):
    if isinstance(ours, torch.Tensor):
        return isinstance(theirs, torch.Tensor) and ours.dtype == theirs.dtype and torch.equal(ours, theirs)
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return ours.keys() == theirs.keys() and all(same(ours[key], theirs[key]) for key in ours)
    if isinstance(ours, list) and isinstance(theirs, list):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    return type(ours) is type(theirs) and ours == theirs


@pytest.fixture
def checkpoint(tmp_path):
    save_checkpoint(tmp_path, STATE)
    return tmp_path / "last.pt"


def test_a_sealed_checkpoint_is_a_zip_file_like_any_other(checkpoint):
    assert zip_fault(checkpoint) is None
    assert same(torch.load(checkpoint, weights_only=True), STATE)
    assert zipfile.ZipFile(checkpoint).testzip() is None
    assert not same(STATE, {**STATE, "model": {"weight": torch.zeros(2, 3)}})


def test_torch_does_not_notice_a_bit_that_has_flipped_in_a_tensor_and_the_seal_does(checkpoint):
    content = bytearray(checkpoint.read_bytes())
    content[content.index(STATE["model"]["weight"].numpy().tobytes()) + 7] ^= 1
    checkpoint.write_bytes(content)
    assert not same(torch.load(checkpoint, weights_only=True), STATE)
    assert zip_fault(checkpoint).startswith(f"{checkpoint}: its content has changed (its CRC-32 is ")


def test_every_bit_of_a_checkpoint_counts(checkpoint):
    content = checkpoint.read_bytes()
    for position in [*range(0, len(content), 9), *range(len(content) - 30, len(content))]:
        damaged = bytearray(content)
        damaged[position] ^= 1 << position % 8
        checkpoint.write_bytes(damaged)
        assert zip_fault(checkpoint) is not None


@pytest.mark.parametrize("n_left", [0, 1, 30, 1000, -9, -8, -1])
def test_a_checkpoint_that_was_cut_off_is_noticed(checkpoint, n_left):
    content = checkpoint.read_bytes()
    checkpoint.write_bytes(content[:n_left])
    assert zip_fault(checkpoint) is not None


def test_a_checkpoint_of_others_is_not_taken_for_ours(tmp_path):
    torch.save(STATE, tmp_path / "last.pt")
    assert zip_fault(tmp_path / "last.pt") == f"{tmp_path / 'last.pt'}: cut off, or not a checkpoint of ours"


def test_a_checkpoint_that_torch_cannot_read_is_damaged(tmp_path, monkeypatch):
    with (tmp_path / "last.pt").open("w+b") as file:
        file.write(b"no zip file")
        seal_zip(file)
    with pytest.raises(ResultError, match=re.escape(f"{tmp_path / 'last.pt'}: not a whole checkpoint (")):
        load_checkpoint(tmp_path)


def test_a_checkpoint_is_a_table(tmp_path):
    with (tmp_path / "last.pt").open("w+b") as file:
        torch.save([1, 2], file)
        seal_zip(file)
    with pytest.raises(ResultError, match=r"last\.pt: not the checkpoint of a run, but a list"):
        load_checkpoint(tmp_path)


def test_a_full_disk_is_told_from_other_errors():
    full = OSError(errno.ENOSPC, "No space left on device")
    assert is_no_room(full)
    assert is_no_room(OSError(errno.EDQUOT, "Disk quota exceeded"))
    assert is_no_room(DiskFullError("full"))
    assert not is_no_room(OSError(errno.EACCES, "Permission denied"))
    assert not is_no_room(ValueError("no"))
    wrapped = RuntimeError("unexpected pos 704 vs 598")
    wrapped.__context__ = full
    assert is_no_room(wrapped)
