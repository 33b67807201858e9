"""How is the second moment of a layer's inputs summed up without losing digits?

Chunk by chunk and worker by worker, in float64, around means that are merged exactly, never as a difference
of sums of squares. Knows no layers.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor

Centering = bool | Literal["overall"]
"""Around what samples are centered: each batch's own mean (True), the mean of all batches ("overall"), or
nothing (False).
"""

AROUND = {True: "around each batch's mean", "overall": "around the overall mean", False: "not centered"}
"""In words."""

# A product of so many columns runs at full speed, and half of the matrix need not be computed.
_COLUMNS_AT_ONCE = 256


class MomentSum:
    """Sum of the outer products of samples, one d×d matrix a group.

    Args:
        n_groups: Groups, which see other features.
        n_features: d.
        centered: Around what each sample is centered.
        device: Where the sums are kept.

    Attributes:
        n_samples: Samples so far.
        n_batches: Batches with a sample so far.
        mean: (groups, d), float64. Of all samples.

    Example:
        Two batches that differ in their mean only: within them nothing varies.

        >>> batches = [torch.zeros(1, 2, 1), torch.ones(1, 2, 1)]
        >>> for centered in (True, "overall", False):
        ...     moment = MomentSum(1, 1, centered)
        ...     for batch in batches:
        ...         moment.add_batch_([batch])
        ...     print(moment.average().item())
        0.0
        0.25
        0.5
    """

    def __init__(
        self, n_groups: int, n_features: int, centered: Centering, *, device: torch.device | str | None = None
    ) -> None:
        self.centered = centered
        self.n_samples = 0
        self.n_batches = 0
        self.mean = torch.zeros(n_groups, n_features, dtype=torch.float64, device=device)
        # Only what lies right of the diagonal's blocks is kept up to date.
        self._sum = torch.zeros(n_groups, n_features, n_features, dtype=torch.float64, device=device)

    def add_batch_(self, chunks: Iterable[Tensor]) -> None:
        """Add one batch, given in parts.

        Args:
            chunks: Each (groups, n_samples, d). Not changed.
        """
        n_batch, batch_mean = 0, torch.zeros_like(self.mean)
        for chunk in chunks:
            chunk = chunk.to(self.mean)
            n_chunk = chunk.shape[1]
            if n_chunk == 0:
                continue
            chunk_mean = chunk.mean(dim=1)
            self._add_products_(chunk if self.centered is False else chunk - chunk_mean[:, None])
            if self.centered is True:
                self._add_between_(batch_mean, n_batch, chunk_mean, n_chunk)
            elif self.centered == "overall":
                self._add_between_(self.mean, self.n_samples, chunk_mean, n_chunk)
            n_batch, batch_mean = _merged_mean(n_batch, batch_mean, n_chunk, chunk_mean)
            self.n_samples, self.mean = _merged_mean(self.n_samples, self.mean, n_chunk, chunk_mean)
        self.n_batches += n_batch > 0

    def merge_(self, other: "MomentSum") -> None:
        """Add what another one has seen, in batches of its own."""
        mean = other.mean.to(self.mean)
        self._sum += other._sum.to(self._sum)
        if self.centered == "overall" and other.n_samples:
            self._add_between_(self.mean, self.n_samples, mean, other.n_samples)
        self.n_samples, self.mean = _merged_mean(self.n_samples, self.mean, other.n_samples, mean)
        self.n_batches += other.n_batches

    def average(self) -> Tensor:
        """(groups, d, d), float64, symmetric: the sum over the number of samples, at least one."""
        upper = self._sum.triu() / self.n_samples
        return upper + upper.triu(diagonal=1).transpose(1, 2)

    def state_dict(self) -> dict[str, Any]:
        """Everything but ``centered``, in numbers and tensors of its own."""
        return {
            "n_samples": self.n_samples,
            "n_batches": self.n_batches,
            "mean": self.mean.clone(),
            "sum": self._sum.triu(),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any], centered: Centering) -> "MomentSum":
        """What :meth:`state_dict` described."""
        mean = state["mean"]
        n_groups, n_features = mean.shape
        moment = cls(n_groups, n_features, centered, device=mean.device)
        moment.n_samples, moment.n_batches = state["n_samples"], state["n_batches"]
        moment.mean.copy_(mean)
        moment._sum.copy_(state["sum"])
        return moment

    def _add_products_(self, chunk: Tensor) -> None:
        for start in range(0, chunk.shape[2], _COLUMNS_AT_ONCE):
            columns = chunk[:, :, start : start + _COLUMNS_AT_ONCE]
            self._sum[:, start : start + _COLUMNS_AT_ONCE, start:].baddbmm_(
                columns.transpose(1, 2), chunk[:, :, start:]
            )

    def _add_between_(self, mean: Tensor, n_samples: int, other: Tensor, n_other: int) -> None:
        """What two sets of samples vary by around their common mean beyond what each does around its own."""
        if n_samples:
            difference = other - mean
            weight = n_samples * n_other / (n_samples + n_other)
            self._sum.baddbmm_(difference[:, :, None], difference[:, None, :], alpha=weight)


def _merged_mean(n: int, mean: Tensor, n_other: int, other: Tensor) -> tuple[int, Tensor]:
    """Number and mean of two sets of samples together.

    References:
        Chan, Golub, LeVeque, "Updating Formulae and a Pairwise Algorithm for Computing Sample
        Variances", 1979.
    """
    total = n + n_other
    return total, mean + (other - mean) * (n_other / max(total, 1))


def state_fault(state: object) -> str | None:
    """What is wrong with what should be a `MomentSum.state_dict`."""
    if not isinstance(state, Mapping) or not {"n_samples", "n_batches", "mean", "sum"} <= state.keys():
        return "its moment has no n_samples, n_batches, mean or sum"
    mean, total = state["mean"], state["sum"]
    if not (isinstance(mean, Tensor) and isinstance(total, Tensor) and mean.ndim == 2):
        return "its mean and sum must be tensors"
    if tuple(total.shape) != (*mean.shape, mean.shape[1]):
        return f"its sum is {tuple(total.shape)} beside a mean of {tuple(mean.shape)}"
    counts = state["n_samples"], state["n_batches"]
    is_count = all(type(count) is int and count >= 0 for count in counts)
    return None if is_count else f"its counts must be whole numbers from 0, got {counts}"
