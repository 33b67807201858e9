"""What was found, in words: a sentence for each verdict, and the table.

Decides nothing.
"""

import math
import re
import textwrap
from collections.abc import Collection, Mapping, Sequence

import torch
from torch import nn

from decayfree.blocks import Blocks, n_rows_of
from decayfree.columns import aligned
from decayfree.errors import listed
from decayfree.invariance.finding import Finding
from decayfree.invariance.running_statistics import NormLayer, tracked_modules
from decayfree.invariance.verdict import ScaleInvariantWeight, Verdict


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
            (
                f" (in eval mode, {fixed[0]}{' and others divide' if len(fixed) > 1 else ' divides'} by "
                "fixed numbers)"
            )
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
        return (
            f"{describe(finding.partition.blocks, finding.shape)}{together} without a scale: "
            f"{_cancelled_by(finding, model)}{silent}{_untrue(finding)}"
        )
    if finding.says:
        return _says(finding, model)
    if finding.failed_finite:
        return f"small growth does not show, but scaling it moved the outputs by {finding.moves:.2g}"
    if not finding.is_real:
        return "it is complex, integer or empty, and only real numbers are measured"
    if finding.is_mostly_silent:
        return (
            f"{finding.n_silent_rows} of its {math.prod(finding.shape[:1])} rows got no gradient from these "
            "inputs (words that did not occur, kernels that were not activated), the others are "
            "scale-invariant: try other or more inputs"
        )
    return _moves(finding)


def _says(finding: Finding, model: nn.Module) -> str:
    """What really changing it says, where its gradient says nothing or not the truth."""
    match finding.says:
        case "two values":
            name = name_with_type(NormLayer(finding.says_of or ""), model)
            return (
                f"{name} sees two values at a time with these inputs, and of two it keeps which is larger, "
                "whatever the weights are: give a larger batch, or larger inputs"
            )
        case "sign":
            return "only the signs of its numbers count: a normalization takes away their size"
        case "choice":
            together = f" together with {finding.bias}" if finding.bias else ""
            return (
                f"scaling it{together} moves nothing, up or down, and no gradient reaches it: the outputs "
                "know it only by a choice (argmax, top-k, rounding), or these inputs do not activate it"
            )
        case "detached":
            return (
                "scaling it moves nothing, up or down, and turning it does, but no gradient reaches it: it "
                "is detached, or in a reentrant checkpoint whose inputs have none (use_reentrant=False)"
            )
        case "moves elsewhere":
            return (
                "its gradient is zero where it is, and scaling moves nothing there; at other values, where "
                f"it has an effect, scaling it moved the outputs by {finding.moves:.2g}"
            )
        case "weak":
            return (
                f"scaling it moves the outputs, by {finding.moves:.2g} of its growth, little as its other "
                "changes do: something small comes after it, such as a layer scale near zero"
            )
        case "moves":
            though = "small growth does not show, but " if finding.failed_finite else ""
            return f"{though}scaling it moved the outputs by {finding.moves:.2g}{_but_of_gradient(finding)}"
    return _no_effect(finding)


def _but_of_gradient(finding: Finding) -> str:
    if not finding.has_path:
        return ", though no gradient reaches it (detached, or rounded)"
    return ", though its gradient is zero" if finding.is_silent else _untrue(finding)


def _untrue(finding: Finding) -> str:
    return (
        ""
        if finding.is_true
        else "; its gradient is not the derivative (straight-through, or a backward of its own)"
    )


def _no_effect(finding: Finding) -> str:
    if not finding.has_path:
        return "no output depends on it in this forward pass"
    if finding.is_exactly_silent:
        return (
            "these inputs do not reach it (a branch, an expert, a word that did not occur): no other value "
            "of it moves the outputs"
        )
    return (
        "no value of it moves the outputs: what comes after takes it away, as a normalization does a bias "
        "before it"
    )


def _moves(finding: Finding) -> str:
    if finding.moves < 1e-5:
        return (
            f"scaling it moves the outputs by only {finding.moves:.2g} of its growth: too few values for a "
            "normalization, or an ε written into its code as a number (as an attribute "
            "self.eps it would be set aside)"
        )
    return (
        f"scaling it moves the outputs, by {finding.moves:.2g} of its growth: "
        "nothing after it takes the scale away"
    )


def _cancelled_by(finding: Finding, model: nn.Module) -> str:
    if not finding.norm_layers:
        return "some normalization takes it away"
    names = [name_with_type(layer, model) for layer in finding.norm_layers]
    return f"{listed(names, 3)} {'takes' if len(names) == 1 else 'take'} it away"


