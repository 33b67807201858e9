"""How is a verdict on every parameter reached?

Runs the probes, confirms all blocks at once by finite scaling, and looks up which normalizations cancel them.
Each step takes what the ones before returned and returns what it saw; nothing is read from what a run left in
the model. Gives figures, not words: discovery.py says what they mean.
"""

from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from decayfree.errors import InvalidInputError
from decayfree.forward import Forward, movement, on_default_device
from decayfree.invariance.by_scaling import (
    PRECISIONS,
    Answer,
    ByScaling,
    are_followed,
    everything_holds,
    liars,
    nudges,
)
from decayfree.invariance.cancelling import Cancelling
from decayfree.invariance.evidence import Evidence, bias_of
from decayfree.invariance.exact_arithmetic import NEGLIGIBLE_EPS
from decayfree.invariance.finding import Finding
from decayfree.invariance.gradients import is_measured, with_gradients
from decayfree.invariance.labels import (
    labelled_factors,
    labels_of,
    least_log2,
)
from decayfree.invariance.norm_places import Calls, output_rows, reversed_graph, watched
from decayfree.invariance.partition import TOLERANCES, Tolerance
from decayfree.invariance.probe import Probe, Ran, UnequalRunsError
from decayfree.invariance.rounding import RoundingDecidesError, has_constant_channels, moved_by_rounding
from decayfree.invariance.running_statistics import (
    UNKNOWN_SHIFT,
    Statistics,
    put_in,
    small_modules,
    statistics_buffers,
)
from decayfree.invariance.seen import (
    Confirmation,
    Seen,
    candidates,
    faint,
    growth_of,
    n_silent_rows,
    nearly_cancelled,
    scaled_candidate,
    silent,
    unless_bent,
    wants_more,
    weak,
    without,
)
from decayfree.invariance.trials import Change, Trials
from decayfree.invariance.two_values import norms_of_two_values


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
    forward, on_host = on_default_device(forward)

    def at(eps: float) -> SearchResult:
        for is_wary in (False, True):
            with suppress(UnequalRunsError):
                probe = Probe(model, inputs, forward, dtype, seed, eps, is_wary=is_wary)
                if numbers := probe.smooth_numbers():
                    probe = Probe(model, inputs, forward, dtype, seed, eps, numbers=numbers, is_wary=is_wary)
                return _Search(probe, TOLERANCES[dtype], n_probes).result()
        raise AssertionError("a wary probe compares its own runs")

    with torch.inference_mode(False), torch.enable_grad(), on_host:
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
    """The steps of a search; remembers nothing but what it was made with."""

    def __init__(self, probe: Probe, tolerance: Tolerance, n_probes: int) -> None:
        self._probe = probe
        self._tolerance = tolerance
        self._precision = PRECISIONS[probe.dtype]
        self._n_probes = n_probes
        self._least = least_log2(probe.eps)
        self._biases = {name: bias_of(name, probe.parameters) for name in probe.parameters}

    def result(self) -> SearchResult:
        seen = None
        failed: dict[str, Finding] = {}
        for index in range(self._n_probes):
            seen = without(failed, self._probe_once(seen))
            is_last = index + 1 == self._n_probes
            if wants_more(seen.findings) and not is_last:
                continue
            seen, confirmation, is_still, holds = self._scaled_both_ways(seen)
            if not is_still:
                further = without(failed, self._with_longer_vectors(seen))
                if candidates(further.findings) != candidates(seen.findings):
                    seen, confirmation, is_still, holds = self._scaled_both_ways(further)
            if is_still:
                break
            culprits = self._culprits(seen)
            failed |= {name: replace(seen.findings[name], moves=moves) for name, moves in culprits.items()}
            if is_last:
                seen = without(failed, seen)
                confirmation = self._confirm(seen)
        assert seen is not None
        decided = self._decided_by_scaling(seen, holds)
        if candidates(decided.findings) != candidates(seen.findings):
            confirmation = self._confirm(decided)
        seen = replace(decided, findings=self._with_norm_layers(decided, confirmation))
        joined = self._with_joined_biases(seen)
        if joined != seen.findings:
            seen = replace(seen, findings=joined)
            confirmation = self._confirm(seen)
            seen = replace(seen, findings=self._with_norm_layers(seen, confirmation))
        return SearchResult(seen.findings, confirmation.movement)

    def _with_norm_layers(self, seen: Seen, confirmation: Confirmation) -> dict[str, Finding]:
        return Cancelling(self._trials(seen), seen, confirmation).findings()

    # Probes

    def _probe_once(self, so_far: Seen | None) -> Seen:
        """One forward and backward pass at a new point.

        The later points are such that what passed so far is much longer or shorter: below a bend, everything
        looks linear.
        """
        self._probe.perturb_()
        if so_far:
            # Not too far: beyond a clip everything is flat, which looks like having no scale.
            factors = {name: values ** (1 / 3) for name, values in so_far.factors.items()}
            self._trials(so_far).change_(self._scaled(so_far, factors).values())
        ran, calls = self._watched_run()
        if not so_far:
            _check_finite(ran.outputs)
        evidence = so_far.evidence if so_far else self._no_evidence(ran.outputs)
        evidence, has_gradient = with_gradients(self._probe, ran.outputs, evidence, self._biases)
        kept = so_far.kept if so_far else self._kept_shares(ran)
        allowed = so_far.allowed if so_far else self._tolerance.confirm
        if any(one.is_suspicious for one in evidence.values()) or has_constant_channels(ran, kept):
            self._probe.check_equal(ran.outputs)
            allowed = max(allowed, moved_by_rounding(self._probe, ran.outputs))
        reached = {name for name, finding in so_far.findings.items() if finding.has_path} if so_far else set()
        findings = self._findings(evidence, reached | has_gradient)
        start, statistics = self._statistics(ran, kept)
        factors = self._factors(findings)
        radial = {
            name: evidence[name].by_key[False, 0, 1][-1].radial
            for name, finding in findings.items()
            if finding.has_scale
        }
        return Seen(ran.outputs, calls, kept, start, statistics, evidence, findings, factors, allowed, radial)

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
            self._probe.check_equal(ran.outputs)
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
            self._probe.check_equal(ran.outputs)
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
                is_real=is_measured(parameter),
                has_path=name in reached,
                is_silent=evidence[name].is_silent,
                is_mostly_silent=conclusion.is_mostly_silent,
                n_silent_rows=n_silent_rows(evidence[name]) if conclusion.is_mostly_silent else 0,
                moves=conclusion.moves,
                bias=self._biases[name] if conclusion.is_joint else None,
                partition=conclusion.partition,
                is_exactly_silent=evidence[name].is_silent and not evidence[name].is_stirred,
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
        seeds = {name: self._probe.seed + index for index, name in enumerate(findings)}
        return {
            name: labelled_factors(labels[name], self._least, seeds[name])
            if name in labels
            else torch.full((size,), 2.0, dtype=torch.float64)
            for name, size in sizes.items()
        }

    def _confirm(self, seen: Seen) -> Confirmation:
        """Scale all candidates at once and run."""
        with watched(self._probe.copy) as calls:
            ran = self._trials(seen).run(*self._scaled(seen, seen.factors).values())
        return Confirmation(movement(seen.outputs, ran.outputs), ran, calls)

    def _trials(self, seen: Seen) -> Trials:
        return Trials(self._probe, seen.outputs, seen.start)

    def _scaled(self, seen: Seen, factors: Mapping[str, Tensor]) -> dict[str, Change]:
        """For each candidate the change that scales its blocks."""
        return {
            name: scaled_candidate(name, seen.findings[name], factors[name])
            for name in candidates(seen.findings)
        }

    def _the_other_way(self, seen: Seen) -> dict[str, Tensor]:
        """Factors that lengthen what those of the confirmation shorten, and the other way round."""
        return {
            name: self._precision.opposite(values, self._probe.eps, self._probe.seed + index)
            for index, (name, values) in enumerate(seen.factors.items())
        }

    def _scaled_both_ways(self, seen: Seen) -> tuple[Seen, Confirmation, bool, bool]:
        """Scale all candidates at once, up and down.

        Returns:
            What was seen, with the start that scaled runs need; how outputs moved; whether they are still
            both ways; and whether everything else that was found holds as well.
        """
        confirmation = self._confirm(seen)
        if confirmation.movement > seen.allowed and seen.start:
            seen = replace(seen, start={})  # it may be the zeros that the outputs notice
            confirmation = self._confirm(seen)
        is_still = confirmation.movement <= seen.allowed
        holds = is_still and self._everything_holds(seen)
        if not holds:
            self._probe.check_equal(seen.outputs)
            is_still = is_still and self._is_still_the_other_way(seen)
        return seen, confirmation, is_still, holds

    def _with_longer_vectors(self, seen: Seen) -> Seen:
        """With evidence on vectors from a point where all that may lack a scale are longer.

        Gains look scale-invariant until a clip behind them is met. One gradient there tells that of all of
        them, which halving finds one by one.
        """
        names = [name for name in candidates(seen.findings) if seen.findings[name].is_vector]
        if not names:
            return seen
        changes = self._scaled(seen, seen.factors)
        with self._trials(seen).changed([changes[name] for name in names]):
            outputs = self._probe.run(start=seen.start).outputs
            here, _ = with_gradients(
                self._probe, outputs, {name: seen.evidence[name] for name in names}, self._biases
            )
        evidence = {**seen.evidence, **here}
        reached = {name for name, finding in seen.findings.items() if finding.has_path}
        findings = self._findings(evidence, reached)
        return replace(seen, evidence=evidence, findings=findings, factors=self._factors(findings))

    def _is_still_the_other_way(self, seen: Seen) -> bool:
        changes = self._scaled(seen, self._the_other_way(seen)).values()
        return self._trials(seen).movement(*changes) <= seen.allowed

    def _culprits(self, seen: Seen) -> dict[str, float]:
        """The candidates that move the outputs, one way or the other, and how far."""
        culprits: dict[str, float] = {}
        for factors in (seen.factors, self._the_other_way(seen)):
            changes = self._scaled(seen, factors)
            left = {name: change for name, change in changes.items() if name not in culprits}
            culprits |= self._trials(seen).movers(left, seen.allowed)
        return culprits

    # Decisions by scaling

    def _everything_holds(self, seen: Seen) -> bool:
        """In one run: candidates the other way, silent parameters redrawn, all others a little longer.

        Then only what the gradients say of the last may show. Where more does, one question is asked at a
        time; in float32, always.
        """
        if self._probe.dtype != torch.float64:
            return False
        asking, found = self._asking(seen), seen.findings
        others = list(self._scaled(seen, self._the_other_way(seen)).values())
        others += [asking.redrawn(name) for name in silent(found) if not found[name].has_sign_rows]
        wholes = [
            (name, self._biases[name] if is_joint else None, growth)
            for name, is_joint in nearly_cancelled(seen)
            if (growth := growth_of(seen, name, is_joint))
        ]
        return everything_holds(
            self._trials(seen), others, self._with_a_scale(seen), wholes, self._probe.seed
        )

    def _decided_by_scaling(self, seen: Seen, holds: bool) -> Seen:
        """With findings that say what really changing parameters says, where gradients say nothing or lie."""
        silent_ones = silent(seen.findings)
        asking = self._asking(seen)
        answers = {name: Answer("no effect") for name in silent_ones}
        asked = [name for name in silent_ones if not holds or seen.findings[name].has_sign_rows]
        if asked:
            answers |= asking.of_silent(asked, self._tolerance.evidence)
        answers = self._unless_of_two_values(answers, seen)
        untrue = [] if holds else self._liars(seen)
        # What failed in its blocks alone may have none with its bias.
        failed = [name for name, finding in seen.findings.items() if finding.failed_finite]
        axes = {name: seen.evidence[name].output_rows for name in (*untrue, *failed)}
        answers |= asking.of_liars(list(axes), axes)
        doubtful = [one for one in nearly_cancelled(seen) if not (holds and growth_of(seen, *one))]
        free = asking.of_nearly_cancelled(doubtful)
        answers, untrue = answers | free, [*untrue, *free]
        answers |= self._of_faint(seen, holds)
        findings = {**seen.findings}
        for name, answer in answers.items():
            findings[name] = replace(
                findings[name],
                is_true=name not in untrue,
                says=answer.says,
                says_of=answer.says_of,
                moves=answer.moves or findings[name].moves,
                partition=answer.partition or findings[name].partition,
                bias=answer.bias or (None if answer.partition else findings[name].bias),
            )
        findings = unless_bent(findings, self._biases, self._trials(seen).movement, seen.allowed)
        return replace(seen, findings=findings, factors=self._factors(findings))

    def _of_faint(self, seen: Seen, holds: bool) -> dict[str, Answer]:
        names = faint(seen.findings, self._tolerance)
        asked = weak(seen, names) if holds else {}
        if asked and not are_followed(self._trials(seen), asked, self._probe.seed):
            asked = {}
        rest = [name for name in names if name not in asked]
        found = self._asking(seen).of_faint(rest, self._tolerance.moved)
        return found | {name: Answer("weak", seen.findings[name].moves) for name in asked}

    def _unless_of_two_values(self, answers: dict[str, Answer], seen: Seen) -> dict[str, Answer]:
        """With another answer where a normalization saw two values: no scale shows then, if there is one."""
        doubtful = {
            name
            for name, answer in answers.items()
            if answer.says in ("sign", "choice", "detached")
            or (
                answer.says == "no effect"
                and seen.evidence[name].is_stirred
                and not seen.findings[name].is_vector
            )
        }
        if not doubtful:
            return answers
        with norms_of_two_values(self._probe.copy) as norms:
            self._trials(seen).run()
        return answers | {name: Answer("two values", says_of=norms[0]) for name in doubtful if norms}

    def _asking(self, seen: Seen) -> ByScaling:
        return ByScaling(self._trials(seen), self._probe.dtype, self._biases, self._probe.seed)

    def _liars(self, seen: Seen) -> list[str]:
        made = nudges(self._probe.parameters, self._with_a_scale(seen), self._precision, self._probe.seed)
        return liars(self._trials(seen), made, self._precision)

    def _with_a_scale(self, seen: Seen) -> dict[str, Tensor]:
        """Radial derivatives of all parameters of which gradients say that they have a scale."""
        return {
            name: rows
            for name, rows in seen.radial.items()
            if seen.findings[name].has_scale
            and float(torch.linalg.vector_norm(rows)) >= self._tolerance.moved
        }

    def _with_joined_biases(self, seen: Seen) -> dict[str, Finding]:
        """The findings with some silent biases scaled along.

        Those that, left behind, would shift a running mean by what no parameter tells.
        """
        joined = {}
        for name, finding in seen.findings.items():
            is_unclear = any(layer.blocks and layer.shift == UNKNOWN_SHIFT for layer in finding.norm_layers)
            is_joined = is_unclear and finding.bias is None and self._has_silent_bias(name, seen.findings)
            joined[name] = replace(finding, bias=self._biases[name]) if is_joined else finding
        return joined


def _check_finite(outputs: list[Tensor]) -> None:
    if not all(bool(torch.isfinite(output).all()) for output in outputs):
        raise InvalidInputError(
            "the model's outputs hold NaN or infinity for these inputs, so nothing can be measured: "
            "check inputs and weights"
        )
