"""What a run keeps on disk while it trains: its record, its metrics, and all it needs to go on.

Every file is either appended a whole line at a time or written under another name and renamed, so that a process
killed anywhere leaves a run that can go on. Does not decide when to save.
"""

import json
import platform
from pathlib import Path
from typing import Any

import torch

import decayfree
from decayfree.study.results import SPECTRA_FILE, Row, RunState, Spectra, read_rows, row_to, spectra_to
from decayfree.study.spec import RunSettings


def save_checkpoint(directory: Path, state: dict[str, Any]) -> None:
    """Write ``last.pt``; it loads with ``weights_only=True``."""
    partial = directory / "last.pt.partial"
    torch.save(state, partial)
    partial.replace(directory / "last.pt")


def load_checkpoint(directory: Path) -> dict[str, Any] | None:
    """The state in ``last.pt``, or None where a run has not got that far."""
    path = directory / "last.pt"
    if not path.is_file():
        return None
    state: dict[str, Any] = torch.load(path, weights_only=True)
    return state


def append_row(directory: Path, row: Row) -> None:
    """Append to ``metrics.jsonl`` and flush."""
    with (directory / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write(row_to(row))


def keep_rows_until(directory: Path, step: int) -> None:
    """Drop the rows that a killed run wrote after its checkpoint at ``step``, and a line that was cut off.

    Raises:
        ResultError: If a row before that is damaged.
    """
    path = directory / "metrics.jsonl"
    rows = [row for row in read_rows(path, may_be_cut=True) if row.step <= step]
    _replace_text(path, "".join(map(row_to, rows)))


def write_spectra(directory: Path, spectra: Spectra) -> None:
    """Write ``spectra.json``."""
    _replace_text(directory / SPECTRA_FILE, spectra_to(spectra))


def write_record(
    directory: Path,
    settings: RunSettings,
    *,
    state: RunState,
    reason: str | None = None,
    elapsed_s: float = 0.0,
    first_layer: str = "",
) -> None:
    """Write ``run.json``."""
    directory.mkdir(parents=True, exist_ok=True)
    record = {
        "settings": settings.to_dict(),
        "label": settings.label,
        "versions": _versions(),
        "hardware": {"processor": _processor(), "n_threads": torch.get_num_threads()},
        "state": state,
        "reason": reason,
        "n_steps": settings.recipe.n_steps,
        "elapsed_s": round(elapsed_s, 3),
        "first_layer": first_layer,
    }
    _replace_text(directory / "run.json", json.dumps(record, indent=1) + "\n")


def read_state(directory: Path) -> RunState | None:
    """The state in ``run.json``; None where there is no readable record, so that the run begins anew."""
    state: RunState | None = _read_record(directory).get("state")
    return state


def read_reason(directory: Path) -> str | None:
    """Why the run failed or diverged."""
    reason: str | None = _read_record(directory).get("reason")
    return reason


def _read_record(directory: Path) -> dict[str, Any]:
    try:
        record = json.loads((directory / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _replace_text(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def _versions() -> dict[str, str]:
    return {
        "decayfree": decayfree.__version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
    }


def _processor() -> str:
    """The processor's name; Linux tells it only in a file."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
