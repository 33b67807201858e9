"""How is a verdict on every parameter reached?

Runs the probes, cuts the rows into blocks, confirms all blocks at once by finite scaling, and looks up which normalizations cancel them.
Gives figures, not words: invariance.py says what they mean.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from decayfree.blocks import Blocks, scale_blocks_
from decayfree.cancelling import ModuleWatch, output_rows, reversed_graph
from decayfree.errors import InvalidInputError
from decayfree.partition import TOLERANCES, Partition, Tolerance, n_leading_rows, partition
from decayfree.probe import Forward, Probe, RadialDerivatives, movement, radial_derivatives
from decayfree.running import UNKNOWN_SHIFT, NormLayer, Statistics, followers, read_statistics, statistics_buffers, tracked_modules

_Key = tuple[bool, int, int]  # jointly with the bias?, axis, groups

# A row that could move the outputs by a million times their own size: rounding, divided by a standard deviation of zero.
_ABSURD = 1e6


@dataclass
class Finding:
    """What was measured on one parameter.

    Args:
        shape: Of the parameter.
        has_path: Whether any output depends on it at all.
        is_silent: Whether no probe gave it a gradient worth speaking of.
        is_mostly_silent: Whether its rows with a gradient do form blocks, but are less than half of all.
        moves: Relative change of the outputs per relative growth of the whole parameter, largest over the probes; for a candidate that
            failed the confirmation, the movement seen there.
        leading: (rows, blocks) at its start that are scale-invariant where the whole is not.
        bias: Its bias, if they only work together.
        partition: Its blocks, or None where it is not scale-invariant.
        failed_finite: Whether it passed the probes and then moved the outputs when really scaled.
        norm_layers: What cancels its scale.
    """

    shape: tuple[int, ...]
    has_path: bool = False
    is_silent: bool = True
    is_mostly_silent: bool = False
    moves: float = 0.0
    leading: tuple[int, int] = (0, 0)
    bias: str | None = None
    partition: Partition | None = None
    failed_finite: bool = False
    norm_layers: tuple[NormLayer, ...] = ()


@dataclass
class SearchResult:
    """All findings, by parameter name, and the largest movement of the outputs in the confirming run."""

    findings: dict[str, Finding]
    confirmed_to: float


@dataclass
class _Evidence:
    """What the probes gathered on one parameter."""

    by_key: dict[_Key, list[RadialDerivatives]] = field(default_factory=dict)
    n_probes: int = 0

    def complete(self) -> Iterable[tuple[_Key, list[RadialDerivatives]]]:
        return ((key, probes) for key, probes in self.by_key.items() if len(probes) == self.n_probes)


def search(model: nn.Module, inputs: Any, forward: Forward | None, dtype: torch.dtype, n_probes: int, seed: int) -> SearchResult:
    """Measure every parameter.

    Args:
        model: Copied, never changed.
        inputs: As for :func:`decayfree.find_invariant`.
        forward: As for :func:`decayfree.find_invariant`.
        dtype: float64 or float32.
        n_probes: At most so many forward and backward passes; two are enough where they gave every matrix row a gradient.
        seed: Seeds everything.

    Raises:
        InvalidInputError: If the outputs are not finite, or depend on no parameter.
    """
    with torch.inference_mode(False), torch.enable_grad():
        try:
            return _Search(Probe(model, inputs, forward, dtype, seed), TOLERANCES[dtype], n_probes).result()
        except _RoundingDecides:
            eps = 1e-12 if dtype == torch.float64 else 1e-6
            return _Search(Probe(model, inputs, forward, dtype, seed, eps), TOLERANCES[dtype], n_probes).result()


class _RoundingDecides(Exception):
    """Some normalization sees no variance but that of rounding, and blows it up: the copy wants a larger ε."""


class _Search:
    def __init__(self, probe: Probe, tolerance: Tolerance, n_probes: int) -> None:
        self._probe = probe
        self._tolerance = tolerance
        self._n_probes = n_probes
        self._watch = ModuleWatch(probe.copy)
        self._tracked: list[str] = []
        self._batch_weights: dict[str, float] = {}
        self._output_rows: dict[str, tuple[int, int]] = {}
        self._biases = {name: bias_of(name, probe.parameters) for name in probe.parameters}
        self._evidence = {name: _Evidence() for name in probe.parameters}
        self._findings = {name: Finding(tuple(parameter.shape)) for name, parameter in probe.parameters.items()}

    def result(self) -> SearchResult:
        outputs = self._gather()
        before = self._read_baseline()
        for name, finding in self._findings.items():
            self._conclude(name, finding, self._evidence[name])
        confirmed_to = self._confirm(outputs)
        self._find_norm_layers(before, outputs)
        if self._join_biases():
            confirmed_to = self._confirm(outputs)
            self._find_norm_layers(before, outputs)
        return SearchResult(self._findings, confirmed_to)

    # Probes

    def _gather(self) -> list[Tensor]:
        """Run the probes; the outputs of the last one, with all tracked statistics started from zero."""
        for index in range(self._n_probes):
            self._probe.perturb_()
            outputs = self._watched_run()
            if index == 0:
                _check_finite(outputs)
                self._tracked = self._changed_statistics()
                self._batch_weights = dict.fromkeys(self._tracked, 1.0)
                self._output_rows = self._rows_from_graph(outputs)
                if self._tracked and self._n_probes == 1:
                    outputs = self._watched_run()
            self._probe.backward(outputs)
            self._record()
            if index and not self._wants_more():
                break
        for parameter in self._probe.copy.parameters():
            parameter.grad = None
        return outputs

    def _watched_run(self) -> list[Tensor]:
        with self._watch.first_run():
            return self._probe.run(start=dict.fromkeys(statistics_buffers(self._tracked), 0.0))

    def _changed_statistics(self) -> list[str]:
        buffers = self._probe.buffers
        return [
            name
            for name in tracked_modules(self._probe.copy)
            if any(not torch.equal(buffers[leaf], self._probe.start_of(leaf)) for leaf in statistics_buffers([name]))
        ]

    def _read_baseline(self) -> dict[str, Statistics]:
        """Statistics of the last probe. Modules that average by themselves run once more, from one instead of zero, to learn their momentum."""
        raw = read_statistics(self._probe.copy, self._batch_weights)
        modules = dict(self._probe.copy.named_modules())
        averaging = [name for name in self._tracked if not self._probe.holds_last_batch(modules[name])]
        if averaging:
            with torch.no_grad():
                self._probe.run(start=dict.fromkeys(statistics_buffers(averaging), 1.0))
            from_one = read_statistics(self._probe.copy, dict.fromkeys(averaging, 1.0))
            for name in averaging:
                kept = float((from_one[name].mean - raw[name].mean).median())
                self._batch_weights[name] = 1.0 - kept if kept < 1.0 else 1.0
        return {
            name: Statistics(one.mean / self._batch_weights[name], one.var / self._batch_weights[name]) for name, one in raw.items()
        }

    def _rows_from_graph(self, outputs: list[Tensor]) -> dict[str, tuple[int, int]]:
        consumers, leaves = reversed_graph(outputs)
        return {name: output_rows(leaves.get(id(parameter)), consumers) for name, parameter in self._probe.parameters.items()}

    @torch.no_grad()
    def _record(self) -> None:
        parameters = self._probe.parameters
        for name, parameter in parameters.items():
            evidence, finding = self._evidence[name], self._findings[name]
            finding.has_path |= parameter.grad is not None
            if parameter.is_complex() or parameter.grad is None or not parameter.numel():
                continue
            bias = parameters.get(self._biases[name] or "")
            self._record_one(evidence, parameter, bias)

    def _record_one(self, evidence: _Evidence, weight: nn.Parameter, bias: nn.Parameter | None) -> None:
        assert weight.grad is not None
        values = weight.reshape(-1, 1) if weight.ndim < 2 else weight
        gradient = weight.grad.reshape(values.shape)
        rows = radial_derivatives(values, gradient, 0, 1)
        if float(rows.magnitude.max()) > _ABSURD:
            raise _RoundingDecides
        if bool((rows.magnitude <= self._tolerance.evidence).all()):
            return  # dropped out, this time or always: this probe says nothing of it
        evidence.n_probes += 1

        def add(joint: bool, axis: int, groups: int, derivatives: RadialDerivatives) -> None:
            if joint:
                assert bias is not None
                derivatives = derivatives.joined(bias, torch.zeros_like(bias) if bias.grad is None else bias.grad)
            evidence.by_key.setdefault((joint, axis, groups), []).append(derivatives)

        add(False, 0, 1, rows)
        if self._are_zero(rows):
            return
        if bias is not None and len(bias) == len(values):
            add(True, 0, 1, rows)
        if weight.ndim < 2:
            return
        if self._is_zero_in_all(rows):
            for groups in _divisors(len(values)):
                add(False, 1, groups, radial_derivatives(values, gradient, 1, groups))
        if bias is not None and len(bias) % values.shape[1] == 0 and len(values) % (len(bias) // values.shape[1]) == 0:
            groups = len(bias) // values.shape[1]
            add(True, 1, groups, radial_derivatives(values, gradient, 1, groups))

    def _are_zero(self, derivatives: RadialDerivatives) -> bool:
        return bool((derivatives.radial.abs() <= self._tolerance.zero * derivatives.magnitude + self._tolerance.floor).all())

    def _is_zero_in_all(self, derivatives: RadialDerivatives) -> bool:
        """Whether all rows together have no radial derivative: only then can they have one along other dimensions."""
        total = float(derivatives.radial.sum().abs())
        return total <= self._tolerance.zero * float(derivatives.magnitude.sum()) + self._tolerance.floor

    def _wants_more(self) -> bool:
        """Whether some row of a matrix got no gradient so far."""
        for evidence, finding in zip(self._evidence.values(), self._findings.values(), strict=True):
            if len(finding.shape) < 2 or not finding.has_path:
                continue
            magnitudes = [probe.magnitude for probe in evidence.by_key.get((False, 0, 1), [])]
            if not magnitudes or bool((torch.stack(magnitudes) <= self._tolerance.evidence).all(dim=0).any()):
                return True
        return False

    # Conclusions

    def _conclude(self, name: str, finding: Finding, evidence: _Evidence) -> None:
        alone = evidence.by_key.get((False, 0, 1))
        if not alone:
            return
        finding.is_silent = False
        finding.moves = max(float(probe.radial.sum().abs()) for probe in alone)
        candidates = {key: partition(*key[1:], probes, self._tolerance) for key, probes in evidence.complete()}
        passed = {key: found for key, found in candidates.items() if found and not found.is_mostly_silent}
        finding.is_mostly_silent = not passed and any(candidates.values())
        if not passed:
            probes = evidence.by_key.get((True, 0, 1), alone)
            finding.leading = n_leading_rows(probes, self._tolerance) if len(probes) == evidence.n_probes else (0, 0)
            return

        def preference(key: _Key) -> tuple[bool, int, bool]:
            return not key[0], passed[key].blocks.n_blocks, key[1:] == self._output_rows[name]

        best = max(passed, key=preference)
        finding.partition = passed[best]
        finding.bias = self._biases[name] if best[0] or (len(finding.shape) < 2 and self._has_silent_bias(name)) else None

    def _has_silent_bias(self, name: str) -> bool:
        """Whether its bias reaches no output, so that it may be scaled along or not: a normalization takes it away."""
        bias = self._biases[name]
        return bias is not None and not self._evidence[bias].by_key and self._probe.parameters[bias].numel() == self._n_rows(name)

    def _n_rows(self, name: str) -> int:
        found = self._findings[name].partition
        return found.blocks.n_rows if found else self._findings[name].shape[0]

    def _join_biases(self) -> bool:
        """Scale a bias along where, left behind, it would shift a running mean by what no parameter tells."""
        joined = False
        for name, finding in self._findings.items():
            unclear = any(layer.blocks and layer.shift == UNKNOWN_SHIFT for layer in finding.norm_layers)
            if unclear and finding.bias is None and self._has_silent_bias(name):
                finding.bias, joined = self._biases[name], True
        return joined

    def _confirm(self, outputs: list[Tensor]) -> float:
        """Scale all candidates at once; those that move the outputs are none. Leaves the statistics of the last passing run."""
        candidates = [name for name, finding in self._findings.items() if finding.partition]
        moved = self._movement_of(candidates, outputs)
        if moved <= self._tolerance.confirm:
            return moved
        for name in self._culprits(candidates, outputs):
            finding = self._findings[name]
            finding.moves, finding.partition, finding.failed_finite = self._movement_of([name], outputs), None, True
        return self._movement_of([name for name in candidates if self._findings[name].partition], outputs)

    def _culprits(self, names: list[str], outputs: list[Tensor]) -> list[str]:
        if not names or self._movement_of(names, outputs) <= self._tolerance.confirm:
            return []
        if len(names) == 1:
            return names
        middle = len(names) // 2
        return self._culprits(names[:middle], outputs) + self._culprits(names[middle:], outputs)

    def _movement_of(self, names: list[str], outputs: list[Tensor]) -> float:
        if not names:
            return 0.0
        factors = {name: self._factors(name) for name in names}
        with torch.no_grad(), self._watch.second_run():
            return movement(outputs, self._run_scaled(factors))

    def _factors(self, name: str) -> Tensor:
        """Random factors over four decades. Gains are only doubled, so that running.py can tell them from weights, whose log2 is no integer."""
        found = self._findings[name].partition
        assert found is not None
        n_blocks = found.blocks.n_blocks
        if len(self._findings[name].shape) < 2:
            return torch.full((n_blocks,), 2.0, dtype=torch.float64)
        generator = torch.Generator().manual_seed(self._probe.seed + list(self._findings).index(name))
        fraction = torch.rand(n_blocks, generator=generator, dtype=torch.float64) * 0.9 + 0.05
        least = -6 if self._probe.eps < 1e-20 else 0  # a larger ε shows where a block is small
        return (fraction + torch.randint(least, 7, (n_blocks,), generator=generator)).exp2()

    def _run_scaled(self, factors: Mapping[str, Tensor]) -> list[Tensor]:
        kept: list[tuple[Tensor, Tensor]] = []
        parameters = self._probe.parameters
        for name, values in factors.items():
            weight, finding = parameters[name], self._findings[name]
            bias = parameters[finding.bias] if finding.bias else None
            kept += [(tensor, tensor.detach().clone()) for tensor in (weight, bias) if tensor is not None]
            assert finding.partition is not None
            scale_blocks_(weight.reshape(-1) if weight.ndim == 0 else weight, values.to(weight.device), finding.partition.blocks, bias)
        try:
            return self._probe.run(start=dict.fromkeys(statistics_buffers(self._tracked), 0.0))
        finally:
            with torch.no_grad():
                for tensor, values in kept:
                    tensor.copy_(values)

    # Normalizations

    def _find_norm_layers(self, before: Mapping[str, Statistics], outputs: list[Tensor]) -> None:
        weights = {name: finding for name, finding in self._findings.items() if finding.partition and len(finding.shape) > 1}
        factors = {name: self._factors(name) for name in weights}
        after = read_statistics(self._probe.copy, self._batch_weights)
        vectors = {name: parameter.detach().double().cpu() for name, parameter in self._probe.parameters.items() if parameter.ndim == 1}

        def follow_one(name: str) -> tuple[Mapping[str, Statistics], Tensor]:
            alone = torch.linspace(0.25, 3, len(factors[name]), dtype=torch.float64).exp2()
            with torch.no_grad():
                self._run_scaled({name: alone})
            return read_statistics(self._probe.copy, self._batch_weights), alone

        places = self._watch.places(outputs, {name: self._probe.parameters[name] for name in weights})
        found = followers(before, after, factors, vectors, follow_one, is_exact=self._probe.dtype == torch.float64)
        for name, finding in weights.items():
            named = {layer.name for layer in found[name]}
            others = [] if named else [NormLayer(place) for place in places[name]]
            finding.norm_layers = (*found[name], *others)


def bias_of(name: str, parameters: Mapping[str, Tensor]) -> str | None:
    """The bias that goes with a weight: the same name with "bias" for "weight", else the only other vector in its module."""
    dotted = f".{name}"
    module, _, leaf = dotted.partition(".parametrizations.") if ".parametrizations." in dotted else dotted.rpartition(".")
    module, leaf = module.removeprefix("."), leaf.split(".")[0]
    prefix = f"{module}." if module else ""
    weight = parameters[name]
    vectors = [other for other, value in parameters.items() if value.ndim == 1 and other != name and other.rpartition(".")[0] == module]
    by_name = prefix + leaf.replace("weight", "bias")
    if "weight" in leaf and by_name in vectors:
        return by_name
    fitting = [other for other in vectors if parameters[other].numel() in (weight.shape[0] if weight.ndim else 1, *weight.shape[1:2])]
    return fitting[0] if len(fitting) == 1 and weight.ndim > 1 else None


def _divisors(number: int) -> list[int]:
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]


def _check_finite(outputs: list[Tensor]) -> None:
    if not all(bool(torch.isfinite(output).all()) for output in outputs):
        raise InvalidInputError("the model's outputs hold NaN or infinity for these inputs, so nothing can be measured: check inputs and weights")
