"""What has a search seen so far, and which parameters does that leave to ask?

Choices among findings, in plain functions; runs nothing.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from decayfree.blocks import Blocks
from decayfree.invariance.evidence import Evidence
from decayfree.invariance.finding import Finding
from decayfree.invariance.norm_places import Calls
from decayfree.invariance.partition import CANCELLED, Tolerance
from decayfree.invariance.probe import Ran
from decayfree.invariance.running_statistics import Statistics
from decayfree.invariance.trials import Change, scaled


@dataclass(frozen=True)
class Seen:
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
        radial: For every other parameter ⟨w_i, ∂φ/∂w_i⟩ of its rows along dimension 0 in the newest probe.
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
    radial: Mapping[str, Tensor]


@dataclass(frozen=True)
class Confirmation:
    """How all candidates, scaled at once, moved the outputs, and what that run left and called."""

    movement: float
    ran: Ran
    calls: Calls


def without(failed: Mapping[str, Finding], seen: Seen) -> Seen:
    """Without candidates that moved the outputs before, in the same blocks, when really scaled."""
    known = {
        name: replace(seen.findings[name], moves=before.moves, partition=None, failed_finite=True)
        for name, before in failed.items()
        if _scaled_together(seen.findings[name]) == _scaled_together(before)
    }
    return replace(seen, findings={**seen.findings, **known})


def _scaled_together(finding: Finding) -> tuple[str | None, Blocks | None]:
    return finding.bias, finding.partition.blocks if finding.partition else None


def candidates(findings: Mapping[str, Finding]) -> list[str]:
    """Parameters of which something is thought to have no scale."""
    return [name for name, finding in findings.items() if finding.partition]


def scaled_candidate(name: str, finding: Finding, factors: Tensor) -> Change:
    """The change that scales the blocks of one of them by their factors, (n_blocks,)."""
    assert finding.partition is not None
    return scaled(name, finding.bias, finding.partition.blocks, factors)


def silent(findings: Mapping[str, Finding]) -> list[str]:
    """Parameters whose gradient was zero in all probes, or that have none."""
    return [name for name, finding in findings.items() if finding.is_real and finding.is_silent]


def faint(findings: Mapping[str, Finding], tolerance: Tolerance) -> list[str]:
    """Parameters that move the outputs by less than what counts as moved, for their growth."""
    return [
        name
        for name, finding in findings.items()
        if finding.has_scale and finding.moves < tolerance.moved and not finding.failed_finite
    ]


def weak(seen: Seen, names: Collection[str]) -> dict[str, Tensor]:
    """Of faint parameters ``radial`` of those that are no fainter for growth than for other changes."""
    rows = {name: seen.evidence[name].by_key[False, 0, 1][-1] for name in names}
    norm = torch.linalg.vector_norm
    return {
        name: one.radial
        for name, one in rows.items()
        if one.length > 1 and float(norm(one.radial)) >= CANCELLED * float(norm(one.magnitude))
    }


def growth_of(seen: Seen, name: str, is_joint: bool) -> float:
    """Σ_i ⟨w_i, ∂φ/∂w_i⟩ of a matrix in the newest probe, with its bias or without; 0 if too little is left.

    What a tenth of a percent of its rows' growths is left of could only be seen with steps too large.
    """
    rows = seen.evidence[name].by_key[is_joint, 0, 1][-1].radial
    growth = float(rows.sum())
    return growth if abs(growth) >= CANCELLED * float(torch.linalg.vector_norm(rows)) else 0.0


def nearly_cancelled(seen: Seen) -> list[tuple[str, bool]]:
    """Matrices with a scale whose rows' growths cancel but for a few percent, without or with their bias."""
    return [
        (name, is_joint)
        for name, finding in seen.findings.items()
        if finding.has_scale and not (finding.partition or finding.is_vector)
        for is_joint in seen.evidence[name].nearly_cancels
    ]


# By which factors a candidate is scaled whose confirmations may have jumped over a bend.
_BETWEEN = (0.03, 0.1, 0.2, 0.3, 0.5, 0.7, 1.5, 2.0, 4.0, 16.0)


def unless_bent(
    findings: Mapping[str, Finding],
    biases: Mapping[str, str | None],
    movement: Callable[[Change], float],
    allowed: float,
) -> dict[str, Finding]:
    """The findings in which doubtful candidates hold only if small steps do not move the outputs either.

    Doubtful is what far steps alone have called free, and a weight whose bias moves the outputs when it is
    really changed, though its gradient does not say so: something bends beside them.
    """
    found = dict(findings)
    for name in candidates(findings):
        bias = findings.get(biases[name] or "")
        is_beside_a_bend = findings[name].bias is None and bias is not None and bias.says.startswith("moves")
        partition = findings[name].partition
        if partition is None or not (findings[name].says == "free" or is_beside_a_bend):
            continue
        sizes = [torch.full((partition.blocks.n_blocks,), c, dtype=torch.float64) for c in _BETWEEN]
        moves = max(movement(scaled_candidate(name, findings[name], factors)) for factors in sizes)
        if moves > allowed:
            found[name] = replace(
                findings[name], partition=None, moves=moves, failed_finite=True, says="moves"
            )
    return found


def wants_more(findings: Mapping[str, Finding]) -> bool:
    """Whether some row of a matrix that may be scale-invariant got no gradient so far."""
    return any(
        (finding.is_silent and not finding.has_sign_rows)
        or finding.is_mostly_silent
        or (finding.partition and finding.partition.n_silent_rows)
        for finding in findings.values()
        if finding.has_path and not finding.is_vector
    )


def n_silent_rows(evidence: Evidence) -> int:
    """How many rows along dimension 0 got no gradient in any probe."""
    probes = evidence.by_key.get((False, 0, 1), ())
    magnitudes = [probe.magnitude <= evidence.tolerance.evidence for probe in probes]
    return int(torch.stack(magnitudes).all(0).sum()) if magnitudes else 0
