"""Figures that a page repeats are those of the page that measured them."""

import math
import re
import tomllib
from pathlib import Path

import pytest
import torch

from decayfree.blocks import Blocks
from decayfree.dynamics import angular_update_rad
from decayfree.methods import METHODS
from decayfree.optimizers import in_studies
from decayfree.rescaling import following
from decayfree.study.models.sizes import Sizes
from decayfree.study.run_settings import DATA_OF_TASK, MODELS_OF_TASK, OWN_MODELS, ModelSpec, Recipe
from decayfree.study.tasks.table import task_of
from support import bounds, epsilon
from support.scripts import script

RAISED = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
DOCS = Path(__file__).parents[2] / "docs"


def text_of(page: str) -> str:
    return " ".join((DOCS / page).read_text(encoding="utf-8").split())


def test_the_first_page_counts_what_studies_have() -> None:
    words = {6: "six", 10: "ten", 11: "Eleven", 20: "twenty"}
    images = [name for name in DATA_OF_TASK["classification"] if name != "image-folder"]
    of_other_tasks = 6
    page = text_of("index.md")
    assert f"{words[len(METHODS)]} [methods]" in page
    assert f"{words[len(in_studies())]} optimizers" in page
    assert f"{words[len(OWN_MODELS) - of_other_tasks]} [networks]" in page
    assert f"{words[len(images)]} [data sets]" in page


def test_the_page_of_questions_counts_the_optimizers_that_were_tried() -> None:
    tried = sum(map(int, re.findall(r"\d+ of (\d+) hold", text_of("optimizers.md"))))
    assert f"With {tried} that were tried" in text_of("faq.md")


def test_the_page_of_questions_says_what_a_step_costs_as_it_was_measured() -> None:
    shares = [
        float(share)
        for peer in ("SGDP adds to SGD", "AdamP adds to AdamW")
        for share in re.findall(rf"of what {peer} \| ([\d.]+) \|", text_of("speed.md"))
    ]
    assert f"{100 * min(shares):.0f} to {100 * max(shares):.0f} % of what AdamP or SGDP add" in text_of(
        "faq.md"
    )
    of_rescaled = r"rescaled over bare.*\n.*over without its hooks +([\d.]+)"
    hooks = [float(one) - 1 for one in re.findall(of_rescaled, kept("trainers"))]
    assert {f"{share:.2f}" for share in hooks} == {"0.01"}
    assert "one percent of a step of a small ResNet at batch 16 in any trainer" in text_of("faq.md")


def test_the_page_of_instruments_counts_what_a_sample_reads_and_writes() -> None:
    of_passes = r"passes over the recorded weights in a sample, (\w+).*? ([\d.]+) +target"
    found = re.findall(of_passes, kept("recorder"))
    words = {"with": "five times", "without": "six times"}
    assert {words[one]: round(float(passes)) for one, passes in found} == {"five times": 5, "six times": 6}
    assert all(word in text_of("instruments.md") for word in words.values())


@pytest.mark.parametrize("page", script("docs/speed.py").TABLES)
def test_tables_of_times_say_what_the_benchmarks_printed(page: str) -> None:
    filled = script("docs/speed.py").filled(page)
    assert (DOCS / page).read_text(encoding="utf-8") == filled, "run `python docs/speed.py`"


def test_steps_in_trainers_take_what_they_may() -> None:
    printed = kept("trainers")
    assert printed.count(": met") == 2 * (2 * 5) + 1  # two arms, by two measures, in five trainers; and JAX
    assert "missed" not in printed


def test_the_memory_that_one_moves_to_is_that_of_the_published_recipe() -> None:
    recipes = tomllib.loads((DOCS / "published.toml").read_text(encoding="utf-8"))["recipes"]
    assert recipes[0]["name"] == "ResNet-18, CIFAR-10"
    row = next(
        line for line in (DOCS / "published.md").read_text().splitlines() if "| ResNet-18, CIFAR-10" in line
    )
    assert "| 5.12 |" in row
    for page in ("migration.md", "published.md"):
        assert "memory_epochs=5.12" in text_of(page)


