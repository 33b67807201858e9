"""What trials of a study buy: which runs count, what is far down, which setting is a published default.

The statistics are tested in `test_budget` of the studies, the page in `test_overview`.
"""

from pathlib import Path

import pytest

from decayfree.methods import WRS, NoTreatment, WeightDecay
from decayfree.report.numbers.budget import GroupBudget, budgets_of
from decayfree.report.numbers.groups import study_groups
from decayfree.report.tables.budget import budget_table
from decayfree.report.words.budget import budget_notes, budget_text
from decayfree.study import Axis, RunSettings, read_study
from support.synthetic_study import Writer, axes_spec, hot, sweep_spec

SPACE = "\N{NO-BREAK SPACE}"
SGD = (("name", "sgd"), ("momentum", 0.9))
# Validation is worse by one point, for all: it chooses what is best on the test.
ACCURACY = {0.03: 0.80, 0.1: 0.84, 0.3: 0.88}
ADDED = {"none": 0.0, "weight_decay": 0.06, "wrs": 0.02}


def by_rate(settings: RunSettings) -> float:
    """80, 84 and 88 % for the rates, WRS 2 points above, weight decay 6 above with 1e-3, else 10 below."""
    method = settings.method
    decay = getattr(method, "weight_decay", 1e-3)
    added = ADDED[method.name] if decay == 1e-3 else -0.10
    return ACCURACY[settings.recipe.learning_rate] + added


def budgets(out: Path, **changes: object) -> list[GroupBudget]:
    writer = {"spec": sweep_spec(n_seeds=2), "final_of": by_rate, "n_intervals": 2, **changes}
    return budgets_of(study_groups(read_study(Writer(out, **writer).write())))  # type: ignore[arg-type]


def test_trials_of_each_method_are_its_settings_with_each_seed(tmp_path: Path) -> None:
    (found,) = budgets(tmp_path)
    none, decay, wrs = found.methods
    assert none.budget.mean == pytest.approx((0.84, (0.84 + 0.88 + 0.88) / 3, 0.88))
    assert wrs.budget.mean == pytest.approx((0.86, (0.86 + 0.90 + 0.90) / 3, 0.90))
    assert decay.budget.n == 15
    assert decay.budget.mean[0] == pytest.approx((0.84 + 0.06) / 5 + 4 * (0.84 - 0.10) / 5)
    assert decay.budget.mean[-1] == pytest.approx(0.94)
    assert found.best is decay
    assert found.reference is wrs
    # More than 2 points below 94 %: all but the best one of weight decay.
    assert [method.far_down for method in found.methods] == pytest.approx([1.0, 14 / 15, 1.0])


def test_the_sentence_says_what_others_need_for_what_the_reference_buys(tmp_path: Path) -> None:
    (found,) = budgets(tmp_path)
    needed = found.methods[1].budget.trials_to_reach(0.90)
    assert needed is not None
    assert 1 < needed < 15
    assert budget_text(found).replace(SPACE, " ") == (
        "In the mean, one trial leads to 77.20 % (weight decay) to 86.00 % (WRS). The best by validation of "
        "all leads to 88.00 % (no decay) to 94.00 % (weight decay). "
        f"What all trials of WRS buy (90.00 %) takes {needed} trials (weight decay); it is not "
        "reached with all trials of no decay. The published default (74.00 %) takes 1 trial (all)."
    )
    row = budget_table([found], ()).rows[1]
    assert [cell.text for cell in row.cells] == [
        "weight decay",
        "15",
        f"77.20{SPACE}%",
        f"94.00{SPACE}%",
        "1",
        f"93{SPACE}%",
    ]


def test_a_diverged_run_is_the_worst_trial_and_not_a_missing_one(tmp_path: Path) -> None:
    # Decay 0.1 at the rate 0.3 diverges with the second of two seeds.
    (whole,), (lost,) = budgets(tmp_path / "whole"), budgets(tmp_path / "lost", state_of=hot)
    before, after = whole.methods[1], lost.methods[1]
    assert after.budget.n == 15
    assert after.n_left_out == 0
    assert before.budget.mean[0] - after.budget.mean[0] == pytest.approx((0.88 - 0.10) / 30)
    assert after.budget.mean[-1] == before.budget.mean[-1]
    assert after.far_down == before.far_down


def test_settings_of_runs_without_a_result_are_left_out_and_told(tmp_path: Path) -> None:
    def failed(settings: RunSettings) -> tuple[str, str | None]:
        is_lost = settings.method.name == "wrs" and settings.seed and settings.recipe.learning_rate == 0.1
        return ("failed", "no memory") if is_lost else ("done", None)

    found = budgets(tmp_path, state_of=failed)
    assert (found[0].methods[2].budget.n, found[0].methods[2].n_left_out) == (2, 1)
    assert budget_notes(found)[-1] == f"1{SPACE}setting of which runs have no result yet are left out."


def test_there_is_nothing_to_buy_without_validation_data_or_a_choice(tmp_path: Path) -> None:
    assert not budgets(tmp_path / "blind", spec=sweep_spec(n_seeds=1, n_validation=0))
    only = axes_spec(n_seeds=1, axes=(Axis("learning_rate", (0.1,)),))
    assert not budgets(tmp_path / "single", spec=only)


def test_the_published_default_is_a_rate_and_a_coefficient(tmp_path: Path) -> None:
    methods = (NoTreatment(), WeightDecay(1e-4), WeightDecay(5e-4), WeightDecay(1e-3), WRS())
    axes = (Axis("optimizer", (SGD,)), Axis("learning_rate", (0.1, 0.3)))

    def accuracy(settings: RunSettings) -> float:
        of_decay = {1e-4: 0.80, 5e-4: 0.83, 1e-3: 0.81}.get(getattr(settings.method, "weight_decay", 0), 0.82)
        return of_decay + 0.02 * (settings.recipe.learning_rate == 0.3)

    found = budgets(tmp_path, spec=axes_spec(n_seeds=2, methods=methods, axes=axes), final_of=accuracy)
    default = found[0].default
    assert default is not None
    assert default.published.weight_decay == 5e-4, "the better one of two by validation"
    assert default.accuracy == pytest.approx(0.83)
    assert (
        "The published default (83.00 %) takes 1 trial (no decay) to 2 trials (weight decay)."
    ) in budget_text(found[0]).replace(SPACE, " ")
    cells = [row.cells[4] for row in budget_table(found, ()).rows]
    assert [(cell.text, cell.note) for cell in cells] == [
        ("1", f"83.00{SPACE}%"),
        ("2", f"83.00{SPACE}%"),
        ("1", f"83.00{SPACE}%"),
    ]
    assert "Zagoruyko" in budget_notes(found)[-1]


@pytest.mark.parametrize(
    "optimizer", [(("name", "sgd"), ("momentum", 0.0)), (("name", "adam"),), (("name", "lion"),)]
)
def test_others_have_no_published_default(optimizer: tuple[tuple[str, object], ...], tmp_path: Path) -> None:
    methods = (WeightDecay(1e-4), WeightDecay(5e-4), WRS())
    axes = (Axis("optimizer", (optimizer,)), Axis("learning_rate", (0.1, 0.3)))
    spec = axes_spec(n_seeds=1, methods=methods, axes=axes)
    (found,) = budgets(tmp_path, spec=spec, final_of=lambda settings: 0.8)
    assert found.default is None
    assert "default" not in budget_text(found)
