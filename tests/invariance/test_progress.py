"""What somebody sees who waits for a search, and the way for models that a float64 copy is too large for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import decayfree
from decayfree.errors import InvalidInputError
from decayfree.invariance import progress


def model_and_inputs() -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)), torch.randn(16, 4)


class Clock:
    """A clock on which a run of the model takes ``step`` seconds."""

    def __init__(self, step: float) -> None:
        self.now, self.step = 0.0, step

    def monotonic(self) -> float:
        self.now += self.step
        return self.now


def test_a_long_search_tells_that_it_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "time", Clock(2.0))
    decayfree.find_invariant(*model_and_inputs())
    lines = capsys.readouterr().err.splitlines()
    # One every third run, as these take two seconds.
    assert lines[0] == "decayfree: looking for scale-invariant weights, run 3 of the model after 6 s"
    assert all(line.startswith("decayfree: looking for") for line in lines)


def test_a_short_search_says_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "time", Clock(0.01))
    decayfree.find_invariant(*model_and_inputs())
    assert not capsys.readouterr().err


def test_a_search_in_float32_finds_the_same_and_says_so() -> None:
    model, inputs = model_and_inputs()
    in_float64, in_float32 = (
        decayfree.find_invariant(model, inputs, dtype=dtype) for dtype in (torch.float64, torch.float32)
    )
    assert [weight.name for weight in in_float32] == [weight.name for weight in in_float64] == ["0.weight"]
    assert in_float32.dtype == torch.float32
    assert "(measured in float32)" in in_float32.verdicts["0.weight"].reason


@pytest.mark.parametrize("dtype", [torch.float16, torch.int64, "float32"], ids=str)
def test_another_precision_is_refused(dtype: Any) -> None:
    with pytest.raises(InvalidInputError, match=r"dtype must be torch\.float64, torch\.float32 or None, got"):
        decayfree.find_invariant(*model_and_inputs(), dtype=dtype)
