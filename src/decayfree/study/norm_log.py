"""The norms of all blocks before every step of a run, in a file that another run can replay.

Holds plain float32 numbers, a row a step, blocks in the order of the found weights; does not say what they mean.
"""

from pathlib import Path

import torch
from torch import Tensor

from decayfree.blocks import block_norms
from decayfree.errors import MismatchError
from decayfree.invariance import Invariance

FILE_NAME = "norms.f32"


class NormLog:
    """Collects rows while a run trains; `flush` before a checkpoint, so that the file never lags behind it."""

    def __init__(self, path: Path, found: Invariance, *, n_rows: int) -> None:
        """Begin, or go on after ``n_rows`` rows; what a killed run wrote after its checkpoint is cut off."""
        self._found = found
        self._parameters = dict(found.model.named_parameters())
        self._rows: list[Tensor] = []
        self._path = path
        path.touch()
        with path.open("r+b") as file:
            file.truncate(n_rows * _n_columns(found) * 4)

    @torch.no_grad()
    def record(self) -> None:
        norms = [
            block_norms(
                self._parameters[weight.name],
                weight.blocks,
                None if weight.bias is None else self._parameters[weight.bias],
            )
            for weight in self._found
        ]
        if norms:
            self._rows.append(torch.cat(norms).float())

    def flush(self) -> None:
        with self._path.open("ab") as file:
            for row in self._rows:
                file.write(row.numpy().tobytes())
        self._rows.clear()


def has_rows(path: Path, found: Invariance, *, n_rows: int) -> bool:
    """Whether the log holds at least ``n_rows`` rows."""
    return n_rows == 0 or (path.is_file() and path.stat().st_size >= n_rows * _n_columns(found) * 4)


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
    n_columns = _n_columns(found)
    content = path.read_bytes() if path.is_file() else b""
    if len(content) != n_steps * n_columns * 4:
        raise MismatchError(
            f"{path} holds {len(content)} bytes, expected {n_steps} steps of {n_columns} norms of 4 bytes each"
        )
    values = torch.frombuffer(bytearray(content), dtype=torch.float32) if content else torch.empty(0)
    columns = torch.split(
        values.view(n_steps, n_columns), [weight.blocks.n_blocks for weight in found], dim=1
    )
    return {weight.name: norms for weight, norms in zip(found, columns, strict=True)}


def _n_columns(found: Invariance) -> int:
    return sum(weight.blocks.n_blocks for weight in found)
