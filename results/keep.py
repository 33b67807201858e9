"""Keeps the built-in studies as they came out.

Their rows, their pages, and the tables of every README, out of the result files.

    python results/keep.py runs/figure1 runs/optimizers  # keep what these folders hold, each under its name
    python results/keep.py                               # write the tables again from what is kept
    python results/keep.py --go-on runs/preset           # fill a folder with what is kept, to run the rest

Writes results/NAME/study.toml, runs.tar.xz and report.html, and what stands between the marks in
results/NAME/README.md, results/README.md and README.md. What was claimed and what came of it is written by
hand around them. It states no figure of its own. Of a study that is under way the runs so far are kept in
results/under-way/NAME, and nothing is shown of them.
"""

import argparse
import dataclasses
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

sys.path.insert(0, str(Path(__file__).resolve().parent))
from added import MARK, is_marked, note, planned
from outcomes import MARGIN, OUTCOMES, inferiority, turning_minus_decay

from decayfree.report import write_report
from decayfree.report.numbers.compared import REFERENCES, Entry, compare_all, compare_chosen
from decayfree.report.numbers.groups import Group, StudyGroups, study_groups
from decayfree.report.numbers.pooled import Contrast, contrast_of, contrasts
from decayfree.report.numbers.series import Cell
from decayfree.report.tables.comparison import comparison_table
from decayfree.report.tables.pooled import pooled_table
from decayfree.report.tables.table import Column, TableCell
from decayfree.report.words.verdicts import exact_p
from decayfree.report.words.wording import p_value, percent, points, signed_interval, signed_points
from decayfree.study import Study, read_study
from decayfree.study.builtin import BUILTIN
from decayfree.study.files.archive import ARCHIVE_FILE
from decayfree.study.files.keeping import keep, take_out
from decayfree.study.files.results import ENDED
from decayfree.study.runner.growing import grown
from decayfree.study.statistics.estimates import Estimate
from decayfree.study.statistics.power import POWER

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
UNDER_WAY = HERE / "under-way"
OURS, THEIRS = REFERENCES
COLUMNS = (
    Column("study"),
    Column("runs", is_number=True),
    Column("no decay", is_number=True),
    Column("weight decay", is_number=True),
    Column("WRS", is_number=True),
    Column("WRS minus weight decay, points", is_number=True),
    Column("the same on validation images", is_number=True),
    Column(f"the same as planned, without {MARK}", is_number=True),
    Column("WRS is"),
)
IN_SHORT = (0, 3, 4, 5, 8)
"""Those of the columns that the first page has."""
OF_VALIDATION = (
    "Where validation images choose between settings, the difference on them is a replication that is "
    "not quite free."
)
LACKING = (
    "intervals over groups are over groups and seeds alone: these runs did not keep which test images are "
    "right, so that the chance in the images that all groups are scored on is in none."
)


