"""Whoever mistypes a name is told which one may have been meant, wherever names are looked up."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import decayfree
from decayfree import conversion, methods, plots, report, study
from decayfree.dynamics import read_frame
from decayfree.report.written import written as table_text
from decayfree.study.builtin import builtin_spec
from support.study_stand_in import FINAL, SPEC, written

MODEL = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 3))
IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
OPTIMIZER = torch.optim.SGD(MODEL.parameters(), lr=0.1)
FOUND = decayfree.find_invariant(MODEL, IMAGES)


def kept() -> study.Study:
    return study.read_study("kept")


MISTYPED: dict[str, tuple[Callable[[], Any], str]] = {
    "of the package": (lambda: decayfree.find_invarient, "find_invariant"),
    "of a submodule": (lambda: methods.Wrs, "WRS"),
    "of a weight": (lambda: FOUND["0.weigth"], "0.weight"),
    "include": (lambda: decayfree.find_invariant(MODEL, IMAGES, include=["0.wieght"]), "0.weight"),
    "by request": (lambda: FOUND.by_request({"3.weigt": "row"}), "3.weight"),
    "radius": (lambda: decayfree.WeightRescaling(OPTIMIZER, FOUND, radius={"0.wieght": 1.0}), "0.weight"),
    "schedule": (lambda: decayfree.Turning(OPTIMIZER, FOUND, steps_per_epoch=3, schedule="cosin"), "cosine"),
    "shape": (lambda: conversion.RateSchedule("cosin", 10), "cosine"),
    "a method's setting": (lambda: SPEC.from_toml('[[methods]]\nname = "wrs"\nmomentum = "kep"\n'), "keep"),
    "a built-in study": (lambda: builtin_spec("figre1"), "figure1"),
    "a frame": (lambda: kept().frame("rwos"), "rows"),
    "a library": (lambda: read_frame("kept", library="pandsa"), "pandas"),
    "a table": (lambda: table_text(kept(), "csv", "comparison"), "comparisons"),
    "a format": (lambda: table_text(kept(), "makdown", "runs"), "markdown"),
    "a reference": (lambda: report.write_report("kept", reference="nonne"), "none"),
    "off the span": (lambda: decayfree.span.InputSpan(MODEL, ["0.weigth"]), "0.weight"),
}


@pytest.mark.parametrize(("mistyped", "meant"), MISTYPED.values(), ids=MISTYPED.keys())
def test_what_was_meant_is_told(
    mistyped: Callable[[], Any], meant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "kept", spec=SPEC, final_test=FINAL)
    with pytest.raises((decayfree.DecayFreeError, AttributeError), match=f"did you mean .*{meant}"):
        mistyped()


def test_what_is_private_or_far_from_any_name_is_not_guessed() -> None:
    for name in ("__file_", "xyzzy"):
        with pytest.raises(AttributeError) as told:
            getattr(decayfree, name)
        assert "did you mean" not in str(told.value)
    assert plots.__name__ == "decayfree.plots"
