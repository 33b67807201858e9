"""How is a verdict on every parameter reached?

Runs the probes, confirms all blocks at once by finite scaling, and looks up which normalizations cancel them.
Gives figures, not words: discovery.py says what they mean.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from decayfree.blocks import scale_blocks_
from decayfree.errors import InvalidInputError
from decayfree.forward import Forward, movement
from decayfree.invariance.evidence import Evidence, RoundingDecidesError, bias_of
from decayfree.invariance.exact_arithmetic import NEGLIGIBLE_EPS
from decayfree.invariance.finding import Finding
from decayfree.invariance.norm_places import ModuleWatch, output_rows, reversed_graph
from decayfree.invariance.partition import TOLERANCES, Tolerance
from decayfree.invariance.probe import Probe, refused_calls
from decayfree.invariance.running_statistics import (
    UNKNOWN_SHIFT,
    NormLayer,
    Statistics,
    followers,
    read_statistics,
    statistics_buffers,
    tracked_modules,
)


@dataclass
class SearchResult:
    """All findings, by parameter name, and how outputs moved when all blocks were scaled at once."""

    findings: dict[str, Finding]
    confirmed_to: float


def search(
    model: nn.Module, inputs: Any, forward: Forward | None, dtype: torch.dtype, n_probes: int, seed: int
) -> SearchResult:
    """Measure every parameter.

    Args:
        model: Copied, never changed.
        inputs: As for :func:`decayfree.find_invariant`.
        forward: As for :func:`decayfree.find_invariant`.
        dtype: float64 or float32.
        n_probes: At most so many forward and backward passes; one is enough where it gave every matrix row a
            gradient and scaling all blocks confirmed it.
        seed: Seeds everything.

    Raises:
        InvalidInputError: If the outputs are not finite, or depend on no parameter.
    """

    def at(eps: float) -> SearchResult:
        probe = Probe(model, inputs, forward, dtype, seed, eps)
        with refused_calls(model):
            return _Search(probe, TOLERANCES[dtype], n_probes).result()

    with torch.inference_mode(False), torch.enable_grad():
        try:
            return at(NEGLIGIBLE_EPS)
        except RoundingDecidesError:
            pass
        try:
            return at(1e-12 if dtype == torch.float64 else 1e-6)
        except RoundingDecidesError as error:
            raise InvalidInputError(
                "with these inputs a normalization sees almost no variance, so that rounding decides (few "
                "samples, each of one position?): give larger inputs or more of them"
            ) from error


class _Search:
    def __init__(self, probe: Probe, tolerance: Tolerance, n_probes: int) -> None:
        self._probe = probe
        self._tolerance = tolerance
        self._n_probes = n_probes
        self._watch = ModuleWatch(probe.copy)
        # By module, the share of its old running statistics that a run leaves in them.
        self._kept: dict[str, float] = {}
        self._biases = {name: bias_of(name, probe.parameters) for name in probe.parameters}
        self._before: dict[str, Statistics] = {}
        # Of the log2 of factors: all different, so that a factor tells its block.
        self._fractions: dict[str, Tensor] = {}
        self._evidence = {name: Evidence(tolerance) for name in probe.parameters}
        self._findings = {
            name: Finding(
                tuple(parameter.shape), is_real=parameter.is_floating_point() and parameter.numel() > 0
            )
            for name, parameter in probe.parameters.items()
        }

    def result(self) -> SearchResult:
        for index in range(self._n_probes):
            outputs = self._probe_once(index)
            is_last = index + 1 == self._n_probes
            if self._wants_more() and not is_last:
                continue
            confirmed_to = self._movement_of(self._candidates(), outputs)
            if confirmed_to <= self._tolerance.confirm:
                break
            if is_last:
                confirmed_to = self._without_culprits(outputs)
        self._find_norm_layers(outputs)
        if self._join_biases():
            confirmed_to = self._movement_of(self._candidates(), outputs)
            self._find_norm_layers(outputs)
        for name, finding in self._findings.items():
            if not finding.partition and not finding.is_vector:
                finding.leading = self._evidence[name].leading_rows()
        return SearchResult(self._findings, confirmed_to)

    # Probes

    def _probe_once(self, index: int) -> list[Tensor]:
        """One forward and backward pass at a new point.

        The later points are such that what passed so far is much longer or shorter: below a bend, everything
        looks linear.
        """
        self._probe.perturb_()
        if index:
            for name in self._candidates():
                self._scale_(name, self._factors(name) * (4 if self._findings[name].is_vector else 1))
        outputs = self._watched_run()
        if index == 0:
            _check_finite(outputs)
            self._kept = self._kept_shares()
            outputs = self._watched_run() if set(self._kept.values()) - {0.5} else outputs
            consumers, leaves = reversed_graph(outputs)
            for name, parameter in self._probe.parameters.items():
                self._evidence[name].output_rows = output_rows(leaves.get(id(parameter)), consumers)
        self._before = self._statistics()
        self._record(self._probe.gradients(outputs))
        return outputs

    def _watched_run(self) -> list[Tensor]:
        with self._watch.first_run():
            return self._probe.run()

    def _kept_shares(self) -> dict[str, float]:
        """Of modules whose running statistics the last run changed.

        Those that average by themselves run twice more, from zero and from one.
        """
        modules, buffers = dict(self._probe.copy.named_modules()), self._probe.buffers
        changed = [
            name
            for name in tracked_modules(self._probe.copy)
            if any(
                not torch.equal(buffers[leaf], self._probe.start_of(leaf))
                for leaf in statistics_buffers([name])
            )
        ]
        kept = {name: 0.5 ** self._probe.n_updates(modules[name]) for name in changed}
        averaging = [name for name in changed if kept[name] == 1.0]
        if averaging:
            means = []
            for start in (0.0, 1.0):
                self._probe.run(start=dict.fromkeys(statistics_buffers(averaging), start))
                means.append(
                    {
                        name: self._probe.buffers[f"{name}.running_mean".removeprefix(".")].clone()
                        for name in averaging
                    }
                )
            kept |= {name: float((means[1][name] - means[0][name]).median()) for name in averaging}
        return {name: share for name, share in kept.items() if share < 1.0}

    @torch.no_grad()
    def _record(self, gradients: Mapping[str, Tensor]) -> None:
        parameters = self._probe.parameters
        for name, gradient in gradients.items():
            self._findings[name].has_path = True
            if self._findings[name].is_real:
                bias = self._biases[name] or ""
                self._evidence[name].add(
                    parameters[name], gradient, parameters.get(bias), gradients.get(bias)
                )
        for name, finding in self._findings.items():
            self._evidence[name].conclude(finding)
        for name, finding in self._findings.items():
            is_joint = self._evidence[name].is_joint or (finding.is_vector and self._has_silent_bias(name))
            finding.bias = self._biases[name] if finding.partition and is_joint else None
        self._fractions = self._draw_fractions()

    def _wants_more(self) -> bool:
        """Whether some row of a matrix that may be scale-invariant got no gradient so far."""
        return any(
            finding.is_silent
            or finding.is_mostly_silent
            or (finding.partition and finding.partition.n_silent_rows)
            for finding in self._findings.values()
            if finding.has_path and not finding.is_vector
        )

    def _has_silent_bias(self, name: str) -> bool:
        """Whether its bias reaches no output, so that it may be scaled along or not.

        A normalization takes it away.
        """
        bias, found = self._biases[name], self._findings[name].partition
        return (
            bias is not None
            and found is not None
            and self._evidence[bias].is_silent
            and self._findings[bias].shape == (found.blocks.n_rows,)
        )

    # Confirmation

    def _candidates(self) -> list[str]:
        return [name for name, finding in self._findings.items() if finding.partition]

    def _without_culprits(self, outputs: list[Tensor]) -> float:
        """Drop the candidates that move the outputs; the movement of the others."""
        for name in self._culprits(self._candidates(), outputs):
            finding = self._findings[name]
            finding.moves, finding.partition, finding.failed_finite = (
                self._movement_of([name], outputs),
                None,
                True,
            )
        return self._movement_of(self._candidates(), outputs)

    def _culprits(self, names: list[str], outputs: list[Tensor]) -> list[str]:
        if not names or self._movement_of(names, outputs) <= self._tolerance.confirm:
            return []
        if len(names) == 1:
            return names
        middle = len(names) // 2
        return self._culprits(names[:middle], outputs) + self._culprits(names[middle:], outputs)

    def _movement_of(self, names: list[str], outputs: list[Tensor]) -> float:
        with torch.no_grad(), self._watch.second_run():
            return movement(outputs, self._run_scaled({name: self._factors(name) for name in names}))

    def _factors(self, name: str) -> Tensor:
        """Random factors over four decades.

        Gains are only doubled, so that running_statistics.py can tell them from weights, whose log2 is no
        integer.
        """
        finding = self._findings[name]
        assert finding.partition is not None
        n_blocks = finding.partition.blocks.n_blocks
        if finding.is_vector:
            return torch.full((n_blocks,), 2.0, dtype=torch.float64)
        generator = torch.Generator().manual_seed(self._probe.seed + list(self._findings).index(name))
        least = -6 if self._probe.eps < 1e-20 else 0  # a larger ε shows where a block is small
        return (self._fractions[name] + torch.randint(least, 7, (n_blocks,), generator=generator)).exp2()

    def _draw_fractions(self) -> dict[str, Tensor]:
        """One for every block of all matrices, away from 0 and 1."""
        sizes = {
            name: one.partition.blocks.n_blocks
            for name, one in self._findings.items()
            if one.partition and not one.is_vector
        }
        return dict(
            zip(
                sizes,
                (0.05 + 0.9 * self._spread(sum(sizes.values()))).split(list(sizes.values())),
                strict=True,
            )
        )

    def _spread(self, number: int) -> Tensor:
        """Random numbers in (0, 1), at least half of 1/number apart, of which none is a sum of others."""
        generator = torch.Generator().manual_seed(self._probe.seed)
        cells = torch.randperm(number, generator=generator).double()
        return (cells + 0.25 + 0.5 * torch.rand(number, generator=generator, dtype=torch.float64)) / max(
            number, 1
        )

    @torch.no_grad()
    def _run_scaled(self, factors: Mapping[str, Tensor]) -> list[Tensor]:
        parameters = self._probe.parameters
        touched = [parameters[leaf] for name in factors for leaf in (name, self._findings[name].bias) if leaf]
        kept = [(tensor, tensor.detach().clone()) for tensor in touched]
        for name, values in factors.items():
            self._scale_(name, values)
        try:
            return self._probe.run()
        finally:
            for tensor, values in kept:
                tensor.copy_(values)

    def _scale_(self, name: str, factors: Tensor) -> None:
        finding, parameters = self._findings[name], self._probe.parameters
        assert finding.partition is not None
        weight, bias = parameters[name].detach(), parameters.get(finding.bias or "")
        weight = weight.reshape(-1) if weight.ndim == 0 else weight
        scale_blocks_(
            weight,
            factors.to(weight.device),
            finding.partition.blocks,
            None if bias is None else bias.detach(),
        )

    # Normalizations

    def _statistics(self) -> dict[str, Statistics]:
        return read_statistics(self._probe.copy, self._probe.start_of, self._kept)

    def _find_norm_layers(self, outputs: list[Tensor]) -> None:
        """Right after the confirming run, whose statistics are still in the buffers."""
        weights = {
            name: finding
            for name, finding in self._findings.items()
            if finding.partition and not finding.is_vector
        }
        factors = {name: self._factors(name) for name in weights}
        after = self._statistics()
        vectors = {
            name: parameter.detach().double().cpu()
            for name, parameter in self._probe.parameters.items()
            if parameter.ndim == 1
        }

        def follow_one(name: str) -> tuple[Mapping[str, Statistics], Tensor]:
            alone = (0.25 + 2.75 * self._spread(len(factors[name]))).exp2()
            self._run_scaled({name: alone})
            return self._statistics(), alone

        places = self._watch.places(outputs, {name: self._probe.parameters[name] for name in weights})
        found = followers(
            self._before,
            after,
            factors,
            vectors,
            follow_one,
            places,
            is_exact=self._probe.dtype == torch.float64,
        )
        for name, finding in weights.items():
            named = {layer.name for layer in found[name]}
            others = [] if named else [NormLayer(place) for place in places[name]]
            finding.norm_layers = (*found[name], *others)

    def _join_biases(self) -> bool:
        """Scale a bias along where, left behind, it would shift a running mean by what no parameter tells."""
        joined = False
        for name, finding in self._findings.items():
            is_unclear = any(layer.blocks and layer.shift == UNKNOWN_SHIFT for layer in finding.norm_layers)
            if is_unclear and finding.bias is None and self._has_silent_bias(name):
                finding.bias, joined = self._biases[name], True
        return joined


def _check_finite(outputs: list[Tensor]) -> None:
    if not all(bool(torch.isfinite(output).all()) for output in outputs):
        raise InvalidInputError(
            "the model's outputs hold NaN or infinity for these inputs, so nothing can be measured: "
            "check inputs and weights"
        )
