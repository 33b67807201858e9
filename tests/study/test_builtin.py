"""The built-in studies: they load, they are as large as the documents say, and decay has time to act in them.

Trains nothing.
"""

import re
from pathlib import Path

import pytest

from decayfree.errors import InvalidInputError
from decayfree.study import StudySpec
from decayfree.study.builtin import BUILTIN, SIZES, adjusted, builtin_spec, builtin_text
from decayfree.study.run_settings import RunSettings

DOCUMENT = Path(__file__).parents[2] / "docs" / "studies.md"
COMPARISONS = BUILTIN[:5]
"""Studies of one kind, with the paper's question."""
N_RUNS_AND_STEPS = {
    ("figure1", "small"): (30, 2_028),
    ("optimizers", "small"): (720, 624),
    ("architectures", "small"): (160, 624),
    ("sensitivity", "small"): (160, 1_092),
    ("baselines", "small"): (150, 1_092),
    ("memory", "small"): (96, 1_560),
    ("figure1", "paper"): (30, 70_200),
    ("optimizers", "paper"): (432, 70_200),
    ("architectures", "paper"): (72, 70_200),
    ("sensitivity", "paper"): (324, 70_200),
    ("baselines", "paper"): (200, 70_200),
    ("memory", "paper"): (96, 70_200),
    ("preset", "small"): (2_376, 240),
    ("preset", "paper"): (1_584, 31_200),
    ("rates", "small"): (522, 480),
    ("rates", "paper"): (348, 31_200),
    ("angles", "small"): (1_152, 480),
    ("angles", "paper"): (768, 31_200),
    ("figure1-tuned", "small"): (72, 2_028),
    ("figure1-tuned", "paper"): (48, 62_400),
    ("transfer", "small"): (1_134, (14, 4_000)),
    ("transfer", "paper"): (1_134, (30, 9_920)),
    ("endless", "small"): (144, (6_000, 20_000)),
    ("endless", "paper"): (144, (62_400, 312_000)),
    ("off-span", "small"): (320, 800),
    ("off-span", "paper"): (320, 31_200),
    ("segmentation", "small"): (32, 1_000),
    ("segmentation", "paper"): (60, 5_220),
    ("detection", "small"): (30, 400),
    ("detection", "paper"): (60, 75_000),
    ("counting", "small"): (30, 800),
    ("counting", "paper"): (60, 1_080),
}
COMPARED = [(name, size) for name in COMPARISONS for size in SIZES]
ALL = [(name, size) for name in BUILTIN for size in SIZES]


def decay_over_the_run(run: RunSettings) -> float:
    """Learning rate · weight decay · steps."""
    return float(run.recipe.learning_rate * run.flat().get("method.weight_decay", 0.0) * run.recipe.n_steps)


@pytest.mark.parametrize(("name", "size"), ALL)
def test_every_built_in_study_loads_and_reads_back_what_it_writes(name: str, size: str) -> None:
    spec = builtin_spec(name, size)
    assert StudySpec.from_toml(spec.to_toml()) == spec
    assert spec.title
    assert spec.question.endswith("?")
    assert "Claimed beforehand" in builtin_text(name, size)


@pytest.mark.parametrize(("name", "size"), ALL)
def test_a_study_has_the_runs_and_steps_that_the_document_says(name: str, size: str) -> None:
    runs = builtin_spec(name, size).runs()
    n_runs, n_steps = N_RUNS_AND_STEPS[name, size]
    least, most = n_steps if isinstance(n_steps, tuple) else (n_steps, n_steps)
    steps = [run.recipe.n_steps for run in runs]
    assert (len(runs), min(steps), max(steps)) == (n_runs, least, most)
    row = next(
        line for line in DOCUMENT.read_text(encoding="utf-8").splitlines() if line.startswith(f"| `{name}`")
    )
    assert f"{n_runs:,} × {least:,}{f' to {most:,}' if most > least else ''}" in row


