"""docs/forgetting.py: what settings forget, by hand, and that the page says what the kept rows say."""

from pathlib import Path
from typing import Any

import pytest

from decayfree.methods import WRS, Hyperball, TurningMethod, WeightDecay
from decayfree.methods.method import Method
from decayfree.study import DataSpec, OptimizerSpec, Recipe, RunSettings
from support.scripts import script as load

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def script() -> Any:
    pytest.importorskip("matplotlib", reason="pip install 'decayfree[docs]'")
    return load("docs/forgetting.py")


@pytest.mark.parametrize(
    ("method", "optimizer", "expected"),
    [
        (TurningMethod(memory_epochs=5.0), "sgd", 2.0),  # ten epochs of them
        (TurningMethod(forgetting=0.3, schedule="cosine"), "lion", 0.3),
        (WeightDecay(1e-2), "sgd", 1.0),  # 100 steps at 0.1, a decay of 1e-2, a tenth left of 1 − μ
        (WeightDecay(1e-2), "adamw", 0.1),
        (WeightDecay(1e-2), "adam", None),
        (Hyperball(), "sgd", 9.5),  # κ = 19, half of it, 100 times 0.01
        (WRS(), "sgd", None),
    ],
)
def test_what_a_setting_forgets(script: Any, method: Method, optimizer: str, expected: float | None) -> None:
    recipe = Recipe(
        learning_rate=0.1,
        schedule="constant",
        n_epochs=10,
        batch_size=40,
        data=DataSpec(n_train=400),
        optimizer=OptimizerSpec(optimizer, momentum=0.9),
    )
    found = script.forgotten_of(RunSettings(method, 0, recipe))
    assert found == (expected if expected is None else pytest.approx(expected))


def test_the_page_says_what_the_kept_rows_say(script: Any, tmp_path: Path) -> None:
    points = list(script.points_of_studies())
    assert script.words(points) in (DOCS / "turning.md").read_text(encoding="utf-8")
    script.draw(points, tmp_path / "forgetting.svg")
    assert (tmp_path / "forgetting.svg").stat().st_size > 10_000
    assert (DOCS / "pictures" / "forgetting.svg").is_file()