def test_limits_say_what_epsilon_and_few_digits_do() -> None:
    page = text_of("limits.md")
    radii = [f"{radius:g}" for radius in epsilon.RADII]
    assert f"less than {power(epsilon.MOST)} when they are rescaled" in page
    assert f"at radius {', '.join(radii[:-1])} and {radii[-1]}" in page
    assert epsilon.MODELS == ["resnet18", "densenet121", "mobilenet_v2", "vgg11_bn"]
    assert "ResNet-18, DenseNet-121, MobileNetV2, VGG11-BN at radius" in page
    assert f"a radius of {max(epsilon.SMALL_RADII):g} it begins to matter" in page
    assert f"more than {power(epsilon.LEAST_AT_SMALL_RADII)} in each" in page
    assert f"move the outputs by more than {100 * following._EPS_WARNING:.1f} %" in page
    assert following._MUCH_SMALLER == 0.1
    assert "weights become more than ten times smaller" in page


def test_limits_say_how_near_to_one_a_factor_is_lost_on_weights_of_bfloat16() -> None:
    numbers = torch.linspace(1, 2, 2**10).bfloat16()
    page = text_of("limits.md")
    (share,) = re.findall(r"a factor closer to 1 than ([\d.]+) % rounds every one of them back", page)
    for factor in (1 + float(share) / 100, 1 - float(share) / 100):
        assert torch.equal((numbers.float() * factor).bfloat16(), numbers)
    assert not torch.equal((numbers.float() * (1 + 1.1 * float(share) / 100)).bfloat16(), numbers)


def kept(benchmark: str) -> str:
    """What it printed."""
    return (DOCS.parent / "benchmarks" / "kept" / f"{benchmark}.txt").read_text(encoding="utf-8")


def power(value: float) -> str:
    """As pages write it: 3·10⁻⁴."""
    digit, _, exponent = f"{value:.0e}".partition("e-")
    return ("" if digit == "1" else f"{digit}·") + "10⁻" + str(int(exponent)).translate(RAISED)


def test_the_page_of_spans_says_what_the_tests_hold() -> None:
    page = text_of("span.md")
    for law, most in {
        "stays as it was": bounds.STAYS,
        "(1 − ηλ)^t": bounds.DECAYS,
        "q″ = (1 + μ − ηλ)q′ − μq": bounds.TWO_TERMS,
        "its share shrinks by the growth of the norm": bounds.SHRINKS_WITH_THE_NORM,
    }.items():
        assert f"| {law} | {power(most[0])} / {power(most[1])} |" in page
    assert f"none: more than {percent(bounds.LEAVERS_LEAVE)} of what they moved was off the span" in page
    moved = [power(most) for most in bounds.CLEANED]
    assert f"outputs move by less than {moved[1]} in float32 and {moved[0]} in float64" in page
    assert f"never notices the off-span part (to {power(bounds.IN_SPAN_NOTICES)} over" in page
    assert f"more than {percent(bounds.UNCENTERED_IN_A_GRADIENT)} of a gradient then lie off" in page
    least, most = bounds.OTHER_BATCHES_OFF, bounds.OTHER_BATCHES_IN
    assert (
        f"more than {percent(least)} of its norm off the first span and less than {power(most)} off" in page
    )


def test_the_page_of_recipes_says_how_far_the_schedules_of_tests_are_off() -> None:
    page = text_of("recipes.md")
    assert f"a cosine of {bounds.TIME_CONSTANTS} time constants" in page
    assert bounds.AT_THE_END == 1
    assert "turns weights more than twice as far as decay does at the end" in page
    assert f"the cosine itself is off by more than {percent(bounds.UNCHANGED)}" in page
    assert f"is right to {percent(bounds.LAGGING)} throughout" in page
    predicted, without = percent(bounds.PREDICTED), percent(bounds.WITHOUT_DECAY)
    assert f"are within {predicted} of the predicted ones, and without decay within {without} of" in page
    assert f"the angle without decay is off by more than {percent(bounds.LEARNED_LABELS)}" in page


