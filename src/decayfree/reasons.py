"""Why is the verdict on a parameter what it is, in words?

Turns figures into one sentence. Decides nothing.
"""

import torch
from torch import nn

from decayfree.blocks import Blocks
from decayfree.evidence import Finding
from decayfree.running import NormLayer, tracked_modules


def reason_of(
    finding: Finding, verdict: str, left_out: str | None, model: nn.Module, dtype: torch.dtype
) -> str:
    """One sentence for a verdict.

    Args:
        finding: What was measured.
        verdict: One of the four verdicts.
        left_out: Why a scale-invariant parameter is not in the result.
        model: The model, to name module types.
        dtype: The precision of the probe; float32 is mentioned.
    """
    sentence = _frozen(finding, model) if verdict == "frozen" else _measured(finding, model)
    if verdict == "not_invariant" and len(finding.shape) > 1:
        fixed = [name for name in tracked_modules(model) if not model.get_submodule(name).training]
        sentence += (
            f" (in eval mode, {fixed[0]}{' and others divide' if len(fixed) > 1 else ' divides'} by fixed numbers)"
            if fixed
            else ""
        )
    if verdict == "invariant" and left_out:
        sentence += f"; left out: {left_out}"
    return sentence + ("" if dtype == torch.float64 else " (measured in float32)")


def _frozen(finding: Finding, model: nn.Module) -> str:
    return f"requires_grad is False, so nothing moves it; if it were trained: {_measured(finding, model)}"


def _measured(finding: Finding, model: nn.Module) -> str:
    if finding.partition:
        together = f" together with {finding.bias}" if finding.bias else ""
        silent = (
            f"; {finding.partition.n_silent_rows} rows got no gradient"
            if finding.partition.n_silent_rows
            else ""
        )
        return f"{describe(finding.partition.blocks, finding.shape)}{together} without a scale: {_cancelled_by(finding, model)}{silent}"
    if finding.failed_finite:
        return f"small growth does not show, but scaling it moved the outputs by {finding.moves:.2g}"
    if not finding.is_real:
        return "it is complex, integer or empty, and only real numbers are measured"
    if not finding.has_path:
        return "no output depends on it in this forward pass"
    if finding.is_silent:
        return "its gradient is zero: a normalization takes it away (as it does a bias before it), or these inputs do not activate it"
    if finding.is_mostly_silent:
        return "most of its rows got no gradient from these inputs; the others are scale-invariant: try other or more inputs"
    if finding.leading[0]:
        rows, blocks = finding.leading
        return f"its first {rows} rows are {blocks} scale-invariant blocks, the others are not: only whole weights are held, so split it"
    return _moves(finding)


def _moves(finding: Finding) -> str:
    if finding.moves < 1e-5:
        return (
            f"scaling it moves the outputs by only {finding.moves:.2g} of its growth: too few values for a normalization, "
            "or an ε written into its code as a number (as an attribute self.eps it would be set aside)"
        )
    return f"scaling it moves the outputs, by {finding.moves:.2g} of its growth: nothing after it takes the scale away"


def _cancelled_by(finding: Finding, model: nn.Module) -> str:
    if not finding.norm_layers:
        return "some normalization takes it away"
    names = [name_with_type(layer, model) for layer in finding.norm_layers]
    listed = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return f"{listed} takes it away" if len(names) == 1 else f"{listed} take it away"


def name_with_type(layer: NormLayer, model: nn.Module) -> str:
    """``features.1 (BatchNorm2d)``."""
    kind = type(dict(model.named_modules()).get(layer.name)).__name__
    return f"{layer.name or 'the model'} ({kind})"


def describe(blocks: Blocks, shape: tuple[int, ...]) -> str:
    """``64 kernels``, ``4 blocks of 16 rows`` or ``the whole weight``."""
    if blocks.n_blocks == 1:
        return "the whole weight"
    if blocks.rows_are_blocks:
        return f"{blocks.n_blocks} {'kernels' if len(shape) > 2 else 'rows'}"
    if blocks.uniform_size:
        return f"{blocks.n_blocks} blocks of {blocks.uniform_size} rows"
    return f"{blocks.n_blocks} blocks of {min(blocks.block_sizes)} to {max(blocks.block_sizes)} rows"
