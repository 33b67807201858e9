"""The norms of all blocks before every step of a run, in a file that another run can replay.

Holds plain float32 numbers, a row a step, blocks in the order of the found weights; does not say what they
mean.
"""

from pathlib import Path

import torch
from torch import Tensor

from decayfree.errors import MismatchError
from decayfree.invariance.result import Invariance
from decayfree.study.files.integrity import GrowingFile
from decayfree.study.files.results import NORMS_FILE

FILE_NAME = NORMS_FILE


class NormLog:
    """Collects rows while a run trains; `flush` before a checkpoint, so that the file is never behind it."""

    def __init__(self, file: GrowingFile, found: Invariance) -> None:
        self._found, self._file = found, file
        self._parameters = dict(found.model.named_parameters())
        self._rows: list[Tensor] = []

    @torch.no_grad()
    def record(self) -> None:
        """Take the norms of all blocks as they are now."""
        norms = [weight.part(self._parameters).norms() for weight in self._found]
        if norms:
            self._rows.append(torch.cat(norms).float())

    def flush(self) -> None:
        """Write what was taken since the last time."""
        self._file.append(b"".join(row.cpu().numpy().tobytes() for row in self._rows))
        self._rows.clear()


def read_norms(path: Path, found: Invariance, *, n_steps: int) -> dict[str, Tensor]:
    """Read the log of a finished run.

    Args:
        path: The file.
        found: The weights of the run that replays it; the same network.
        n_steps: How many rows there must be.

    Returns:
        Weight name -> (n_steps, n_blocks), float32, in units of the weight.

    Raises:
        MismatchError: If the file has not so many rows of so many blocks.
    """
    n_columns = sum(weight.blocks.n_blocks for weight in found)
    n_bytes = path.stat().st_size if path.is_file() else 0
    if n_bytes != n_steps * n_columns * 4:
        raise MismatchError(
            f"{path} holds {n_bytes} bytes, expected {n_steps} steps of {n_columns} norms of 4 bytes each"
        )
    content = path.read_bytes() if n_bytes else b""
    values = torch.frombuffer(bytearray(content), dtype=torch.float32) if content else torch.empty(0)
    columns = torch.split(
        values.view(n_steps, n_columns), [weight.blocks.n_blocks for weight in found], dim=1
    )
    return {weight.name: norms for weight, norms in zip(found, columns, strict=True)}