def test_pages_say_how_often_intervals_hold_the_truth_in_simulations() -> None:
    least, most = percent(bounds.LEAST_HELD), percent(bounds.MOST_HELD)
    n = bounds.N_SIMULATIONS
    assert f"hold the truth in {least.removesuffix(' %')} to {most} of {n} simulations" in text_of("tasks.md")
    page = text_of("studies.md")
    assert f"their mean squared error is less than {bounds.SHRUNK_ERROR:g} of" in page
    assert f"their intervals hold the truth in {least} or more" in page


def test_the_page_of_many_processes_says_how_equal_they_are() -> None:
    page = text_of("processes.md")
    assert f"differ from those of one process by at most {power(bounds.ON_MESHES)} in float64" in page
    assert f"(to {power(bounds.ON_MESHES)} in float64)" in page
    assert f"adds up in another order ({power(bounds.IN_ANOTHER_ORDER)} in float32)" in page


def test_pages_say_how_well_weights_of_bfloat16_hold() -> None:
    share = f"{100 * bounds.BFLOAT16:.1f} %"
    assert f"only to within {share}, one of float16" in text_of("limits.md")
    assert f"on their radius to {share} only" in text_of("faq.md")


def test_the_page_of_models_has_the_parameters_of_each() -> None:
    rows = re.findall(
        r"^\| `([\w-]+)` \|.*?\| ([\d,]+) \|", (DOCS / "models.md").read_text("utf-8"), re.MULTILINE
    )
    assert {name for name, _ in rows} == set(OWN_MODELS)
    for name, n_parameters in rows:
        assert f"{parameters_of(name):,}" == n_parameters, name


def parameters_of(name: str) -> int:
    """For 10 classes and images of 32×32."""
    spec = ModelSpec(name, width_factor=1.0)
    (task,) = (task for task, (own, _) in MODELS_OF_TASK.items() if name in own)
    model = task_of(Recipe(task)).build(spec, Sizes(n_classes=10, image_size=(32, 32), width_factor=1.0), 0)
    return sum(one.numel() for one in model.parameters())


def test_the_page_of_lightning_says_how_right_averages_are() -> None:
    assert f"in the tests to {percent(bounds.AFTER_AVERAGING)}." in text_of("lightning.md")


def test_other_formulas_for_small_angles_are_as_wrong_as_the_page_says() -> None:
    generator = torch.Generator().manual_seed(0)
    one, other = torch.randn(2, 100, 576, generator=generator, dtype=torch.float64)
    one = one / one.norm(dim=1, keepdim=True)
    other = other - (one * other).sum(dim=1, keepdim=True) * one
    other = other / other.norm(dim=1, keepdim=True)
    for angle, least, formula in (
        (1e-3, bounds.ARC_COSINE, arc_cosine),
        (1e-7, bounds.OF_DISTANCE, distance),
    ):
        turned = (3 * (math.cos(angle) * one + math.sin(angle) * other)).float()
        found = formula(one.float(), turned)
        true = angular_update_rad(one.float(), turned, Blocks(axis=0, block_sizes=(1,) * 100))
        assert ((found - true) / true).abs().max() > least
    page = text_of("instruments.md")
    assert f"can be wrong by more than {percent(bounds.ARC_COSINE)} at 10⁻³ radians" in page
    assert f"their distance by more than {percent(bounds.OF_DISTANCE)} at 10⁻⁷" in page


def arc_cosine(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    one, other = (rows / rows.norm(dim=1, keepdim=True) for rows in (one, other))
    return (one * other).sum(dim=1).clamp(max=1).acos()


def distance(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    one, other = (rows / rows.norm(dim=1, keepdim=True) for rows in (one, other))
    return (one - other).norm(dim=1)


def percent(share: float) -> str:
    return f"{100 * share:g} %"