def main() -> None:
    """Keep what is asked for, then write all tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="*", type=Path, metavar="STUDY_FOLDER", help="named like its study")
    parser.add_argument("--go-on", action="store_true", help="take out what is kept, instead of keeping it")
    arguments = parser.parse_args()
    for folder in arguments.folders:
        (go_on if arguments.go_on else keep_study)(folder)
    if arguments.go_on:
        return
    for path, text in written().items():
        path.write_text(text, encoding="utf-8")
        print(f"wrote {path.relative_to(ROOT)}")


def keep_study(folder: Path) -> None:
    """Keep a study under the name of its folder: the whole of it, or the runs so far."""
    study = read_study(folder)
    n_ended = sum(run.state in ENDED for run in study.runs)
    is_whole = n_ended == study.n_planned and grown(study.spec, folder) == study.spec
    target = HERE / folder.name if is_whole else UNDER_WAY / folder.name
    keep(folder, target)
    minutes = sum(run.elapsed_s for run in study.runs) / 60
    print(
        f"kept {n_ended} of {study.n_planned} runs, {minutes:,.0f} core-minutes, in "
        f"{(target / ARCHIVE_FILE).relative_to(ROOT)}"
    )
    if not is_whole:
        return
    shutil.rmtree(UNDER_WAY / folder.name, ignore_errors=True)
    print(f"wrote {write_report(target).relative_to(ROOT)}")
    readme = target / "README.md"
    if not readme.is_file():
        readme.write_text(f"# {study.spec.title}\n\n<!-- numbers -->\n<!-- /numbers -->\n", encoding="utf-8")


def go_on(folder: Path) -> None:
    """Fill a folder with the runs that are kept of the study of its name, if it is under way."""
    if (UNDER_WAY / folder.name / ARCHIVE_FILE).is_file():
        print(f"{folder}: {take_out(UNDER_WAY / folder.name, folder)} runs of a study under way")


def written() -> dict[Path, str]:
    """Every README with its marked part as the kept files have it."""
    studies = {name: read_study(HERE / name) for name in kept()}
    texts = {HERE / name / "README.md": "\n".join(numbers(name, study)) for name, study in studies.items()}
    marked = {path: between(path, "numbers", text) for path, text in texts.items()}
    rows, below = overview(studies)
    whole, short = HERE / "README.md", ROOT / "README.md"
    marked[whole] = between(whole, "results", table_of(rows, range(len(COLUMNS)), f"{below} {OF_VALIDATION}"))
    in_short = table_of(rows, IN_SHORT, below).replace("](", "](results/")
    return {**marked, short: between(short, "results", in_short)}


def table_of(rows: Sequence[Sequence[str]], shown: Sequence[int], below: str) -> str:
    """Some columns of the overview, and what stands below them."""
    lines = (line([TableCell(row[index]) for index in shown]) for row in rows)
    return "\n".join([*heading([COLUMNS[index] for index in shown]), *lines, "", below])


def kept() -> list[str]:
    """Names of the studies that are kept, in the order of the built-in ones."""
    return [name for name in BUILTIN if (HERE / name / ARCHIVE_FILE).is_file()]


def between(path: Path, mark: str, text: str) -> str:
    """The file with ``text`` between its marks."""
    content = path.read_text(encoding="utf-8")
    pattern = re.compile(rf"(<!-- {mark} -->\n).*?(<!-- /{mark} -->)", re.DOTALL)
    if not pattern.search(content):
        sys.exit(f"{path}: expected the marks <!-- {mark} --> and <!-- /{mark} -->")
    return pattern.sub(lambda match: f"{match.group(1)}{text}\n{match.group(2)}", content)


def numbers(name: str, study: Study) -> Iterator[str]:
    """What was run on what, the table of the study's page, and what of it is exploratory."""
    runs = study.runs
    processors = sorted({str(run.hardware["processor"]) for run in runs})
    threads = sorted({int(run.hardware["n_threads"]) for run in runs})
    versions = sorted(
        {f"decayfree {run.versions['decayfree']}, torch {run.versions['torch']}" for run in runs}
    )
    n_diverged = sum(run.state == "diverged" for run in runs)
    minutes = sum(run.elapsed_s for run in runs) / 60
    steps = sorted({run.n_steps for run in runs})
    yield f"- {len(runs)} runs of {' or '.join(f'{n:,}' for n in steps)} steps, {n_diverged} of them diverged"
    yield (
        f"- {', '.join(processors)}, {' or '.join(map(str, threads))} thread(s) a run; "
        f"{minutes:,.0f} minutes of runs"
    )
    yield f"- {'; '.join(versions)}"
    yield ""
    if name in OUTCOMES:
        yield from OUTCOMES[name](study)
        return
    groups = study_groups(study)
    chosen = compare_chosen(groups)
    entries = chosen if chosen.entries else compare_all(groups)
    table = comparison_table(groups, entries, "", "")
    yield from over_all_groups(contrasts(groups))
    yield from heading(table.columns)
    for entry, row in zip(entries.entries, table.rows, strict=True):
        method, *others = row.cells
        if is_marked(name, entry.cell.settings):
            method = dataclasses.replace(method, text=f"{method.text} {MARK}")
        yield line((method, *others))
    if note(name):
        before = of_method(compare_chosen(planned(name, groups)).entries, THEIRS)
        yield (
            f"\n{note(name)} With what was planned alone, WRS minus weight decay is "
            f"{difference(before)}, on the validation images {difference(before, 'validation')}."
        )
    if len(groups.groups) == 1 and len(groups.groups[0].learning_rates) > 1:
        yield from every_setting(name, groups.groups[0])