def name_with_type(layer: NormLayer, model: nn.Module) -> str:
    """``features.1 (BatchNorm2d)``."""
    kind = type(model.get_submodule(layer.name)).__name__
    return f"{layer.name or 'the model'} ({kind})"


def describe(blocks: Blocks, shape: tuple[int, ...]) -> str:
    """``64 kernels``, ``4 blocks of 16 rows`` or ``the whole weight``."""
    if blocks.is_partial:
        whole = Blocks(blocks.axis, blocks.block_sizes, blocks.groups)
        inner = f"a block of {blocks.n_rows} rows" if blocks.n_blocks == 1 else describe(whole, shape)
        return f"{inner} among {n_rows_of(shape, blocks)} rows"
    if blocks.n_blocks == 1:
        return "the whole weight"
    if blocks.rows_are_blocks:
        return f"{blocks.n_blocks} {'kernels' if len(shape) > 2 else 'rows'}"
    if blocks.uniform_size:
        return f"{blocks.n_blocks} blocks of {blocks.uniform_size} rows"
    return f"{blocks.n_blocks} blocks of {min(blocks.block_sizes)} to {max(blocks.block_sizes)} rows"


_WIDTH = 110
"""Of lines, in characters; a longer name makes its line longer."""
_LEAST_NORM = 16
_MOST_WEIGHTS, _MOST_REASONS, _MOST_NAMES = 60, 8, 12
_NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?:e[+-]?\d+)?(?![\w.]*\w)")
BY_REQUEST = "by request: changes the model"


def table_of(
    weights: Sequence[ScaleInvariantWeight],
    verdicts: Mapping[str, Verdict],
    model: nn.Module,
    dtype: torch.dtype,
    confirmed_to: float,
    *,
    everything: bool,
) -> str:
    """The table of scale-invariant weights, then what is not among them and why."""
    lines = head_of(weights, verdicts, dtype, confirmed_to)
    lines += _shown(weights, verdicts, model, everything=everything)
    held = {name for weight in weights for name in (weight.name, weight.bias) if name}
    return "\n".join([*lines, *others_of(verdicts, held, everything=everything)])


def head_of(
    weights: Sequence[ScaleInvariantWeight],
    verdicts: Mapping[str, Verdict],
    dtype: torch.dtype,
    confirmed_to: float,
) -> list[str]:
    """How many weights, of how many parameters, and how exact that is; with an empty line at the end."""
    precision = (
        "" if dtype == torch.float64 else " The probe ran in float32: this model does not run in float64."
    )
    if not weights:
        return [f"No scale-invariant weight among {len(verdicts)} parameters.{precision}"]
    asked = [weight for weight in weights if weight.by_request]
    own = [weight for weight in weights if not weight.by_request]
    everything = sum(_numel(verdict.shape) for verdict in verdicts.values())

    def size(of: Sequence[ScaleInvariantWeight]) -> str:
        n_blocks = sum(weight.blocks.n_blocks for weight in of)
        held = sum(_numel(verdicts[weight.name].shape) for weight in of)
        return f"with {n_blocks:,} blocks: {held:,} of {everything:,} parameters."

    lines = [f"{len(own)} scale-invariant weights {size(own)}{precision}"]
    if own:
        lines.append(
            f"Scaled at random all at once, they moved the outputs by {confirmed_to:.0e} (relative)."
        )
    if asked:
        lines.append(
            f"{len(asked)} weights by request, whose norms change what the model computes, {size(asked)}"
        )
    return [*lines, ""]


def rows_of(
    weights: Sequence[ScaleInvariantWeight], verdicts: Mapping[str, Verdict], model: nn.Module
) -> list[tuple[str, ...]]:
    """A row a weight below a head; empty without weights."""
    if not weights:
        return []
    rows: list[tuple[str, ...]] = [("weight", "shape", "blocks", "normalized by", "residual")]
    for weight in weights:
        names = [name_with_type(layer, model) for layer in weight.norm_layers]
        by = BY_REQUEST if weight.by_request else listed(names, 1) or "?"
        shape = verdicts[weight.name].shape
        blocks = describe(weight.blocks, shape) + (", with bias" if weight.bias else "")
        rows.append(
            (weight.name, str(shape), blocks, by, "" if weight.by_request else f"{weight.residual:.0e}")
        )
    return rows


