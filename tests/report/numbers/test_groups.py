"""How the runs of a study are sorted into groups, methods and settings, and which cells are compared.

What the page says about them is tested in `test_overview`.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from decayfree.methods import WRS, Hyperball, NoTreatment, WeightDecay
from decayfree.methods.method import Method
from decayfree.report.numbers.compared import (
    UnknownReferenceError,
    compare,
    compare_all,
    compare_chosen,
    ranks_of,
)
from decayfree.report.numbers.groups import StudyGroups, study_groups
from decayfree.report.words.verdicts import statistics_notes
from decayfree.study import Axis, Override, RunSettings, StudySpec, read_study
from decayfree.study.files.of_images import text_of_images
from decayfree.study.statistics.two_way import crossed_interval
from support.synthetic_study import AXES_METHODS as AXES
from support.synthetic_study import DECAYS, RATES, Writer, axes_spec, bumpy, hot, study_spec, sweep_spec


def groups_of(out: Path, spec: StudySpec, **changes: Any) -> StudyGroups:
    return study_groups(read_study(Writer(out, spec=spec, final_of=bumpy, n_intervals=2, **changes).write()))


def test_each_value_of_an_axis_is_a_group_with_all_methods(tmp_path: Path) -> None:
    numbers = groups_of(tmp_path, axes_spec(n_seeds=2))
    assert numbers.axes == ("optimizer",)
    assert [group.label for group in numbers.groups] == ["SGD, momentum 0.9", "SGD", "Adam", "AdamW", "Lion"]
    for group in numbers.groups:
        assert [sweep.label for sweep in group.sweeps] == ["no decay", "weight decay", "WRS"]
        assert [sorted(cell.begun) for cell in group.cells] == [[0, 1]] * 3
    assert not numbers.is_swept
    assert not numbers.are_methods_all


def test_learning_rates_and_coefficients_are_swept_and_make_no_groups(tmp_path: Path) -> None:
    numbers = groups_of(tmp_path, sweep_spec(n_seeds=1))
    (group,) = numbers.groups
    assert (numbers.axes, group.label) == ((), "")
    assert {sweep.label: len(sweep.cells) for sweep in group.sweeps} == {
        "no decay": len(RATES),
        "weight decay": len(RATES) * len(DECAYS),
        "WRS": len(RATES),
    }
    decay = group.sweeps[1].cells[0]
    assert decay.setting == decay.label == "weight decay 1e-05, learning rate 0.03"
    assert group.sweeps[2].cells[0].label == "WRS, learning rate 0.03"
    assert [decay.weight_decay, group.cells[0].weight_decay, group.sweeps[2].cells[0].weight_decay] == [
        1e-5,
        0.0,
        None,
    ]


def test_what_an_override_makes_of_the_method_splits_no_group(tmp_path: Path) -> None:
    slower = Override((("method.name", "wrs"), ("optimizer.name", "adam")), (("learning_rate", 0.01),))
    numbers = groups_of(tmp_path, axes_spec(n_seeds=1, overrides=(slower,)))
    assert len(numbers.groups) == 5
    assert [cell.setting for cell in numbers.groups[2].cells] == [
        "learning rate 0.1",
        "learning rate 0.1",
        "learning rate 0.01",
    ]
    assert not numbers.is_swept, "a method has one learning rate in each group"


def test_several_axes_multiply_and_are_told_in_words(tmp_path: Path) -> None:
    axes = (Axis("model.name", ("vgg11-bn", "resnet18")), Axis("data.label_noise", (0.0, 0.2)))
    numbers = groups_of(tmp_path, axes_spec(n_seeds=1, axes=axes))
    assert numbers.axes == ("model", "label noise")
    assert numbers.groups[1].place == {"model": "vgg11-bn", "label noise": "0.2"}


def test_optimizers_with_equal_names_are_told_apart(tmp_path: Path) -> None:
    tables = tuple((("name", "adam"), ("beta2", beta)) for beta in (0.9, 0.999))
    numbers = groups_of(tmp_path, axes_spec(n_seeds=1, axes=(Axis("optimizer", tables),)))
    assert [group.label for group in numbers.groups] == ["Adam, beta2 0.9", "Adam, beta2 0.999"]


def test_a_study_of_few_methods_has_the_detailed_page(tmp_path: Path) -> None:
    assert groups_of(tmp_path / "few", study_spec(n_seeds=1)).are_methods_all
    many = (*(WeightDecay(decay) for decay in DECAYS), WRS())
    assert not groups_of(tmp_path / "many", study_spec(n_seeds=1, methods=many)).are_methods_all


def test_validation_data_chooses_and_test_data_does_not(tmp_path: Path) -> None:
    def mislead(settings: Any, row: dict[str, Any]) -> None:
        if settings.recipe.learning_rate == 0.3:
            row["test_score"] += 0.05

    numbers = groups_of(tmp_path, sweep_spec(n_seeds=2), change_row=mislead)
    chosen = [sweep.chosen for sweep in numbers.groups[0].sweeps]
    assert [cell.learning_rate for cell in chosen if cell] == [0.1, 0.1, 0.1]
    assert chosen[1] is not None
    assert chosen[1].weight_decay == 1e-3


def test_without_validation_data_nothing_is_chosen(tmp_path: Path) -> None:
    numbers = groups_of(tmp_path, sweep_spec(n_seeds=2, n_validation=0))
    assert not numbers.has_validation
    assert [sweep.chosen for sweep in numbers.groups[0].sweeps] == [None] * 3
    assert compare_chosen(numbers).entries == ()
    for entry in compare_all(numbers).entries:
        assert entry.reference is not None
        assert entry.reference.settings.method == WRS()
        assert entry.reference.learning_rate == entry.cell.learning_rate
    for entry in compare_all(numbers, "weight_decay").entries:
        assert entry.reference is not None
        assert entry.reference.weight_decay == 1e-5, "the first setting"


def test_a_setting_of_which_runs_diverged_is_not_chosen(tmp_path: Path) -> None:
    numbers = groups_of(tmp_path, sweep_spec(n_seeds=2), state_of=hot)
    decay = numbers.groups[0].sweeps[1]
    lost = [cell for cell in decay.cells if cell.n_diverged]
    assert [(cell.weight_decay, cell.n_diverged, cell.n) for cell in lost] == [(0.1, 1, 1)]
    assert [decay.cells[index] for index in decay.choice.left_out] == lost


def test_a_difference_is_rescaling_minus_the_other_method_of_its_own_group(tmp_path: Path) -> None:
    numbers = groups_of(tmp_path, axes_spec())
    entries = compare_chosen(numbers)
    assert entries.family.n_tests == len(entries.compared) == 10
    assert sum(entry.is_reference for entry in entries.entries) == 5
    for entry in entries.entries:
        assert entry.reference is entry.group.sweeps[2].cells[0]
        if entry.difference:
            test, base = entry.cell.test, entry.group.sweeps[2].cells[0].test
            assert entry.difference.mean == pytest.approx(sum(base[s] - test[s] for s in test) / 4)


def test_another_reference_can_be_asked_for(tmp_path: Path) -> None:
    numbers = groups_of(tmp_path, axes_spec(n_seeds=2))
    for name in ("none", "no decay"):
        entries = compare_chosen(numbers, name)
        assert {entry.sweep.label for entry in entries.entries if entry.is_reference} == {"no decay"}
        assert entries.reference == "no decay"
    with pytest.raises(UnknownReferenceError, match="one of none, weight_decay, wrs; got 'wd'"):
        compare_all(numbers, "wd")


@pytest.mark.parametrize(
    ("methods", "reference"),
    [
        ((NoTreatment(), WeightDecay(1e-3), WRS()), "WRS"),
        ((NoTreatment(), WeightDecay(1e-3), Hyperball()), "weight decay"),
        ((NoTreatment(), Hyperball()), "no decay"),
    ],
)
def test_the_reference_is_rescaling_else_decay_else_the_first_method(
    tmp_path: Path, methods: tuple[Method, ...], reference: str
) -> None:
    assert compare_chosen(groups_of(tmp_path, axes_spec(n_seeds=2, methods=methods))).reference == reference


def test_a_method_of_which_no_run_is_done_is_no_reference(tmp_path: Path) -> None:
    lost = frozenset((WRS().label, seed) for seed in range(2))
    numbers = groups_of(tmp_path, axes_spec(n_seeds=2), not_begun=lost)
    assert compare_chosen(numbers).reference == "weight decay"
    none = groups_of(tmp_path / "none", axes_spec(n_seeds=1), not_begun=frozenset((m.label, 0) for m in AXES))
    assert compare_all(none).reference == "WRS"


def test_ranks_count_each_group_once(tmp_path: Path) -> None:
    numbers = groups_of(tmp_path, axes_spec())
    ranks = ranks_of(numbers, compare_chosen(numbers))
    assert ranks is not None
    assert ranks.ranks["no decay"] == 3.0
    four = study_groups(
        read_study(
            Writer(
                tmp_path / "four", spec=axes_spec(n_seeds=1, methods=(WRS(), NoTreatment())), final_of=bumpy
            ).write()
        )
    )
    assert ranks_of(four, compare_chosen(four)) is None, "two methods have no ranks to test"


def test_intervals_are_over_images_where_runs_say_which_are_right(tmp_path: Path) -> None:
    def keep(settings: RunSettings, row: dict[str, Any]) -> None:
        generator = np.random.default_rng([settings.seed, len(settings.label)])
        row["test_images"] = text_of_images(generator.random(400) < 0.8)

    numbers = groups_of(tmp_path, sweep_spec(n_seeds=3), change_row=keep)
    entries = compare(numbers)
    assert entries.is_over_images
    entry = entries.compared[0]
    assert entry.reference is not None
    right = entry.reference.of_images, entry.cell.of_images
    cells = np.stack([right[0][seed].astype(int) - right[1][seed] for seed in right[0]])
    assert entry.difference == crossed_interval(cells)
    assert "seeds and test images" in " ".join(statistics_notes(numbers, entries))


def test_intervals_are_over_seeds_where_some_run_does_not_say_so(tmp_path: Path) -> None:
    entries = compare(groups_of(tmp_path, sweep_spec(n_seeds=3)))
    assert entries.compared
    assert not entries.is_over_images
