"""What does a checkpoint say, and for which bytes of the files beside it does it vouch?

Writes none and puts nothing back; `checkpoint` does.
"""

import zipfile
from pathlib import Path
from typing import Any

import torch

from decayfree.study.files.integrity import ResultError, Seal


def unpickled(path: Path, *, mapped: bool = False) -> dict[str, Any]:
    """The state in a checkpoint, on the CPU; ``mapped``, its tensors stay on the disk until they are read.

    Raises:
        ResultError: If it is none, or would unpack to more than the file holds.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            n_bytes = sum(entry.file_size for entry in archive.infolist())
        if n_bytes > path.stat().st_size:
            raise ValueError(f"its parts have {n_bytes:,} bytes together, more than the file")
        state = torch.load(path, weights_only=True, map_location="cpu", mmap=mapped)
    except Exception as error:  # torch has no error of its own for a file that it cannot read
        raise ResultError(f"{path}: not a whole checkpoint ({error})") from error
    if not isinstance(state, dict):
        raise ResultError(f"{path}: not the checkpoint of a run, but a {type(state).__name__}")
    return state


def seals_in(state: dict[str, Any], directory: Path) -> dict[str, Seal]:
    """The seals that a checkpoint has of the files beside it; taken out of its state.

    Raises:
        ResultError: If they are none.
    """
    files = state.pop("files", {})
    try:
        return {str(name): Seal.from_dict(seal) for name, seal in dict(files).items()}
    except (TypeError, ValueError) as error:
        raise ResultError(f"{directory}: its checkpoint has no seals of its files ({error})") from error


def fault_of_unfinished(path: Path, checkpoint: Path) -> str | None:
    """What is wrong with a file that a run writes on, by the checkpoint beside it; None without one.

    A run that is at work writes on, and may begin anew, meanwhile: then its newer checkpoint is asked.
    """
    fault = None
    for _ in range(2):
        before = _time_of(checkpoint)
        if before is None:
            return None
        try:
            seal = seals_in(unpickled(checkpoint, mapped=True), path.parent).get(path.name)
            fault = None if seal is None else seal.fault(path)
        except ResultError as error:
            fault = str(error)
        if fault is None or _time_of(checkpoint) == before:
            return fault
    return fault


def _time_of(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None