def _shown(
    weights: Sequence[ScaleInvariantWeight],
    verdicts: Mapping[str, Verdict],
    model: nn.Module,
    *,
    everything: bool,
) -> list[str]:
    shown = weights if everything else weights[:_MOST_WEIGHTS]
    rows = rows_of(shown, verdicts, model)
    if rows and not everything:
        taken = sum(max(len(row[column]) for row in rows) for column in (0, 1, 2, 4)) + 4 * 2
        room = max(_WIDTH - taken, _LEAST_NORM)
        last_names = ["", *(_last_names(weight) for weight in shown)]
        rows = [
            (*row[:3], row[3] if len(row[3]) <= room else _cut(short or row[3], room), row[4])
            for row, short in zip(rows, last_names, strict=True)
        ]
    n_more = len(weights) - len(shown)
    return aligned(rows) + [f"and {n_more} more"] * bool(n_more)


def _last_names(weight: ScaleInvariantWeight) -> str:
    """What normalizes it, by the ends of their names: …qn, …kn."""
    return ", ".join(f"…{layer.name.rpartition('.')[2]}" for layer in weight.norm_layers)


def _cut(text: str, room: int) -> str:
    return text if len(text) <= room else f"{text[: room - 1]}…"


def others_of(
    verdicts: Mapping[str, Verdict], held: Collection[str], *, everything: bool = False
) -> list[str]:
    """The lines on what is not held, and why: each reason once, with those that it is true of.

    Without ``everything`` a few of them, and vectors only where there is nothing else.
    """
    others = [verdict for verdict in verdicts.values() if verdict.name not in held]
    lines: list[str] = []
    for title, chosen in (
        ("Not scale-invariant", [v for v in others if v.verdict == "not_invariant"]),
        ("Undecided", [v for v in others if v.verdict == "undecided"]),
        ("Frozen", [v for v in others if v.verdict == "frozen"]),
        ("Scale-invariant, but left out", [v for v in others if v.verdict == "invariant"]),
    ):
        if not chosen:
            continue
        matrices = [verdict for verdict in chosen if len(verdict.shape) > 1]
        told = chosen if everything else matrices or chosen
        lines += ["", f"{title}: {len(chosen)}"]
        reasons = _by_reason(told)
        n_reasons = len(reasons) if everything else _MOST_REASONS
        for reason, alike in list(reasons.items())[:n_reasons]:
            n_named = len(alike) if everything else _MOST_NAMES
            names = [f"{one.name} {one.shape}".replace(" ", "\xa0") for one in alike[:n_named]]
            names += [f"and\xa0{len(alike) - n_named}\xa0more"] * (len(alike) > n_named)
            if len(alike) == 1:
                lines += _wrapped(f"{names[0]}: {reason}", 2, 4)
            else:
                lines += [*_wrapped(reason, 2, 2), *_wrapped(", ".join(names), 4, 4)]
        n_more = sum(map(len, list(reasons.values())[n_reasons:]))
        n_vectors = len(chosen) - len(told)
        more = [f"{n_more} more for other reasons"] * bool(n_more)
        more += [f"{n_vectors} vectors (gains and biases)"] * bool(n_vectors)
        lines += [f"  and {' and '.join(more)}"] if more else []
    return lines


def _by_reason(verdicts: Sequence[Verdict]) -> dict[str, list[Verdict]]:
    """Those for which one reason holds, but for numbers and for what stands beside each in its layer."""
    alike: dict[str, list[Verdict]] = {}
    said: dict[str, str] = {}
    for verdict in verdicts:
        layer = verdict.name.rpartition(".")[0]
        beside = re.compile(rf"(?<![\w.]){re.escape(layer)}\.(?=[A-Za-z_])")
        said[verdict.name] = beside.sub("its ", verdict.reason) if layer else verdict.reason
        alike.setdefault(_NUMBER.sub("#", said[verdict.name]), []).append(verdict)
    return {_with_ranges([said[one.name] for one in of_reason]): of_reason for of_reason in alike.values()}


def _with_ranges(reasons: Sequence[str]) -> str:
    """One for all, which differ in numbers alone: those as ranges.

    Example:
        >>> _with_ranges(["moves by 0.5 of 2 rows", "moves by 1.5 of 2 rows"])
        'moves by 0.5 to 1.5 of 2 rows'
    """
    columns = zip(*(_NUMBER.findall(reason) for reason in reasons), strict=True)
    ranges = [sorted(set(column), key=float) for column in columns]
    words = iter(
        [numbers[0] if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}" for numbers in ranges]
    )
    return _NUMBER.sub(lambda _: next(words), reasons[0])


def _wrapped(text: str, first: int, others: int) -> list[str]:
    wrapped = textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=" " * first,
        subsequent_indent=" " * others,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [line.replace("\xa0", " ") for line in wrapped]


def _numel(shape: Sequence[int]) -> int:
    return int(torch.Size(shape).numel())
