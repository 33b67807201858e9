"""What a finished study shows in the terminal, within 80 columns.

Commands, progress and interruptions are tested in test_study.py and test_app.py.
"""

import io
from pathlib import Path

from rich.console import Console

from decayfree.cli.study_progress import _comparisons
from decayfree.methods import (
    Hyperball,
    NoTreatment,
    RotationalEquilibrium,
    WeightDecay,
    WeightStandardization,
)
from decayfree.report.numbers.groups import study_groups
from decayfree.study import Axis, StudySpec, read_study
from support.synthetic_study import Writer, axes_spec, bumpy

LONG_NAMES = (
    NoTreatment(),
    WeightDecay(1e-3),
    WeightDecay(1e-2),
    WeightStandardization(),
    Hyperball(),
    RotationalEquilibrium(1e-2),
)
RATES = Axis("learning_rate", (0.03, 0.1))


def printed(out: Path, spec: StudySpec, width: int = 80) -> list[str]:
    Writer(out, spec=spec, final_of=bumpy, n_intervals=2).write()
    file = io.StringIO()
    Console(width=width, file=file).print(_comparisons(study_groups(read_study(out)), None))
    return file.getvalue().splitlines()


def test_a_table_fits_with_no_word_cut_off(tmp_path: Path) -> None:
    lines = printed(tmp_path, axes_spec(n_seeds=3, axes=(RATES,), methods=LONG_NAMES))
    assert max(map(len, lines)) <= 80
    assert "…" not in "".join(lines)
    assert lines[1].split() == ["weight"]
    assert lines[2].split() == ["weight", "decay", "decay"]
    assert lines[3].split() == ["Method", "Setting", "Accuracy", "n", "minus", "is"]
    assert "standardization" in " ".join(lines)


def test_what_is_seen_is_said_in_a_word_and_after_which_correction(tmp_path: Path) -> None:
    lines = printed(tmp_path, axes_spec(n_seeds=3, axes=(RATES,), methods=LONG_NAMES), width=120)
    seen = [line.split()[-1] for line in lines if "\N{NO-BREAK SPACE}%" in line]
    assert len(seen) == 5
    assert seen.count("reference") == 1
    assert set(seen) <= {"reference", "seen", "higher", "lower"}
    said = "Seen after Holm's correction for 4 comparisons; the intervals are not corrected."
    assert lines[-1].strip() == said


def test_one_comparison_needs_no_correction(tmp_path: Path) -> None:
    spec = axes_spec(n_seeds=3, axes=(RATES,), methods=LONG_NAMES[:2])
    lines = printed(tmp_path, spec)
    assert " ".join(lines).count("reference") == 1
    assert "Holm" not in " ".join(lines)
