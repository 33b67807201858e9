"""The log of norms: rows by hand, cut where a run goes on, refused where it does not fit."""

import re

import pytest
import torch
from torch import nn

from decayfree import find_invariant
from decayfree.errors import MismatchError
from decayfree.study.files.integrity import GrowingFile, Seal
from decayfree.study.files.norm_log import NormLog, read_norms


@pytest.fixture
def model(seed):
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.BatchNorm1d(2), nn.Linear(2, 3), nn.BatchNorm1d(3))
    model[2].bias.requires_grad_(False)
    return model


@pytest.fixture
def found(model):
    return find_invariant(model, torch.randn(8, 2))


def write_rows(path, model, found, n_rows, *, after=0):
    log = NormLog(GrowingFile(path, Seal.of(path, n_bytes=after * 5 * 4)), found)
    for scale in range(after + 1, after + n_rows + 1):
        with torch.no_grad():
            model[0].weight.copy_(torch.tensor([[3.0, 4.0], [0.0, 1.0]]) * scale)
            model[2].weight.fill_(1.0)
        log.record()
    log.flush()


def test_norms_come_back_by_weight_and_step(tmp_path, model, found):
    write_rows(tmp_path / "log", model, found, 2)
    norms = read_norms(tmp_path / "log", found, n_steps=2)
    assert torch.equal(norms["0.weight"], torch.tensor([[5.0, 1.0], [10.0, 2.0]]))
    torch.testing.assert_close(norms["2.weight"], torch.full((2, 3), 2.0).sqrt())


def test_rows_after_a_checkpoint_are_cut_off_and_written_again(tmp_path, model, found):
    write_rows(tmp_path / "once", model, found, 4)
    write_rows(tmp_path / "killed", model, found, 3)
    with (tmp_path / "killed").open("ab") as file:
        file.write(b"xyz")
    write_rows(tmp_path / "killed", model, found, 2, after=2)
    assert (tmp_path / "killed").read_bytes() == (tmp_path / "once").read_bytes()


def test_nothing_is_written_before_it_is_flushed(tmp_path, found):
    log = NormLog(GrowingFile(tmp_path / "log"), found)
    log.record()
    assert (tmp_path / "log").stat().st_size == 0
    log.flush()
    log.flush()
    assert (tmp_path / "log").stat().st_size == 5 * 4


@pytest.mark.parametrize("n_steps", [1, 3])
def test_a_log_of_another_length_is_refused(tmp_path, model, found, n_steps):
    write_rows(tmp_path / "log", model, found, 2)
    message = f"log holds 40 bytes, expected {n_steps} steps of 5 norms of 4 bytes each"
    with pytest.raises(MismatchError, match=re.escape(message)):
        read_norms(tmp_path / "log", found, n_steps=n_steps)


def test_a_missing_log_is_refused(tmp_path, found):
    with pytest.raises(MismatchError, match="holds 0 bytes, expected 2 steps"):
        read_norms(tmp_path / "log", found, n_steps=2)
