"""How is a verdict on every parameter reached?

Runs the probes, confirms all blocks at once by finite scaling, and looks up which normalizations cancel them.
Each step takes what the ones before returned and returns what it saw; nothing is read from what a run left in
the model. Gives figures, not words: discovery.py says what they mean.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from decayfree.blocks import scale_blocks_
from decayfree.errors import InvalidInputError
from decayfree.forward import Forward, movement
from decayfree.invariance.evidence import Evidence, bias_of
from decayfree.invariance.exact_arithmetic import NEGLIGIBLE_EPS
from decayfree.invariance.finding import Finding
from decayfree.invariance.followers import TwoRuns, apart
from decayfree.invariance.gradients import is_real, with_gradients
from decayfree.invariance.labels import factors_for_one, labelled_factors, labels_of
from decayfree.invariance.norm_places import Calls, output_rows, places, reversed_graph, watched
from decayfree.invariance.partition import TOLERANCES, Tolerance
from decayfree.invariance.probe import Probe, Ran, refused_calls
from decayfree.invariance.rounding import RoundingDecidesError, has_constant_channels, moved_by_rounding
from decayfree.invariance.running_statistics import (
    UNKNOWN_SHIFT,
    NormLayer,
    Statistics,
    put_in,
    small_modules,
    statistics_buffers,
)


@dataclass(frozen=True)
class SearchResult:
    """All findings, by parameter name, and how outputs moved when all blocks were scaled at once."""

    findings: Mapping[str, Finding]
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


@dataclass(frozen=True)
class _Seen:
    """What the probes so far have shown.

    Args:
        outputs: Of the newest probe, with their graph.
        calls: Of modules in the newest probe.
        kept: By module, the share of its old running statistics that a run leaves in them; only modules whose
            statistics a run changes.
        start: Buffers with which scaled runs begin from zero, so that no digits of small statistics are lost.
        statistics: What the newest probe put into running statistics.
        evidence: By parameter.
        findings: By parameter.
        factors: For each candidate, by which its blocks are scaled to confirm them; (n_blocks,), float64.
        allowed: By how much outputs may move when what has no scale is scaled.
    """

    outputs: list[Tensor]
    calls: Calls
    kept: Mapping[str, float]
    start: Mapping[str, float]
    statistics: Mapping[str, Statistics]
    evidence: Mapping[str, Evidence]
    findings: Mapping[str, Finding]
    factors: Mapping[str, Tensor]
    allowed: float


@dataclass(frozen=True)
class _Confirmation:
    """How all candidates, scaled at once, moved the outputs, and what that run left and called."""

    movement: float
    ran: Ran
    calls: Calls


class _Search:
    """The steps of a search; remembers nothing but what it was made with."""

    def __init__(self, probe: Probe, tolerance: Tolerance, n_probes: int) -> None:
        self._probe = probe
        self._tolerance = tolerance
        self._n_probes = n_probes
        self._biases = {name: bias_of(name, probe.parameters) for name in probe.parameters}

    def result(self) -> SearchResult:
        seen = None
        for index in range(self._n_probes):
            seen = self._probe_once(seen)
            is_last = index + 1 == self._n_probes
            if _wants_more(seen.findings) and not is_last:
                continue
            confirmation = self._confirm(seen)
            if confirmation.movement > seen.allowed and seen.start:
                seen = replace(seen, start={})  # it may be the zeros that the outputs notice
                confirmation = self._confirm(seen)
            if confirmation.movement <= seen.allowed:
                break
            if is_last:
                seen = replace(seen, findings=self._without_culprits(seen))
                confirmation = self._confirm(seen)
        assert seen is not None
        seen = replace(seen, findings=self._with_unclear(seen))
        seen = replace(seen, findings=self._with_norm_layers(seen, confirmation))
        joined = self._with_joined_biases(seen)
        if joined != seen.findings:
            seen = replace(seen, findings=joined)
            confirmation = self._confirm(seen)
            seen = replace(seen, findings=self._with_norm_layers(seen, confirmation))
        return SearchResult(seen.findings, confirmation.movement)

    # Probes

    def _probe_once(self, so_far: _Seen | None) -> _Seen:
        """One forward and backward pass at a new point.

        The later points are such that what passed so far is much longer or shorter: below a bend, everything
        looks linear.
        """
        self._probe.perturb_()
        if so_far:
            for name, scaling in so_far.factors.items():
                finding = so_far.findings[name]
                self._scale_(name, finding, scaling * (4 if finding.is_vector else 1))
        ran, calls = self._watched_run()
        if not so_far:
            _check_finite(ran.outputs)
        evidence = so_far.evidence if so_far else self._no_evidence(ran.outputs)
        evidence, has_gradient = with_gradients(self._probe, ran.outputs, evidence, self._biases)
        kept = so_far.kept if so_far else self._kept_shares(ran)
        allowed = so_far.allowed if so_far else self._tolerance.confirm
        if any(one.is_suspicious for one in evidence.values()) or has_constant_channels(ran, kept):
            allowed = max(allowed, moved_by_rounding(self._probe, ran.outputs))
        reached = {name for name, finding in so_far.findings.items() if finding.has_path} if so_far else set()
        findings = self._findings(evidence, reached | has_gradient)
        start, statistics = self._statistics(ran, kept)
        factors = self._factors(findings)
        return _Seen(ran.outputs, calls, kept, start, statistics, evidence, findings, factors, allowed)

    def _watched_run(self) -> tuple[Ran, Calls]:
        with watched(self._probe.copy) as calls:
            return self._probe.run(), calls

    def _no_evidence(self, outputs: list[Tensor]) -> dict[str, Evidence]:
        consumers, leaves = reversed_graph(outputs)
        return {
            name: Evidence(self._tolerance, output_rows(leaves.get(id(parameter)), consumers))
            for name, parameter in self._probe.parameters.items()
        }

    @torch.no_grad()
    def _kept_shares(self, ran: Ran) -> dict[str, float]:
        """Of modules whose running statistics a run changed, the share of the old ones that it left.

        Those that average by themselves run twice more, from zero and from one.
        """
        kept = {
            name: 0.5 ** ran.n_updates[name]
            for name, left in ran.statistics.items()
            if not (
                torch.equal(left.mean, ran.start[name].mean) and torch.equal(left.var, ran.start[name].var)
            )
        }
        averaging = [name for name, share in kept.items() if share == 1.0]
        if averaging:
            from_zero, from_one = (
                self._probe.run(start=dict.fromkeys(statistics_buffers(averaging), value)).statistics
                for value in (0.0, 1.0)
            )
            kept |= {name: float((from_one[name].mean - from_zero[name].mean).median()) for name in averaging}
        return {name: share for name, share in kept.items() if share < 1.0}

    @torch.no_grad()
    def _statistics(
        self, ran: Ran, kept: Mapping[str, float]
    ) -> tuple[dict[str, float], dict[str, Statistics]]:
        """From what scaled runs start some buffers, and what a probe put into running statistics.

        Where a scaled run would leave too few digits, it starts from zero. Where even the probe did, the
        model runs once more from zero, unless its outputs notice.
        """
        statistics = put_in(ran.start, ran.statistics, kept)
        zeros = dict.fromkeys(statistics_buffers(small_modules(ran.start, statistics, 1e-4)), 0.0)
        if small_modules(ran.start, statistics, 3e-8):
            again = self._probe.run(start=zeros)
            if movement(ran.outputs, again.outputs) > self._tolerance.confirm:
                return {}, statistics
            statistics = put_in(again.start, again.statistics, kept)
        return zeros, statistics

    def _findings(self, evidence: Mapping[str, Evidence], reached: Collection[str]) -> dict[str, Finding]:
        """What the evidence says of every parameter; not yet what cancels its scale."""
        findings = {}
        for name, parameter in self._probe.parameters.items():
            conclusion = evidence[name].conclusion()
            findings[name] = Finding(
                tuple(parameter.shape),
                is_real=is_real(parameter),
                has_path=name in reached,
                is_silent=evidence[name].is_silent,
                is_mostly_silent=conclusion.is_mostly_silent,
                is_unclear=conclusion.is_unclear,
                moves=conclusion.moves,
                bias=self._biases[name] if conclusion.is_joint else None,
                partition=conclusion.partition,
            )
        return {
            name: replace(finding, bias=self._biases[name])
            if finding.is_vector and self._has_silent_bias(name, findings)
            else finding
            for name, finding in findings.items()
        }

    def _has_silent_bias(self, name: str, findings: Mapping[str, Finding]) -> bool:
        """Whether its bias reaches no output, so that it may be scaled along or not.

        A normalization takes it away.
        """
        bias, found = self._biases[name], findings[name].partition
        return (
            bias is not None
            and found is not None
            and findings[bias].is_silent
            and findings[bias].shape == (found.blocks.n_rows,)
        )

    def _factors(self, findings: Mapping[str, Finding]) -> dict[str, Tensor]:
        """For each candidate random factors over four decades, with labels (labels.py); gains are doubled."""
        sizes = {name: one.partition.blocks.n_blocks for name, one in findings.items() if one.partition}
        labels = labels_of(
            {name: size for name, size in sizes.items() if not findings[name].is_vector}, self._probe.seed
        )
        least = -6 if self._probe.eps < 1e-20 else 0  # a larger ε shows where a block is small
        seeds = {name: self._probe.seed + index for index, name in enumerate(findings)}
        return {
            name: labelled_factors(labels[name], least, seeds[name])
            if name in labels
            else torch.full((size,), 2.0, dtype=torch.float64)
            for name, size in sizes.items()
        }

    # Confirmation

    def _confirm(self, seen: _Seen) -> _Confirmation:
        """Scale all candidates at once and run."""
        with watched(self._probe.copy) as calls:
            ran = self._run_scaled(_candidates(seen.findings), seen)
        return _Confirmation(movement(seen.outputs, ran.outputs), ran, calls)

    def _without_culprits(self, seen: _Seen) -> dict[str, Finding]:
        """The findings in which no candidate that moves the outputs is one any more."""
        culprits = {
            name: replace(
                seen.findings[name],
                moves=self._movement_of([name], seen),
                partition=None,
                failed_finite=True,
            )
            for name in self._culprits(_candidates(seen.findings), seen)
        }
        return {**seen.findings, **culprits}

    @torch.no_grad()
    def _with_unclear(self, seen: _Seen) -> dict[str, Finding]:
        """The findings in which what the probes hardly saw was doubled, to see what it does."""
        findings = dict(seen.findings)
        for name, finding in seen.findings.items():
            if finding.is_unclear:
                self._probe.parameters[name].mul_(2)
                moved = movement(seen.outputs, self._probe.run(start=seen.start).outputs)
                self._probe.parameters[name].div_(2)
                findings[name] = replace(finding, moves=max(finding.moves, moved))
        return findings

    def _culprits(self, names: list[str], seen: _Seen) -> list[str]:
        if not names or self._movement_of(names, seen) <= seen.allowed:
            return []
        if len(names) == 1:
            return names
        middle = len(names) // 2
        return self._culprits(names[:middle], seen) + self._culprits(names[middle:], seen)

    def _movement_of(self, names: list[str], seen: _Seen) -> float:
        return movement(seen.outputs, self._run_scaled(names, seen).outputs)

    def _run_scaled(self, names: Iterable[str], seen: _Seen) -> Ran:
        return self._run_with({name: seen.factors[name] for name in names}, seen)

    @torch.no_grad()
    def _run_with(self, factors: Mapping[str, Tensor], seen: _Seen) -> Ran:
        """Run with some blocks scaled, and put the parameters back."""
        for name, values in factors.items():
            self._scale_(name, seen.findings[name], values)
        try:
            return self._probe.run(start=seen.start)
        finally:  # but for rounding: copies would take as much memory as the model
            for name, values in factors.items():
                self._scale_(name, seen.findings[name], values.reciprocal())

    def _scale_(self, name: str, finding: Finding, factors: Tensor) -> None:
        parameters = self._probe.parameters
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

    def _with_norm_layers(self, seen: _Seen, confirmation: _Confirmation) -> dict[str, Finding]:
        """The findings with what cancels the scale of each matrix.

        Args:
            seen: With the findings that were confirmed.
            confirmation: Of these findings.
        """
        factors = {
            name: seen.factors[name]
            for name in _candidates(seen.findings)
            if not seen.findings[name].is_vector
        }
        weights = {name: self._probe.parameters[name] for name in factors}
        places_of = places(seen.outputs, seen.calls, confirmation.calls, weights)
        found, unexplained = self._two_runs(seen, confirmation.ran).followers(factors)
        found = self._with_unexplained(found, unexplained, places_of, seen)
        findings = dict(seen.findings)
        for name in factors:
            layers = found[name]
            others = [] if layers else [NormLayer(place) for place in places_of[name]]
            findings[name] = replace(findings[name], norm_layers=(*layers, *others))
        return findings

    def _with_unexplained(
        self,
        found: Mapping[str, list[NormLayer]],
        unexplained: list[str],
        places_of: Mapping[str, Collection[str]],
        seen: _Seen,
    ) -> dict[str, list[NormLayer]]:
        """The normalizations of each weight with those on which several weights act.

        Each weight is scaled without the others that act on the same ones. Weights that the graph leads to
        different ones share a run, and are scaled alone only where something else follows them.
        """
        layers_of = {
            name: [layer for layer in unexplained if layer in places_of[name] or not places_of[name]]
            for name in found
        }
        complete = {name: list(layers) for name, layers in found.items()}
        for together in apart(layers_of):
            for name, layers in self._followers_apart(together, layers_of, unexplained, seen).items():
                complete[name] += layers
        return complete

    def _followers_apart(
        self, names: list[str], layers_of: Mapping[str, list[str]], unexplained: list[str], seen: _Seen
    ) -> dict[str, list[NormLayer]]:
        """Scale some weights that act on different modules, nothing else, and see which follow each."""
        factors = {name: factors_for_one(len(seen.factors[name]), self._probe.seed) for name in names}
        runs = self._two_runs(seen, self._run_with(factors, seen))
        if len(names) == 1:
            return {name: runs.followers_of_one(unexplained, factors[name]) for name in names}
        others = set(unexplained).difference(*(layers_of[name] for name in names))
        if runs.followers_of_one(others, factors[names[0]]):
            alone = [self._followers_apart([name], layers_of, unexplained, seen) for name in names]
            return {name: layers for one in alone for name, layers in one.items()}
        return {name: runs.followers_of_one(layers_of[name], factors[name]) for name in names}

    def _two_runs(self, seen: _Seen, scaled: Ran) -> TwoRuns:
        vectors = {
            name: parameter.detach().double().cpu()
            for name, parameter in self._probe.parameters.items()
            if parameter.ndim == 1
        }
        after = put_in(scaled.start, scaled.statistics, seen.kept)
        return TwoRuns(seen.statistics, after, vectors, self._probe.dtype == torch.float64)

    def _with_joined_biases(self, seen: _Seen) -> dict[str, Finding]:
        """The findings with some silent biases scaled along.

        Those that, left behind, would shift a running mean by what no parameter tells.
        """
        joined = {}
        for name, finding in seen.findings.items():
            is_unclear = any(layer.blocks and layer.shift == UNKNOWN_SHIFT for layer in finding.norm_layers)
            is_joined = is_unclear and finding.bias is None and self._has_silent_bias(name, seen.findings)
            joined[name] = replace(finding, bias=self._biases[name]) if is_joined else finding
        return joined


def _candidates(findings: Mapping[str, Finding]) -> list[str]:
    return [name for name, finding in findings.items() if finding.partition]


def _wants_more(findings: Mapping[str, Finding]) -> bool:
    """Whether some row of a matrix that may be scale-invariant got no gradient so far."""
    return any(
        finding.is_silent
        or finding.is_mostly_silent
        or (finding.partition and finding.partition.n_silent_rows)
        for finding in findings.values()
        if finding.has_path and not finding.is_vector
    )


def _check_finite(outputs: list[Tensor]) -> None:
    if not all(bool(torch.isfinite(output).all()) for output in outputs):
        raise InvalidInputError(
            "the model's outputs hold NaN or infinity for these inputs, so nothing can be measured: "
            "check inputs and weights"
        )
