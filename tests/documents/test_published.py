"""docs/published.md is what docs/published.py works out of docs/published.toml; some rows by hand."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from decayfree.optimizers import row_called
from support.scripts import script

DOCS = Path(__file__).parents[2] / "docs"
DATA = tomllib.loads((DOCS / "published.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def published() -> ModuleType:
    return script("docs/published.py")


def test_the_page_is_worked_out_of_the_recipes(published: ModuleType) -> None:
    assert (DOCS / "published.md").read_text(encoding="utf-8") == published.written()


def test_every_recipe_has_a_source_and_a_name_of_its_own() -> None:
    rows = [*DATA["recipes"], *DATA["unknown"]]
    assert len({row["name"] for row in rows}) == len(rows)
    assert len(DATA["recipes"]) >= 20
    for row in rows:
        assert re.match(r"\[[\w. -]+\]\(https://\S+\)", row["source"]), row["name"]


def test_what_has_no_closed_form_is_known_to_have_none() -> None:
    for row in DATA["unknown"]:
        known = row_called(row["optimizer"])
        assert known is not None
        assert known.equilibrium is None, row["name"]


@pytest.mark.parametrize(
    ("name", "whole", "memory_epochs"),
    [
        # 200 epochs of 391 steps at the mean rate 0.05: Σ ηλ/(1−μ) = 78200·0.05·0.0005/0.1
        ("ResNet-18, CIFAR-10", 19.55, 2000 / 391),
        # 30 epochs at 0.1, 30 at 0.01 and 30 at 0.001, of 5,005 steps
        ("ResNet-50, ImageNet", 30 * 5005 * 0.111 * 1e-4 / 0.1, 10_000 / 5005),
        # 32,000 steps at 0.1, 16,000 at 0.01, 16,000 at 0.001
        ("ResNet-20 to 56, CIFAR-10", (3200 + 160 + 16) * 1e-4 / 0.1, 10_000 / 352),
        # Σ 0.98^epoch = (1 − 0.98^300)/0.02
        ("MobileNetV2", 5005 * (1 - 0.98**300) / 0.02 * 0.045 * 4e-5 / 0.1, 1 / (1.8e-5 * 5005)),
        # 10,000 steps of warm-up, then a line from 1 to 0
        ("BERT-base", 500_000 * 1e-6, 40),
    ],
)
def test_rows_are_what_they_are_by_hand(
    published: ModuleType, name: str, whole: float, memory_epochs: float
) -> None:
    (row,) = (row for row in DATA["recipes"] if row["name"] == name)
    recipe: Any = published.Recipe(row)
    assert recipe.forgetting.whole == pytest.approx(whole, rel=1e-3)
    assert recipe.forgetting.memory_steps / recipe.steps_per_epoch == pytest.approx(memory_epochs, rel=1e-3)
    cells = dict(zip(published.HEAD, recipe.cells(), strict=True))
    assert float(cells["D"]) == pytest.approx(whole, rel=5e-3)
    assert float(cells["memory, epochs"]) == pytest.approx(memory_epochs, rel=5e-3)