def over_all_groups(found: Sequence[Contrast]) -> Iterator[str]:
    """The table of pooled differences, and what their intervals know; nothing without any."""
    table = pooled_table(found)
    if table:
        yield f"{table.caption}\n"
        yield from heading(table.columns)
        yield from (line(row.cells) for row in table.rows)
        yield f"\n{what_intervals_know(found)}\n"


def what_intervals_know(found: Sequence[Contrast]) -> str:
    """Over which samples intervals over groups are."""
    if all(contrast.is_over_images for contrast in found):
        return "On test images intervals over groups are over groups, seeds and these images."
    return LACKING[0].upper() + LACKING[1:]


def heading(columns: Sequence[Column]) -> Iterator[str]:
    """The first two lines of a table."""
    yield "| " + " | ".join(f"{c.title}{f' ({c.note})' if c.note else ''}" for c in columns) + " |"
    yield "|" + "|".join("--:" if column.is_number else "---" for column in columns) + "|"


def line(cells: Sequence[TableCell]) -> str:
    """A row of a table, notes in brackets."""
    texts = (f"{cell.text}{f' ({cell.note})' if cell.note else ''}" for cell in cells)
    return f"| {' | '.join(texts)} |"


def every_setting(name: str, group: Group) -> Iterator[str]:
    """Mean test scores of all settings, those that validation data did not choose among them."""
    rates = group.learning_rates
    yield (
        f"\nMean test {group.cells[0].metric.name} of every setting, %, chosen or not, over "
        f"{max(cell.n_planned for cell in group.cells)} seeds:\n"
    )
    yield "| Method | " + " | ".join(f"learning rate {rate:g}" for rate in rates) + " |"
    yield "|---|" + "--:|" * len(rates)
    for sweep in group.sweeps:
        for decay in dict.fromkeys(cell.weight_decay for cell in sweep.cells):
            of_rate = {cell.learning_rate: cell for cell in sweep.cells if cell.weight_decay == decay}
            means = [mean_of(name, of_rate[rate]) if rate in of_rate else "–" for rate in rates]
            has_several = len({cell.weight_decay for cell in sweep.cells}) > 1
            label = f"{sweep.label} {decay:g}" if has_several else sweep.label
            yield f"| {label} | {' | '.join(means)} |"


def mean_of(name: str, cell: Cell) -> str:
    """Mean test score over seeds, in percent without its sign, and whether the setting was added."""
    final, mark = cell.final_test, f" {MARK}" if is_marked(name, cell.settings) else ""
    return f"{100 * final.mean:.2f}{mark}" if final else f"diverged{mark}"


def overview(studies: dict[str, Study]) -> tuple[list[Sequence[str]], str]:
    """A row a study: weight rescaling beside weight decay, each at the setting that validation data chose.

    Also what stands below the table.
    """
    rows: list[Sequence[str]] = []
    shown: dict[frozenset[str], str] = {}
    without_images: list[str] = []
    for name, study in studies.items():
        whole = study_groups(study)
        if not {OURS, THEIRS} <= {sweep.name for group in whole.groups for sweep in group.sweeps}:
            continue
        arms = list(
            dict.fromkeys(one.label for group in whole.groups for one in group.sweeps if one.name == OURS)
        )
        # Over several groups the first, in one all.
        for arm in arms if len(whole.groups) == 1 else arms[:1]:
            groups = without(whole, sorted({*arms} - {arm}))
            if not all(contrast.is_over_images for contrast in contrasts(groups)):
                without_images.append(name)
            entries = compare_chosen(groups).entries
            theirs = of_method(entries, THEIRS)
            accuracies = [mean_accuracy(entries, method) for method in ("none", THEIRS, OURS)]
            keys = frozenset(
                run.key
                for method in (THEIRS, OURS)
                for entry in of_method(entries, method)
                for run in entry.cell.runs.values()
            )
            first = shown.setdefault(keys, name)
            before = of_method(compare_chosen(planned(name, groups)).entries, THEIRS)
            cells = [
                f"[{name}]({name}){f' {MARK}' if note(name) else ''}"
                + (f" (the runs of {first})" if first != name else "")
                + (f": {arm}" if len(arms) > 1 else "")
                + (", on new seeds" if all(entry.is_anew for entry in theirs) else ""),
                str(len(study.runs)),
                *accuracies,
                difference(theirs),
                difference(theirs, "validation"),
                difference(before) if note(name) else "all was planned",
                seen(groups, theirs),
            ]
            rows.append(cells)
        if name == "preset":
            rows.append(primary_of_preset(study, whole))
    below = (
        f"{MARK} Exploratory: learning rates, seeds or networks were added after a look at the others; each "
        "study's page marks them." + (f" In {', '.join(without_images)}: {LACKING}" if without_images else "")
    )
    return rows, below


