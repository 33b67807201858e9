"""How does the result of the search look when it is printed?

Formats; measures nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from decayfree.reasons import describe, name_with_type

if TYPE_CHECKING:
    from decayfree.invariance import Invariance

_MAX_LISTED = 12


def table_of(found: Invariance) -> str:
    """The table of scale-invariant weights, then what is not among them and why."""
    return "\n".join([*_head(found), *_rows(found), *_others(found)])


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns of equal width, two spaces apart."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def _head(found: Invariance) -> list[str]:
    precision = (
        ""
        if found.dtype == torch.float64
        else " The probe ran in float32: this model does not run in float64."
    )
    if not len(found):
        return [f"No scale-invariant weight among {len(found.verdicts)} parameters.{precision}"]
    n_blocks = sum(weight.blocks.n_blocks for weight in found)
    held = sum(_numel(found.verdicts[weight.name].shape) for weight in found)
    everything = sum(_numel(verdict.shape) for verdict in found.verdicts.values())
    return [
        f"{len(found)} scale-invariant weights with {n_blocks:,} blocks: {held:,} of {everything:,} parameters.{precision}",
        f"Scaled at random all at once, they moved the outputs by {found.confirmed_to:.0e} (relative).",
        "",
    ]


def _rows(found: Invariance) -> list[str]:
    if not len(found):
        return []
    rows = [("weight", "shape", "blocks", "normalized by", "residual")]
    for weight in found:
        names = [name_with_type(layer, found.model) for layer in weight.norm_layers]
        by = names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "") if names else "?"
        shape = found.verdicts[weight.name].shape
        blocks = describe(weight.blocks, shape) + (", with bias" if weight.bias else "")
        rows.append((weight.name, str(shape), blocks, by, f"{weight.residual:.0e}"))
    return aligned(rows)


def _others(found: Invariance) -> list[str]:
    held = {name for weight in found for name in (weight.name, weight.bias)}
    others = [verdict for verdict in found.verdicts.values() if verdict.name not in held]
    lines: list[str] = []
    for title, chosen in (
        ("Not scale-invariant", [v for v in others if v.verdict == "not_invariant"]),
        ("Undecided", [v for v in others if v.verdict == "undecided"]),
        ("Frozen", [v for v in others if v.verdict == "frozen"]),
        ("Scale-invariant, but left out", [v for v in others if v.verdict == "invariant"]),
    ):
        matrices = [verdict for verdict in chosen if len(verdict.shape) > 1]
        listed = (matrices or chosen)[:_MAX_LISTED]
        if not chosen:
            continue
        lines += ["", f"{title}: {len(chosen)}"]
        lines += [f"  {line}" for line in aligned([(v.name, str(v.shape), v.reason) for v in listed])]
        n_vectors = sum(len(verdict.shape) <= 1 for verdict in chosen if verdict not in listed)
        n_more = len(chosen) - len(listed) - n_vectors
        more = [f"{n_more} more"] * bool(n_more) + [f"{n_vectors} vectors (gains and biases)"] * bool(
            n_vectors
        )
        lines += [f"  and {' and '.join(more)}"] if more else []
    return lines


def _numel(shape: Sequence[int]) -> int:
    return int(torch.Size(shape).numel())
