"""What do the probes say of one parameter?

Gathers its radial derivatives, along every dimension that its rows may have and with and without its bias,
and draws the conclusion. Runs no model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from decayfree.invariance.finding import Finding
from decayfree.invariance.partition import Tolerance, n_leading_rows, partition
from decayfree.invariance.probe import RadialDerivatives, radial_derivatives

_Key = tuple[bool, int, int]  # jointly with the bias?, axis, groups

# A row that could move the outputs by a million times their own size: rounding, divided by a standard
# deviation of zero.
_ABSURD = 1e6


class RoundingDecidesError(Exception):
    """Some normalization sees no variance but that of rounding, and blows it up.

    The copy wants a larger ε.
    """


@dataclass
class Evidence:
    """The radial derivatives of one parameter, probe by probe.

    Args:
        tolerance: What counts as zero and as evidence.
        output_rows: (axis, groups) along which the operation that uses it has its output channels: breaks
            ties.
        is_joint: Whether the last conclusion holds for the weight together with its bias.
    """

    tolerance: Tolerance
    output_rows: tuple[int, int] = (0, 1)
    is_joint: bool = False
    _by_key: dict[_Key, list[RadialDerivatives]] = field(default_factory=dict)
    _n_probes: int = 0

    @property
    def is_silent(self) -> bool:
        """Whether no probe gave it a gradient worth speaking of."""
        return not self._n_probes

    def add(
        self, weight: Tensor, gradient: Tensor, bias: Tensor | None, bias_gradient: Tensor | None
    ) -> None:
        """Take in one probe.

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
            return  # dropped out, this time or always: this probe says nothing of it
        self._n_probes += 1
        self._keep((False, 0, 1), rows)
        if bool((rows.radial.abs() <= self.tolerance.zero * rows.magnitude + self.tolerance.floor).all()):
            return
        if weight.ndim > 1 and self._is_zero_in_all(rows):
            for groups in _divisors(len(values)):
                self._keep((False, 1, groups), radial_derivatives(values, gradients, 1, groups))
        if bias is not None:
            self._add_joint(
                values,
                gradients,
                rows,
                bias,
                torch.zeros_like(bias) if bias_gradient is None else bias_gradient,
            )

    def conclude(self, finding: Finding) -> None:
        """Write what all probes so far say into ``finding``; not its bias nor its norm layers."""
        finding.is_silent = self.is_silent
        finding.partition, finding.is_mostly_silent = None, False
        if self.is_silent:
            return
        finding.moves = max(float(probe.radial.sum().abs()) for probe in self._by_key[False, 0, 1])
        found = {
            key: partition(*key[1:], probes, self.tolerance)
            for key, probes in self._by_key.items()
            if len(probes) == self._n_probes
        }
        passed = {key: one for key, one in found.items() if one}

        def preference(key: _Key) -> tuple[bool, int, bool]:
            return not key[0], passed[key].blocks.n_blocks, key[1:] == self.output_rows

        best = max(passed, key=preference, default=None)
        if best:
            finding.is_mostly_silent = passed[best].is_mostly_silent
            finding.partition = None if finding.is_mostly_silent else passed[best]
            self.is_joint = best[0]

    def leading_rows(self) -> tuple[int, int]:
        """(rows, blocks) at the start that are scale-invariant.

        The others may not be, as queries and keys before values are.
        """
        probes = self._by_key.get((True, 0, 1), self._by_key.get((False, 0, 1), []))
        return n_leading_rows(probes, self.tolerance) if probes and len(probes) == self._n_probes else (0, 0)

    def _add_joint(
        self, values: Tensor, gradients: Tensor, rows: RadialDerivatives, bias: Tensor, bias_gradient: Tensor
    ) -> None:
        if len(bias) == len(values):
            self._keep((True, 0, 1), rows.joined(bias, bias_gradient))
        groups, rest = divmod(len(bias), values.shape[1])
        if not rest and groups and len(values) % groups == 0:
            self._keep(
                (True, 1, groups),
                radial_derivatives(values, gradients, 1, groups).joined(bias, bias_gradient),
            )

    def _keep(self, key: _Key, derivatives: RadialDerivatives) -> None:
        self._by_key.setdefault(key, []).append(derivatives)

    def _is_zero_in_all(self, rows: RadialDerivatives) -> bool:
        """Whether all rows together have no radial derivative.

        Only then can they have none along other dimensions.
        """
        return (
            float(rows.radial.sum().abs())
            <= self.tolerance.zero * float(rows.magnitude.sum()) + self.tolerance.floor
        )


def bias_of(name: str, parameters: Mapping[str, Tensor]) -> str | None:
    """The bias that goes with a weight.

    The same name with "bias" for "weight", else the only fitting vector in its module.
    """
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
