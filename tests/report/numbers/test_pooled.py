"""Which comparisons are pooled over groups, over which seeds and images, and what the page says of them."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from decayfree.methods import WRS, NoTreatment, WeightDecay
from decayfree.methods.method import Method
from decayfree.report.numbers.compared import compare, compare_chosen
from decayfree.report.numbers.groups import StudyGroups, study_groups
from decayfree.report.numbers.pooled import Contrast, contrast_of, contrasts, shrunk_differences
from decayfree.report.pages.contents import contents
from decayfree.report.tables.comparison import comparison_table
from decayfree.report.tables.pooled import pooled_table
from decayfree.report.tables.table import TableCell
from decayfree.report.words.pooled import pooled_notes, pooled_text
from decayfree.report.words.verdicts import caption
from decayfree.study import Added, Axis, RunSettings, StudySpec, read_study
from decayfree.study.files.of_images import text_of_images
from decayfree.study.statistics import pooled_difference
from decayfree.study.statistics.two_way import CrossedEstimate
from support.synthetic_study import OPTIMIZERS, Writer, axes_spec, bumpy, sweep_spec

NBSP = "\N{NO-BREAK SPACE}"
NAMES = [one.name for one in OPTIMIZERS]


def groups_of(out: Path, spec: StudySpec, **changes: Any) -> StudyGroups:
    writer = Writer(out, spec=spec, **{"final_of": bumpy, "n_intervals": 2, **changes})
    return study_groups(read_study(writer.write()))


def of_optimizers(n: int) -> tuple[Axis, ...]:
    return (Axis("optimizer", tuple((("name", one.name),) for one in OPTIMIZERS[-n:])),)


def ahead(by: float) -> Any:
    """WRS is ahead of decay by ``by``, with a scatter of a tenth of a point over seeds and groups."""

    def final(settings: RunSettings) -> float:
        scatter = (
            0.001 * np.random.default_rng([settings.seed, len(settings.recipe.optimizer.label)]).normal()
        )
        return 0.8 + (by + scatter if settings.method.name == "wrs" else 0.0)

    return final


def rows_of(found: tuple[Contrast, ...]) -> list[dict[str, TableCell]]:
    table = pooled_table(found)
    assert table is not None
    titles = [column.title for column in table.columns]
    return [dict(zip(titles, row.cells, strict=True)) for row in table.rows]


def test_the_planned_contrast_is_first_and_every_pair_is_there_once(tmp_path: Path) -> None:
    numbers = groups_of(tmp_path, axes_spec(n_seeds=3))
    assert [one.name for one in contrasts(numbers)] == [
        "WRS minus weight decay",
        "WRS minus no decay",
        "weight decay minus no decay",
    ]
    asked = [one.name for one in contrasts(numbers, "none")]
    assert asked == ["no decay minus weight decay", "no decay minus WRS"]


def test_seeds_that_all_groups_have_make_the_tables_that_are_pooled(tmp_path: Path) -> None:
    def lost(settings: RunSettings) -> tuple[str, str | None]:
        is_lost = (settings.seed, settings.recipe.optimizer.name, settings.method.name) == (2, "adam", "wrs")
        return ("diverged", "not finite") if is_lost else ("done", None)

    def validate(settings: RunSettings, row: dict[str, Any]) -> None:
        row["validation_score"] = np.random.default_rng(len(settings.label) + settings.seed).random()

    numbers = groups_of(tmp_path, axes_spec(n_seeds=4), state_of=lost, change_row=validate)
    found = contrasts(numbers)[0]
    entries = compare_chosen(numbers).of("weight decay")
    tables = {
        part: np.array([[entry.by_seed(part)[seed] for seed in (0, 1, 3)] for entry in entries])
        for part in ("test", "validation")
    }
    assert found.test == pooled_difference(tables["test"])
    assert found.validation == pooled_difference(tables["validation"])
    assert found.test.by_group != found.validation.by_group
    assert found.test.n_groups == 5


def test_intervals_are_over_images_where_all_groups_say_which_are_right(tmp_path: Path) -> None:
    def keep(settings: RunSettings, row: dict[str, Any]) -> None:
        seeds = [settings.seed, len(settings.label), len(settings.recipe.optimizer.label)]
        row["test_images"] = text_of_images(np.random.default_rng(seeds).random(400) < 0.8)

    def keep_some(settings: RunSettings, row: dict[str, Any]) -> None:
        if settings.recipe.optimizer.name != "adam":
            keep(settings, row)

    numbers = groups_of(tmp_path, axes_spec(n_seeds=3), change_row=keep)
    found = contrasts(numbers)[0]
    pairs = [(entry.reference, entry.cell) for entry in found.entries]
    cells = [
        [of.of_images[seed].astype(int) - cell.of_images[seed] for seed in range(3)]
        for of, cell in pairs
        if of
    ]
    assert found.is_over_images
    assert found.test == pooled_difference(np.array(cells))
    assert isinstance(found.test.these_groups, CrossedEstimate)
    assert "what other seeds and test images would show" in pooled_notes([found])[0]
    some = contrasts(groups_of(tmp_path / "some", axes_spec(n_seeds=3), change_row=keep_some))[0]
    assert not some.is_over_images
    assert any(
        "the chance in the images that all are scored on is in none" in it for it in pooled_notes([some])
    )


def test_images_of_different_data_are_not_taken_for_the_same(tmp_path: Path) -> None:
    def keep(settings: RunSettings, row: dict[str, Any]) -> None:
        row["test_images"] = text_of_images(np.random.default_rng(settings.seed).random(400) < 0.8)

    data = Axis("data.name", ("digits", "fashion-mnist"))
    numbers = groups_of(tmp_path, axes_spec(n_seeds=3, axes=(data,)), change_row=keep)
    assert not contrasts(numbers)[0].is_over_images


def test_nothing_is_pooled_of_one_group_one_seed_or_settings_that_nothing_chose(tmp_path: Path) -> None:
    assert contrasts(groups_of(tmp_path / "group", sweep_spec(n_seeds=2))) == ()
    assert contrasts(groups_of(tmp_path / "seed", axes_spec(n_seeds=1))) == ()
    axes = (Axis("learning_rate", (0.03, 0.1)), *of_optimizers(3))
    spec = axes_spec(n_seeds=2, axes=axes)
    numbers = groups_of(tmp_path / "blind", spec, change_row=lambda _, row: row.pop("validation_score"))
    assert contrasts(numbers) == ()
    assert contrast_of(compare(numbers).of("weight decay")) is None
    assert pooled_table(()) is None
    assert (pooled_text(()), pooled_notes(())) == ("", [])


@pytest.mark.parametrize(("by", "said"), [(0.01, "WRS is higher than"), (-0.01, "WRS is lower than")])
def test_the_verdict_follows_the_numbers(tmp_path: Path, by: float, said: str) -> None:
    found = contrasts(groups_of(tmp_path, axes_spec(), final_of=ahead(by)))
    text = pooled_text(found).replace(NBSP, " ")
    sign = "+" if by > 0 else "−"
    assert re.fullmatch(
        rf"Over 5 groups {said} weight decay \({re.escape(sign)}\d\.\d\d points, p < 0.001\); "
        r"on the validation images (it is (higher|lower), too|none is seen)\.",
        text,
    )


def test_no_difference_is_said_to_be_none_that_is_seen(tmp_path: Path) -> None:
    text = pooled_text(contrasts(groups_of(tmp_path, axes_spec(), final_of=ahead(0.0))))
    assert text.replace(NBSP, " ").startswith(
        "Over 5 groups no difference is seen between WRS and weight decay ("
    )


def test_a_row_has_both_questions_and_both_kinds_of_images(tmp_path: Path) -> None:
    found = contrasts(groups_of(tmp_path, axes_spec(), final_of=ahead(0.01)))
    row = rows_of(found)[0]
    such, these = found[0].test.such_groups, found[0].test.these_groups
    assert such is not None
    assert row["On test images"].sort == such.mean
    assert row["On test images"].note == interval_text(such.interval)
    assert row["These groups alone"].text == interval_text(these.interval)
    assert row["p"].note == "signs 0.062"
    assert row["Spread"].sort == found[0].test.spread
    assert row["Groups"].text == "5"


def test_of_three_groups_nothing_is_said_of_others_and_nothing_is_shrunk(tmp_path: Path) -> None:
    numbers = groups_of(tmp_path, axes_spec(axes=of_optimizers(3)), final_of=ahead(0.01))
    found = contrasts(numbers)
    (row, *_) = rows_of(found)
    assert "These groups alone" not in row
    assert row["On test images"].note == interval_text(found[0].test.these_groups.interval)
    assert row["p"].note == ""
    assert set(shrunk_differences(compare(numbers))) == {None}
    assert "… shrunk" not in [
        column.title for column in comparison_table(numbers, compare(numbers), "", "").columns
    ]


def test_each_group_has_its_shrunk_difference_before_its_own_test(tmp_path: Path) -> None:
    numbers = groups_of(tmp_path, axes_spec(), final_of=ahead(0.01))
    main = compare(numbers)
    table = comparison_table(numbers, main, "", "")
    titles = [column.title for column in table.columns]
    assert titles[-5:] == ["WRS minus …", "… shrunk", "… on validation", "p", "Seen"]
    of_decay = contrasts(numbers)[0].test.shrunk
    rows = [
        row.cells
        for row, entry in zip(table.rows, main.entries, strict=True)
        if entry in main.of("weight decay")
    ]
    assert [cells[-4].sort for cells in rows] == [one.mean for one in of_decay]
    assert {row.cells[-4].text for row in table.rows if row.is_reference} == {"–"}


def test_methods_of_several_kinds_are_pooled_each_by_itself(tmp_path: Path) -> None:
    methods: tuple[Method, ...] = (NoTreatment(), WeightDecay(1e-3), WRS(), WRS(radius=2.0))
    found = contrasts(groups_of(tmp_path, axes_spec(n_seeds=2, methods=methods)))
    names = [one.name for one in found]
    assert names[0] == "WRS, radius 1 minus weight decay"
    assert {"WRS, radius 1 minus WRS, radius 2", "weight decay minus WRS, radius 2"} < set(names)


def interval_text(interval: tuple[float, float] | None) -> str:
    assert interval is not None
    return " to ".join(f"{100 * end:+.2f}".replace("-", "−") for end in interval)


def test_new_seeds_come_first_and_those_that_chose_stand_in_columns_of_their_own(tmp_path: Path) -> None:
    spec = axes_spec(n_seeds=2, confirm_seeds=(10, 11, 12))
    added = tuple(Added(run.key, (10, 11, 12)) for run in spec.runs() if run.seed == 0)

    def final(run: RunSettings) -> float:
        # WRS is a point above decay where it was chosen, and two below with new seeds.
        gain = {True: -0.02, False: 0.01}[run.seed >= 10] if run.method.name == "wrs" else 0.0
        return 0.8 + gain + 0.001 * (run.seed % 2)

    out = Writer(tmp_path, spec=replace(spec, added=added), final_of=final, n_intervals=2).write()
    numbers = study_groups(read_study(out))
    found = contrasts(numbers)[0]
    assert found.name == "WRS minus weight decay"
    assert found.is_anew
    assert found.of_choice is not None
    assert found.test.primary.difference.mean == pytest.approx(-0.02)
    assert found.of_choice.primary.difference.mean == pytest.approx(0.01)
    assert found.test.these_groups.n == 3
    table = pooled_table([found])
    assert table is not None
    said = {column.title: cell for column, cell in zip(table.columns, table.rows[0].cells, strict=True)}
    assert list(said)[:4] == ["Over all groups", "On test images", "p", "… seeds that chose"]
    assert (said["On test images"].text, said["… seeds that chose"].text) == ("−2.00", "+1.00")
    assert table.columns[1].note.startswith("new seeds, ")
    rows = comparison_table(numbers, compare_chosen(numbers), "id", "")
    titles = [column.title for column in rows.columns]
    decays = [row for row in rows.rows if row.cells[0].text == "weight decay"]
    told = {title: {row.cells[titles.index(title)].text for row in decays} for title in titles}
    assert told["WRS minus …"] == {"−2.00"}
    assert told["… of the choice"] == {"+1.00"}


def test_where_one_of_two_has_no_new_seeds_both_stand_with_those_that_chose(tmp_path: Path) -> None:
    spec = axes_spec(n_seeds=2, confirm_seeds=(10, 11, 12))
    first = [run for run in spec.runs() if run.seed == 0 and run.method.name == "wrs"]
    added = tuple(Added(run.key, (10, 11, 12)) for run in first)
    out = Writer(
        tmp_path, spec=replace(spec, added=added), final_of=lambda run: 0.8 + 0.001 * run.seed, n_intervals=2
    ).write()
    entries = compare_chosen(study_groups(read_study(out)))
    decays = entries.of("weight decay")
    assert decays
    assert all(not entry.is_anew and entry.difference and entry.difference.n == 2 for entry in decays)
    assert all(entry.is_anew for entry in entries.of("WRS"))


def test_where_one_seed_chose_new_seeds_stand_for_what_it_chose(tmp_path: Path) -> None:
    spec = axes_spec(n_seeds=1, confirm_seeds=(10, 11, 12))
    added = tuple(Added(run.key, (10, 11, 12)) for run in spec.runs())

    def final(run: RunSettings) -> float:
        return 0.8 - 0.02 * (run.method.name == "wrs") * (run.seed >= 10) + 0.001 * (run.seed % 2)

    Writer(tmp_path / "before", spec=spec, final_of=final, n_intervals=2).write()
    Writer(tmp_path / "after", spec=replace(spec, added=added), final_of=final, n_intervals=2).write()
    before, after = (study_groups(read_study(tmp_path / name)) for name in ("before", "after"))
    assert {entry.cell.n for entry in compare_chosen(before).entries} == {1}
    entries = compare_chosen(after)
    assert {entry.cell.n for entry in entries.entries} == {3}
    decays = entries.of("weight decay")
    assert all(entry.is_anew and entry.judgement and entry.of_choice is None for entry in decays)
    assert [entry.difference.mean for entry in decays if entry.difference] == pytest.approx(
        [-0.02] * len(decays)
    )
    table = comparison_table(after, entries, "id", caption(after, entries))
    assert "… of the choice" not in [column.title for column in table.columns]
    assert table.caption.endswith("mean over seeds that nothing was chosen by.")
    assert contrasts(after)[0].test.primary.difference.mean == pytest.approx(-0.02)


def test_the_page_says_which_runs_confirm_and_that_rules_may_add_more(tmp_path: Path) -> None:
    spec = axes_spec(n_seeds=2, confirm_seeds=(10, 11, 12))
    added = tuple(Added(run.key, (10, 11, 12)) for run in spec.runs() if run.seed == 0)
    pages = {}
    for name, one in (("before", spec), ("after", replace(spec, added=added))):
        Writer(tmp_path / name, spec=one, final_of=lambda run: 0.8 + 0.001 * run.seed, n_intervals=2).write()
        pages[name] = contents(read_study(tmp_path / name))
    before, after = (pages[name]["summary"] for name in ("before", "after"))
    assert before[0].endswith("30 of 30 runs are done. The study's rules may add more.")
    assert "75 of 75 runs are done. 45 of these have 3\xa0new seeds, by which" in after[0]
    assert "; with the seeds that chose" not in pages["before"]["verdict"]
    assert pages["after"]["verdict"].endswith("; with the seeds that chose none is seen either.")
    notes = {name: "".join(page["statistics_notes"]) for name, page in pages.items()}
    assert "New seeds are seeds" not in notes["before"]
    assert "New seeds are seeds" in notes["after"]
    assert "seeds and 3 to confirm · 75" in pages["after"]["kicker"]


def test_groups_of_two_data_sets_are_pooled_over_the_images_of_each(tmp_path: Path) -> None:
    def keep(settings: RunSettings, row: dict[str, Any]) -> None:
        data = settings.recipe.data
        seeds = [settings.seed, len(settings.label), len(settings.recipe.optimizer.label), data.n_test]
        row["test_images"] = text_of_images(np.random.default_rng(seeds).random(data.n_test) < 0.8)

    data = Axis("data.n_test", (100, 60))
    spec = axes_spec(n_seeds=3, axes=(data, *axes_spec().axes))
    found = contrasts(groups_of(tmp_path, spec, change_row=keep))[0]
    assert found.is_over_images
    assert found.test.n_groups == 10
    tables: dict[int, list[Any]] = {}
    for entry in found.entries:
        assert entry.reference is not None
        first, second = entry.reference.of_images, entry.cell.of_images
        table = tables.setdefault(entry.cell.settings.recipe.data.n_test, [])
        table.append([first[seed].astype(int) - second[seed] for seed in range(3)])
    assert found.test == pooled_difference(*map(np.array, tables.values()))
