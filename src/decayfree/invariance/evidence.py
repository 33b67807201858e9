"""What do the probes say of one parameter?

Gathers its radial derivatives, along every dimension that its rows may have and with and without its bias,
and draws the conclusion. Runs no model and changes nothing: what it says, it returns.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from decayfree.invariance.partition import (
    Partition,
    Tolerance,
    partial_partition,
    partition,
    returns_within,
)
from decayfree.invariance.radial import RadialDerivatives, along_columns, along_rows, column_sums

_Key = tuple[bool, int, int]  # jointly with the bias?, axis, groups

# A row that could move the outputs by a million times their own size: either the model is deep and its
# gradients grow from layer to layer, or rounding was divided by a standard deviation of zero.
_SUSPICIOUS = 1e6

# The sum over all rows is this much smaller than by chance: something cancels it.
_CANCELLED = 1e-4
# Rounding to int8 makes what rows add up to 1 % of what they do apart, chance makes it so small in 2 %.
_NEARLY = 0.02

_PIECE = 1 << 20


@dataclass(frozen=True)
class Conclusion:
    """What all probes so far say of one parameter.

    Args:
        moves: Relative change of the outputs per relative growth of the parameter, largest over the probes.
            That of the rows where they together move the outputs less by chance.
        partition: Its blocks, of all rows or of some, or None where it is not scale-invariant or that is not
            known.
        is_joint: Whether the blocks are those of the weight together with its bias.
        is_mostly_silent: Whether its rows with a gradient do form blocks, but are less than half of all.
    """

    moves: float = 0.0
    partition: Partition | None = None
    is_joint: bool = False
    is_mostly_silent: bool = False


@dataclass(frozen=True)
class Evidence:
    """The radial derivatives of one parameter, probe by probe.

    Args:
        tolerance: What counts as zero and as evidence.
        output_rows: (axis, groups) along which the operation that uses it has its output channels: breaks
            ties.
        n_probes: How many probes gave it a gradient worth speaking of.
        by_key: What they say, for each way to divide it into rows that was tried.
        is_suspicious: Whether a probe gave it a gradient as large as rounding divided by nothing.
        is_stirred: Whether a probe gave it any gradient at all, if only one not worth speaking of.
    """

    tolerance: Tolerance
    output_rows: tuple[int, int] = (0, 1)
    n_probes: int = 0
    by_key: Mapping[_Key, tuple[RadialDerivatives, ...]] = field(default_factory=dict)
    is_suspicious: bool = False
    is_stirred: bool = False

    @property
    def is_silent(self) -> bool:
        """Whether no probe gave it a gradient worth speaking of."""
        return not self.n_probes

    @property
    def nearly_cancels(self) -> list[bool]:
        """Without the bias (False), with it (True): where growths of rows cancel but for a few percent."""
        return [
            is_joint
            for (is_joint, axis, _), probes in self.by_key.items()
            if axis == 0
            and all(
                float(probe.radial.sum().abs()) <= _NEARLY * float(torch.linalg.vector_norm(probe.radial))
                for probe in probes
            )
        ]

    def with_probe(
        self, weight: Tensor, gradient: Tensor, bias: Tensor | None, bias_gradient: Tensor | None
    ) -> "Evidence":
        """The evidence with one probe more.

        Args:
            weight: (*shape).
            gradient: (*shape).
            bias: (n_rows,), or None.
            bias_gradient: (n_rows,), or None where no output depends on the bias.
        """
        values, gradients = (part.reshape(-1, 1) if weight.ndim < 2 else part for part in (weight, gradient))
        rows = along_rows(values, gradients)
        is_stirred = self.is_stirred or bool(rows.gradient_sizes.any())
        if bool((rows.magnitude <= self.tolerance.evidence).all()):  # dropped out, this time or always
            return replace(self, is_stirred=is_stirred)
        added = {(False, 0, 1): rows}
        if bool((rows.radial.abs() > self.tolerance.zero * rows.magnitude + self.tolerance.floor).any()):
            if weight.ndim > 1 and self._is_zero_in_all(rows):
                added |= self._along_columns(values, gradients, rows)
            if bias is not None:
                slope = torch.zeros_like(bias) if bias_gradient is None else bias_gradient
                added |= self._joint(values, gradients, rows, bias, slope)
        by_key = {**self.by_key, **{key: (*self.by_key.get(key, ()), one) for key, one in added.items()}}
        is_suspicious = self.is_suspicious or float(rows.magnitude.max()) > _SUSPICIOUS
        return replace(
            self,
            n_probes=self.n_probes + 1,
            by_key=by_key,
            is_suspicious=is_suspicious,
            is_stirred=is_stirred,
        )

    def conclusion(self) -> Conclusion:
        """What all probes so far say."""
        if self.is_silent:
            return Conclusion()
        moves = self._moves()
        complete = {key: probes for key, probes in self.by_key.items() if len(probes) == self.n_probes}
        found = {key: partition(*key[1:], probes, self.tolerance) for key, probes in complete.items()}
        passed = {key: one for key, one in found.items() if one}

        def preference(key: _Key) -> tuple[bool, int, bool]:
            return not key[0], passed[key].blocks.n_blocks, key[1:] == self.output_rows

        best = max(passed, key=preference, default=None)
        if best is None:
            return self._of_some_rows(complete, Conclusion(moves))
        if passed[best].is_mostly_silent:
            return Conclusion(moves, is_mostly_silent=True)
        return Conclusion(moves, passed[best], is_joint=best[0])

    def _of_some_rows(
        self, complete: Mapping[_Key, Sequence[RadialDerivatives]], otherwise: Conclusion
    ) -> Conclusion:
        """The conclusion where not all rows lack a scale; rows of one number have only a sign."""
        found: dict[bool, Partition] = {}
        for is_joint in (False, True):
            probes = complete.get((is_joint, 0, 1), ())
            some = partial_partition(probes, self.tolerance) if probes and probes[0].length > 1 else None
            if some and not self._is_bent(probes, some.blocks.n_rows):
                found[is_joint] = some
        best = max(found, key=lambda is_joint: found[is_joint].blocks.n_rows, default=None)
        if best is None:
            return otherwise
        return Conclusion(otherwise.moves, found[best], is_joint=best)

    def _is_bent(self, probes: Sequence[RadialDerivatives], n_rows: int) -> bool:
        """Whether more rows than these lack a scale in one probe and not in another, as below a bend."""
        alone = [
            partition(0, 1, [probe], self.tolerance) or partial_partition([probe], self.tolerance)
            for probe in probes
        ]
        return any(one and one.blocks.n_rows > n_rows for one in alone)

    def _moves(self) -> float:
        """The largest change of the outputs, not made small by chance.

        The outputs see all rows together as one random number, which may be as small as it likes; what the
        rows do by themselves counts then. But next to nothing, beside what rows of such sizes would do, is no
        chance: something takes the scale away, if not quite.
        """
        probes = self.by_key[False, 0, 1]
        together = [abs(float(probe.radial.sum())) for probe in probes]
        if all(
            total < _CANCELLED * float(torch.linalg.vector_norm(probe.magnitude)) / probe.length**0.5
            for total, probe in zip(together, probes, strict=True)
        ):
            return max(together)
        return max(together + [float(torch.linalg.vector_norm(probe.radial)) for probe in probes])

    def _is_zero_in_all(self, rows: RadialDerivatives) -> bool:
        """Whether all rows together have no radial derivative: only then can those along other dimensions."""
        return (
            float(rows.radial.sum().abs())
            <= self.tolerance.zero * float(rows.magnitude.sum()) + self.tolerance.floor
        )

    def _may_be_zero_with(self, bias: Tensor, slope: Tensor, rows: RadialDerivatives) -> bool:
        """Whether all rows of some dimension may have no radial derivative together with a bias.

        Along whichever, the sum is the same, and magnitudes add up to at most ‖(w, b)‖‖(∂φ/∂w, ∂φ/∂b)‖. Twice
        what counts as zero leaves room for rounding.
        """
        values, slopes = bias.detach().double().cpu(), slope.double().cpu()
        norm = torch.linalg.vector_norm
        most = norm(rows.sizes).hypot(norm(values)) * norm(rows.gradient_sizes).hypot(norm(slopes))
        total = (rows.radial.sum() + values.dot(slopes)).abs()
        return float(total) <= 2 * (self.tolerance.zero * float(most) + self.tolerance.floor)

    def _along_columns(
        self, values: Tensor, gradients: Tensor, rows: RadialDerivatives
    ) -> dict[_Key, RadialDerivatives]:
        """Radial derivatives along dimension 1 for the groups whose cuts are more than those along the first.

        As many are enough for the rows that the outputs have.
        """
        spread = (rows.magnitude.square().sum() / rows.length).sqrt()
        within = float(returns_within(rows.radial.sum().abs(), spread, self.tolerance))
        n_along_rows = _n_returns(rows.radial, within)
        return {
            (False, 1, groups): along_columns(values, gradients, groups)
            for groups, sums in column_sums(values, gradients)
            if _n_returns(sums.flatten(), within) + ((1, groups) == self.output_rows) > n_along_rows
        }

    def _joint(
        self, values: Tensor, gradients: Tensor, rows: RadialDerivatives, bias: Tensor, slope: Tensor
    ) -> dict[_Key, RadialDerivatives]:
        """The radial derivatives of rows with their entries of a bias, along each axis that it fits."""
        found: dict[_Key, RadialDerivatives] = {}
        if len(bias) == len(values):
            found[True, 0, 1] = rows.joined(bias, slope)
        groups, rest = divmod(len(bias), values.shape[1])
        is_fitting = not rest and groups and len(values) % groups == 0
        if is_fitting and self._may_be_zero_with(bias, slope, rows):
            along = along_columns(values, gradients, groups).joined(bias, slope)
            if self._is_zero_in_all(along):
                found[True, 1, groups] = along
        return found


def _n_returns(radial: Tensor, within: float) -> int:
    """How often a running sum comes back to zero; in pieces, since rows may be as many as numbers."""
    n_returns, total = 0, torch.zeros((), dtype=radial.dtype, device=radial.device)
    for piece in radial.split(_PIECE):
        running = piece.cumsum(0) + total
        n_returns, total = n_returns + int((running.abs() <= within).sum()), running[-1]
    return n_returns


def bias_of(name: str, parameters: Mapping[str, Tensor]) -> str | None:
    """The weight's bias: its name with "bias" for "weight", else the only fitting vector in its module."""
    dotted = f".{name}"
    module, _, leaf = (
        dotted.partition(".parametrizations.") if ".parametrizations." in dotted else dotted.rpartition(".")
    )
    module, leaf = module.removeprefix("."), leaf.split(".")[0]
    weight = parameters[name]
    vectors = [
        other
        for other, value in parameters.items()
        if value.ndim == 1 and other != name and other.rpartition(".")[0] == module
    ]
    by_name = (f"{module}." if module else "") + leaf.replace("weight", "bias")
    if "weight" in leaf and by_name in vectors:
        return by_name
    fitting = [
        other for other in vectors if weight.ndim > 1 and parameters[other].numel() in weight.shape[:2]
    ]
    return fitting[0] if len(fitting) == 1 else None
