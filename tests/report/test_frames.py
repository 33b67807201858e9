"""A study's frames have the numbers of its rows and of its page, unrounded, each in its row."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from decayfree.errors import InvalidInputError
from decayfree.report import compare, study_groups
from decayfree.report.charts.views import chosen_part, method_looks
from decayfree.report.frames import TABLES, study_columns
from decayfree.report.numbers.compared import compare_all
from decayfree.report.numbers.pooled import contrasts
from decayfree.study import Added, Axis, RunSettings, Study, read_study
from decayfree.study.statistics import mean_interval
from support.available import import_or_skip
from support.synthetic_study import FINAL_TEST, WEIGHTS, Writer, axes_spec, bumpy, study_spec, sweep_spec

TWO = ((("name", "sgd"), ("momentum", 0.9)), (("name", "adam"),))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Five methods; of the first, a run failed and one has not begun."""
    folder = tmp_path_factory.mktemp("plain")
    states = {("no decay", 1): ("failed", "a reason")}
    not_begun = frozenset({("no decay", 2)})
    return read_study(Writer(folder, states=states, not_begun=not_begun, n_intervals=5).write())


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Two optimizers, two rates, a sweep of decay, and new seeds for what was chosen."""
    spec = sweep_spec(axes=(Axis("optimizer", TWO), Axis("learning_rate", (0.03, 0.1))))
    folder = tmp_path_factory.mktemp("swept")
    return read_study(Writer(folder, spec=spec, final_of=bumpy, n_intervals=2).write())


def rows(study: Study, table: str) -> list[dict[str, object]]:
    columns = study_columns(study, table)
    assert len({len(values) for values in columns.values()}) == 1
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def test_a_run_that_has_begun_has_a_row(plain: Study) -> None:
    found = rows(plain, "runs")
    assert len(found) == 24
    of_method = [row for row in found if row["method"] == "no decay"]
    assert [(row["seed"], row["state"], row["reason"]) for row in of_method] == [
        *((0, "done", None), (1, "failed", "a reason"), (3, "done", None), (4, "done", None)),
    ]
    assert of_method[2]["test_score"] == FINAL_TEST["no decay"][3]
    assert {row["run"] for row in found} == {run.key for run in plain.runs}
    assert not any(row["is_confirming"] for row in found)


def test_a_sample_has_a_row_and_so_has_each_weight_in_it(plain: Study) -> None:
    samples, weights = rows(plain, "rows"), rows(plain, "weights")
    assert len(samples) == sum(len(run.rows) for run in plain.runs)
    assert len(weights) == len(WEIGHTS) * len(samples)
    run = plain.runs[-1]
    own = [row for row in samples if row["run"] == run.key]
    assert [row["step"] for row in own] == [row.step for row in run.rows]
    last = run.rows[-1]
    product = math.prod(last.norms.values())
    assert own[-1]["norm"] == pytest.approx(product ** (1 / len(WEIGHTS)))
    assert own[-1]["off_span_share"] == last.off_span_share
    of_run = [row for row in weights if (row["run"], row["step"]) == (run.key, last.step)]
    assert {row["weight"]: row["norm"] for row in of_run} == dict(last.norms)
    assert {row["weight"]: row["angular_update_rad"] for row in of_run} == dict(last.angular_updates)


def test_comparisons_are_those_of_the_page(plain: Study) -> None:
    found, entries = rows(plain, "comparisons"), compare(study_groups(plain)).entries
    judged = [entry for entry in entries if entry.judgement]
    assert len(found) == len(judged) == 4
    for row, entry in zip(found, judged, strict=True):
        difference, judgement = entry.difference, entry.judgement
        assert difference is not None
        assert judgement is not None
        assert (row["scope"], row["kind"], row["reference"]) == ("group", "exploratory", "WRS")
        told = [row[name] for name in ("difference", "difference_low", "difference_high", "n")]
        assert told == [difference.mean, difference.low, difference.high, difference.n]
        assert (row["p"], row["p_holm"]) == (judgement.p_value, judgement.adjusted_p)
        assert row["verdict"] == judgement.verdict
    assert found[0]["n"] == 3


def test_settings_have_intervals_over_seeds_and_what_was_chosen(swept: Study) -> None:
    found, groups = rows(swept, "settings"), study_groups(swept)
    assert len(found) == len(groups.cells)
    assert len(found) == 2 * 2 * 7
    for row, cell in zip(found, groups.cells, strict=True):
        estimate = mean_interval(list(cell.test.values()))
        told = [row[name] for name in ("test_score", "test_score_low", "test_score_high", "n_done")]
        assert told == [estimate.mean, estimate.low, estimate.high, 3]
        assert row["optimizer.name"] == cell.settings.recipe.optimizer.name
        assert row["learning_rate"] == cell.learning_rate
    chosen = [row for row in found if row["is_chosen"]]
    assert [(row["optimizer"], row["method"]) for row in chosen] == [
        (group.label, sweep.label) for group in groups.groups for sweep in group.sweeps
    ]


def test_what_is_over_all_groups_is_told_apart(swept: Study) -> None:
    found, over = rows(swept, "comparisons"), contrasts(study_groups(swept))
    pooled = [row for row in found if row["scope"] == "all groups"]
    assert [(row["reference"], row["method"]) for row in pooled] == [(c.reference, c.method) for c in over]
    assert pooled[0]["difference"] == over[0].test.primary.difference.mean
    assert pooled[0]["p"] == over[0].test.primary.p_value
    assert pooled[0]["n"] == 2
    # One a group and method, the chosen ones: those of every setting are no part of the family.
    of_groups = [row for row in found if row["scope"] == "group"]
    assert len(of_groups) == 4 < len(compare_all(study_groups(swept)).compared)


def test_where_one_seed_chose_comparisons_and_curves_are_of_new_seeds(tmp_path: Path) -> None:
    spec = axes_spec(n_seeds=1, confirm_seeds=(10, 11, 12))
    added = tuple(Added(run.key, (10, 11, 12)) for run in spec.runs())
    Writer(tmp_path, spec=replace(spec, added=added), final_of=lambda run: 0.8, n_intervals=2).write()
    study = read_study(tmp_path)
    compared = rows(study, "comparisons")
    assert {row["kind"] for row in compared} == {"confirmatory"}
    assert {row["scope"] for row in compared} == {"group", "all groups"}
    numbers = study_groups(study)
    part, _ = chosen_part(numbers, numbers.groups[0], method_looks(numbers))
    assert [method.n for method in part.shown] == [3] * len(numbers.methods)


def test_what_new_seeds_say_is_confirmatory(tmp_path: Path) -> None:
    plain = study_spec(n_seeds=3)
    data = replace(plain.recipe.data, n_validation=100)
    plain = replace(plain, confirm_seeds=(100, 101), recipe=replace(plain.recipe, data=data))
    added = tuple(Added(run.key, (100, 101)) for run in plain.runs() if run.seed == 0)
    spec = replace(plain, added=added)
    place = {100: 3, 101: 4}

    def final(run: RunSettings) -> float:
        return FINAL_TEST[run.label][place.get(run.seed, run.seed)]

    writer = Writer(tmp_path, spec=spec, final_of=final, n_intervals=2)
    study = read_study(writer.write())
    found = rows(study, "comparisons")
    assert [row["kind"] for row in found] == ["confirmatory", "exploratory"] * 3
    again, first = found[:2]
    ours, theirs = FINAL_TEST["WRS, radius 1"], FINAL_TEST["no decay"]
    assert first["difference"] == pytest.approx(sum(ours[:3]) / 3 - sum(theirs[:3]) / 3)
    assert again["difference"] == pytest.approx(sum(ours[3:]) / 2 - sum(theirs[3:]) / 2)
    assert sum(bool(row["is_confirming"]) for row in rows(study, "runs")) == 10
    settings = rows(study, "settings")
    assert settings[0]["confirmed_score"] == pytest.approx(sum(theirs[3:]) / 2)


@pytest.mark.parametrize("library", ["polars", "pandas"])
def test_every_table_is_a_frame_of_either_library(plain: Study, library: str) -> None:
    import_or_skip(library)
    for table in TABLES:
        frame = plain.frame(table, library=library)  # type: ignore[arg-type]
        assert type(frame).__module__.startswith(library)
        assert list(frame.columns) == list(study_columns(plain, table))
        assert len(frame) == len(rows(plain, table))


def test_a_study_of_which_nothing_has_begun_has_empty_frames(tmp_path: Path) -> None:
    import_or_skip("polars")
    (tmp_path / "study.toml").write_text(axes_spec().to_toml(), encoding="utf-8")
    study = read_study(tmp_path)
    assert [len(study.frame(table)) for table in ("runs", "rows", "weights", "comparisons")] == [0] * 4
    assert len(study.frame("settings")) == 15


def test_another_table_is_refused(plain: Study) -> None:
    with pytest.raises(InvalidInputError, match=r"table must be one of 'runs', 'rows', .*, got 'seeds'"):
        plain.frame("seeds")  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match=r"table must be one of .*, got \[\]"):
        plain.frame([])  # type: ignore[arg-type]
