"""What do the probes say of one parameter?

Gathers its radial derivatives, along every dimension that its rows may have and with and without its bias,
and draws the conclusion. Runs no model and changes nothing: what it says, it returns.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from decayfree.invariance.partition import Partition, Tolerance, n_leading_rows, partition
from decayfree.invariance.radial import RadialDerivatives, radial_derivatives

_Key = tuple[bool, int, int]  # jointly with the bias?, axis, groups

# A row that could move the outputs by a million times their own size: rounding, divided by a standard
# deviation of zero.
_ABSURD = 1e6


class RoundingDecidesError(Exception):
    """Some normalization sees only the variance of rounding and blows it up: the copy wants a larger ε."""


@dataclass(frozen=True)
class Conclusion:
    """What all probes so far say of one parameter.

    Args:
        moves: Relative change of the outputs per relative growth of the whole parameter, largest over the
            probes.
        partition: Its blocks, or None where it is not scale-invariant or that is not known.
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
    """

    tolerance: Tolerance
    output_rows: tuple[int, int] = (0, 1)
    n_probes: int = 0
    by_key: Mapping[_Key, tuple[RadialDerivatives, ...]] = field(default_factory=dict)

    @property
    def is_silent(self) -> bool:
        """Whether no probe gave it a gradient worth speaking of."""
        return not self.n_probes

    def with_probe(
        self, weight: Tensor, gradient: Tensor, bias: Tensor | None, bias_gradient: Tensor | None
    ) -> "Evidence":
        """The evidence with one probe more.

        Args:
            weight: (*shape).
            gradient: (*shape).
            bias: (n_rows,), or None.
            bias_gradient: (n_rows,), or None where no output depends on the bias.

        Raises:
            RoundingDecidesError: If the gradient is absurdly large.
        """
        values, gradients = (part.reshape(-1, 1) if weight.ndim < 2 else part for part in (weight, gradient))
        rows = radial_derivatives(values, gradients, 0, 1)
        if float(rows.magnitude.max()) > _ABSURD:
            raise RoundingDecidesError
        if bool((rows.magnitude <= self.tolerance.evidence).all()):
            return self  # dropped out, this time or always: this probe says nothing of it
        added = {(False, 0, 1): rows}
        if bool((rows.radial.abs() > self.tolerance.zero * rows.magnitude + self.tolerance.floor).any()):
            if weight.ndim > 1 and self._is_zero_in_all(rows):
                for groups in _divisors(len(values)):
                    added[False, 1, groups] = radial_derivatives(values, gradients, 1, groups)
            if bias is not None:
                slope = torch.zeros_like(bias) if bias_gradient is None else bias_gradient
                added |= _joint(values, gradients, rows, bias, slope)
        by_key = {**self.by_key, **{key: (*self.by_key.get(key, ()), one) for key, one in added.items()}}
        return replace(self, n_probes=self.n_probes + 1, by_key=by_key)

    def conclusion(self) -> Conclusion:
        """What all probes so far say."""
        if self.is_silent:
            return Conclusion()
        moves = max(float(probe.radial.sum().abs()) for probe in self.by_key[False, 0, 1])
        found = {
            key: partition(*key[1:], probes, self.tolerance)
            for key, probes in self.by_key.items()
            if len(probes) == self.n_probes
        }
        passed = {key: one for key, one in found.items() if one}

        def preference(key: _Key) -> tuple[bool, int, bool]:
            return not key[0], passed[key].blocks.n_blocks, key[1:] == self.output_rows

        best = max(passed, key=preference, default=None)
        if best is None:
            return Conclusion(moves)
        if passed[best].is_mostly_silent:
            return Conclusion(moves, is_mostly_silent=True)
        return Conclusion(moves, passed[best], is_joint=best[0])

    def leading_rows(self) -> tuple[int, int]:
        """(rows, blocks) at the start that are scale-invariant, as queries and keys before values are."""
        probes = self.by_key.get((True, 0, 1), self.by_key.get((False, 0, 1), ()))
        return n_leading_rows(probes, self.tolerance) if probes and len(probes) == self.n_probes else (0, 0)

    def _is_zero_in_all(self, rows: RadialDerivatives) -> bool:
        """Whether all rows together have no radial derivative: only then can those along other dimensions."""
        return (
            float(rows.radial.sum().abs())
            <= self.tolerance.zero * float(rows.magnitude.sum()) + self.tolerance.floor
        )


def _joint(
    values: Tensor, gradients: Tensor, rows: RadialDerivatives, bias: Tensor, bias_gradient: Tensor
) -> dict[_Key, RadialDerivatives]:
    """The radial derivatives of rows together with their entries of a bias, along each axis that it fits."""
    found: dict[_Key, RadialDerivatives] = {}
    if len(bias) == len(values):
        found[True, 0, 1] = rows.joined(bias, bias_gradient)
    groups, rest = divmod(len(bias), values.shape[1])
    if not rest and groups and len(values) % groups == 0:
        along = radial_derivatives(values, gradients, 1, groups)
        found[True, 1, groups] = along.joined(bias, bias_gradient)
    return found


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


def _divisors(number: int) -> Sequence[int]:
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]