@pytest.mark.parametrize(("name", "size"), COMPARED)
def test_the_headline_weight_decay_has_time_to_act(name: str, size: str) -> None:
    of_sgd = [
        run
        for run in builtin_spec(name, size).runs()
        if run.method.name == "weight_decay"
        and run.recipe.optimizer.name == "sgd"
        and run.recipe.optimizer.momentum == 0.9
        and run.recipe.learning_rate == 0.1
    ]
    assert max(map(decay_over_the_run, of_sgd)) >= 1


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "lion", "muon"])
def test_every_optimizers_decay_has_time_to_act_where_its_product_with_the_rate_sets_the_pace(
    optimizer: str, size: str
) -> None:
    runs = builtin_spec("optimizers", size).runs()
    decayed = [
        run for run in runs if run.method.name == "weight_decay" and run.recipe.optimizer.name == optimizer
    ]
    by_optimizer: dict[str, float] = {}
    for run in decayed:
        label = run.recipe.optimizer.label
        by_optimizer[label] = max(by_optimizer.get(label, 0.0), decay_over_the_run(run))
    assert min(by_optimizer.values()) >= 1


@pytest.mark.parametrize(("name", "size"), ALL)
def test_all_methods_treat_what_is_not_scale_invariant_alike_and_settings_are_chosen_off_the_test_data(
    name: str, size: str
) -> None:
    runs = builtin_spec(name, size).runs()
    assert {run.recipe.rest_weight_decay for run in runs} == {5e-4}
    if runs[0].recipe.task == "classification":
        assert min(run.recipe.data.n_validation for run in runs) >= (2_500 if name in COMPARISONS else 1_000)
    else:
        assert min(run.recipe.data.n_validation for run in runs) >= 50


@pytest.mark.parametrize("name", BUILTIN)
def test_every_image_is_tested_with_in_new_studies(name: str) -> None:
    if name in ("preset", "rates", "angles", "figure1-tuned", "transfer", "off-span"):
        sizes = {"fashion-mnist": 10_000, "opencv-digits": 2_000}
        assert all(run.recipe.data.n_test == sizes[run.recipe.data.name] for run in builtin_spec(name).runs())


@pytest.mark.parametrize("name", [*COMPARISONS, "memory"])
def test_the_small_size_is_for_the_processor_and_the_paper_size_for_a_gpu(name: str) -> None:
    small, paper = builtin_spec(name, "small"), builtin_spec(name, "paper")
    assert (small.recipe.device, paper.recipe.device) == ("cpu", "cuda")
    assert (small.recipe.data.name, paper.recipe.data.name) == ("fashion-mnist", "cifar10")
    assert (paper.recipe.n_epochs, paper.recipe.batch_size) == (200, 128)
    assert {run.recipe.model.width_factor for run in paper.runs()} == {1.0}


@pytest.mark.parametrize(("name", "size"), COMPARED)
def test_all_small_studies_and_the_headline_comparisons_have_five_seeds(name: str, size: str) -> None:
    n_seeds = 5 if size == "small" or name in ("figure1", "baselines") else 3
    assert len(builtin_spec(name, size).seeds) == n_seeds


def test_twelve_optimizers_are_compared_each_at_three_learning_rates_and_three_methods() -> None:
    rates: dict[tuple[str, str], set[float]] = {}
    for run in builtin_spec("optimizers").runs():
        rates.setdefault((run.recipe.optimizer.label, run.method.name), set()).add(run.recipe.learning_rate)
    assert len({label for label, _ in rates}) == 12
    assert len(rates) == 36
    assert {len(values) for values in rates.values()} == {3}
    assert rates["SGD", "wrs"] == {0.03, 0.1, 0.3}
    assert rates["Adam", "wrs"] == rates["AdamW", "none"] == {1e-3, 3e-3, 1e-2}


def test_device_seeds_and_folder_can_be_changed() -> None:
    spec = builtin_spec("figure1", device="cuda:1", seeds=2, data_dir="/somewhere")
    assert (spec.recipe.device, spec.seeds, spec.data_dir) == ("cuda:1", (0, 1), "/somewhere")
    assert adjusted(spec) == spec


@pytest.mark.parametrize(
    ("name", "size", "said"),
    [
        (
            "figure2",
            "small",
            "expected a built-in study, one of figure1, optimizers, .*; got 'figure2'; did you mean figure1",
        ),
        ("figure1", "large", "size must be one of small, paper; got 'large'"),
    ],
)
def test_what_is_not_built_in_is_refused_with_what_is(name: str, size: str, said: str) -> None:
    with pytest.raises(InvalidInputError, match=said):
        builtin_text(name, size)


def test_the_comments_say_the_products_that_the_settings_have() -> None:
    for name in (*COMPARISONS, "memory", "preset", "rates", "angles", "figure1-tuned", "transfer"):
        said = re.search(r"([\d,]+) steps", builtin_text(name))
        assert said
        assert int(said.group(1).replace(",", "")) == builtin_spec(name).runs()[0].recipe.n_steps