def without(groups: StudyGroups, arms: Sequence[str]) -> StudyGroups:
    """What is left where some arms, by their labels, are not looked at."""
    left = (
        dataclasses.replace(group, sweeps=tuple(one for one in group.sweeps if one.label not in arms))
        for group in groups.groups
    )
    return dataclasses.replace(groups, groups=tuple(left))


def primary_of_preset(study: Study, groups: StudyGroups) -> Sequence[str]:
    """The row of what preset decides: turning, of which nothing is tuned, in the place of WRS."""
    anew, chose = turning_minus_decay(groups)
    entries = anew.entries
    means = [
        sum(cell.final_test.mean for cell in cells if cell and cell.final_test) / len(entries)
        for cells in ([one.cell for one in entries], [one.reference for one in entries])
    ]
    return (
        "[preset](preset): turning as it comes, in the place of WRS, on new seeds",
        str(len(study.runs)),
        "–",
        *(percent(mean, 2) for mean in means),
        f"{told(anew.test.primary.difference)}, {anew.test.n_groups} groups",
        told(chose.validation.primary.difference) if chose and chose.validation else "–",
        "all was planned",
        f"{inferiority(anew)[0]} (margin {100 * MARGIN:g})",
    )


def of_method(entries: Sequence[Entry], name: str) -> list[Entry]:
    """Those of one method, by its name in the study's file, group by group."""
    return [entry for entry in entries if entry.sweep.name == name]


def mean_accuracy(entries: Sequence[Entry], method: str) -> str:
    """Mean test accuracy of a method over the groups in which every method has a result."""
    whole = [
        entry.group
        for entry in entries
        if all(other.cell.final_test for other in entries if other.group is entry.group)
    ]
    finals = [
        entry.cell.final_test for entry in entries if entry.sweep.name == method and entry.group in whole
    ]
    means = [final.mean for final in finals if final]
    return percent(sum(means) / len(means), 2) if means else "–"


def difference(entries: Sequence[Entry], part: Literal["test", "validation"] = "test") -> str:
    """Ours minus theirs with its interval, over seeds in one group, over groups like these in several."""
    contrast = contrast_of(entries)
    if contrast is not None:
        pooled = contrast.test if part == "test" else contrast.validation
        return f"{told(pooled and pooled.primary.difference)}, {contrast.test.n_groups} groups"
    judged = [entry for entry in entries if entry.judgement]
    if len(judged) != 1:
        return "–"
    return told(judged[0].difference if part == "test" else judged[0].validation_difference)


def told(found: Estimate | None) -> str:
    """−0.19 (−0.36 to −0.02), in points."""
    if found is None:
        return "–"
    return signed_points(found.mean, 2) + (
        f" ({signed_interval(*found.interval, 2)})" if found.interval else ""
    )


def seen(groups: StudyGroups, theirs: Sequence[Entry]) -> str:
    """In how many groups ours is seen to be higher or lower, after correction for all comparisons."""
    judged = [entry for entry in theirs if entry.judgement]
    verdicts = [entry.judgement.verdict for entry in judged if entry.judgement]
    if len(verdicts) == 1:
        return verdicts[0] + support(judged[0])
    counts = {verdict: verdicts.count(verdict) for verdict in dict.fromkeys(verdicts)}
    what = ", ".join(groups.axes) or "setting"
    return ", ".join(f"{verdict} with {n} of {len(verdicts)}" for verdict, n in counts.items()) + f" ({what})"


def support(entry: Entry) -> str:
    """The power beside what is not seen, the exact p beside what is."""
    exact, detectable = exact_p(entry), entry.judgement and entry.judgement.detectable
    if entry.judgement and entry.judgement.verdict in ("higher", "lower") and exact is not None:
        return f" (exact sign-flip p = {p_value(exact)})"
    return f" ({percent(POWER, 0)} power: {points(detectable, 2)})" if detectable else ""


if __name__ == "__main__":
    main()
