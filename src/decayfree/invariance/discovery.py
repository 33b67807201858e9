"""Which weights of a model have no scale?

Measures it by the Euler probe and gives a verdict with a reason on every parameter. Changes nothing in the
model; rescale_once.py does.
"""

import fnmatch
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from decayfree.arguments.stored import is_flat_parameter, unsupported_weights
from decayfree.arguments.wrappers import model_faults, plain
from decayfree.errors import (
    DecayFreeError,
    InvalidInputError,
    UnsupportedWeightError,
    closest,
    faults_of,
    raise_all,
    whole_number_faults,
)
from decayfree.forward import Forward, tensors_in
from decayfree.invariance.by_scaling import PRECISIONS
from decayfree.invariance.fewer_samples import few_of, may_need_more
from decayfree.invariance.finding import Finding
from decayfree.invariance.partition import TOLERANCES
from decayfree.invariance.probe import ForwardError
from decayfree.invariance.result import Invariance
from decayfree.invariance.running_statistics import tracked_modules
from decayfree.invariance.search import SearchResult, search
from decayfree.invariance.verdict import LeftOut, ScaleInvariantWeight, Verdict, VerdictName
from decayfree.invariance.words import reason_of
from decayfree.shards import is_sharded


def find_invariant(
    model: nn.Module,
    inputs: Any,
    *,
    forward: Forward | None = None,
    probes: int = 3,
    include: str | Iterable[str] | None = None,
    exclude: str | Iterable[str] = (),
    seed: int = 0,
    dtype: torch.dtype | None = None,
) -> Invariance:
    """Find the weights whose positive rescaling leaves the model's outputs unchanged, and prove it.

    By Euler's theorem ⟨θ_B, ∂φ/∂θ_B⟩ = 0 for every function φ of the outputs where, and generically only
    where, the block θ_B has no scale. The probe takes one forward and one backward pass of a random φ on a
    float64 copy at a generic point, cuts the rows of every parameter where the running sum of ⟨w_i, ∂φ/∂w_i⟩
    returns to zero in every probe, and confirms all blocks at once by really scaling them. It knows no layer
    types. Parameters, buffers, gradients, modes, hooks and random states stay exactly as they are.

    Args:
        model: Any module, in the mode (train or eval) in which it will be trained.
        inputs: A tensor, a tuple or list (``model(*inputs)``) or a mapping (``model(**inputs)``), as for a
            training step. They must vary: a batch of four or more random images is fine; zeros are not, and
            of two values BatchNorm keeps only the order. Of 16 samples or more the first eight are looked at
            first, and all only where these do not reach everything.
        forward: ``forward(model, inputs)`` for anything else; must use the model that it is given.
        probes: At most so many forward and backward passes; one is enough where every matrix row got a
            gradient and scaling all blocks confirmed what it found.
        include: Glob patterns over parameter names; only these are in the result. A gain or bias (a vector)
            is in it only if a pattern here matches it: its rows are single numbers, without a direction to
            keep.
        exclude: Glob patterns over parameter names that are left out.
        seed: Seeds the probe; equal seeds give equal results.
        dtype: Of the copy that is probed: float64, where the model runs in it, else float32. float32 wants
            half the memory and time, and has wider tolerances; None tries float64 first. A search holds up to
            two copies of the parameters. One that takes more than five seconds says so on stderr.

    Returns:
        The scale-invariant weights and a verdict on every parameter; empty where the model has no
        normalization.

    Raises:
        InvalidInputError: If the inputs do not fit the model or do not vary, a pattern matches nothing,
            ``probes`` < 1, or ``forward`` calls the original instead of the copy that it is given.
        UnsupportedWeightError: If the model holds flattened (FSDP1), lazy, sparse, quantized or meta
            parameters.

    References:
        Liu, Cui, Wan, Mao, Chan: Weight Rescaling, 2022, arXiv 2102.03497. Blocks: van Laarhoven, 2017, arXiv
        1706.05350.

    Example:
        >>> features = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        >>> model = nn.Sequential(*features, nn.Flatten(), nn.Linear(8 * 36, 10))
        >>> found = find_invariant(model, torch.randn(4, 3, 8, 8))
        >>> [weight.name for weight in found]
        ['0.weight']
        >>> found["0.weight"].norm_layers[0].name
        '1'
    """
    raise_all(faults_of(InvalidInputError, model_faults(model)))
    model = plain(model)
    included, excluded = _patterns("include", include), _patterns("exclude", exclude) or []
    _check_arguments(
        model, inputs, forward, probes, seed, dtype, {"include": included or [], "exclude": excluded}
    )
    result, dtype = _search_of_enough(model, inputs, forward, probes, seed, dtype)
    weights: list[ScaleInvariantWeight] = []
    verdicts: dict[str, Verdict] = {}
    names = _names(model)
    for name, parameter in model.named_parameters():
        finding = result.findings[name]
        partner = next(
            (weight for weight, other in result.findings.items() if other.bias == name and other.partition),
            None,
        )
        verdict: VerdictName
        if partner and parameter.requires_grad:
            verdict, left_out, reason = "invariant", None, f"goes with {partner}"
        else:
            verdict = _verdict_of(finding, parameter, dtype)
            is_in = verdict == "invariant"
            left_out = _left_out(names[id(parameter)], finding, included, excluded) if is_in else None
            reason = reason_of(finding, verdict, left_out and left_out[1], model, dtype)
        residual = finding.partition.residual if finding.partition else finding.moves
        kind: LeftOut = left_out[0] if left_out else ""
        verdicts[name] = Verdict(name, verdict, reason, residual, tuple(parameter.shape), kind)
        if verdict == "invariant" and not left_out and not partner:
            weights.append(_weight_of(name, finding))
    _warn_of_eval_mode(model, weights)
    return Invariance(model, weights, verdicts, dtype=dtype, confirmed_to=result.confirmed_to)


def _search_of_enough(
    model: nn.Module, inputs: Any, forward: Forward | None, probes: int, seed: int, dtype: torch.dtype | None
) -> tuple[SearchResult, torch.dtype]:
    """With few samples where they do; a function of the user's sees all that were passed."""
    few = few_of(inputs) if forward is None else None
    if few is not None:
        with suppress(DecayFreeError):  # which all may raise as well, then of what was passed
            result, used = _search_in_best_precision(model, few, forward, probes, seed, dtype)
            is_worse = used == torch.float32 != dtype  # perhaps of the few alone
            if not is_worse and not any(map(may_need_more, result.findings.values())):
                return result, used
    return _search_in_best_precision(model, inputs, forward, probes, seed, dtype)


def _search_in_best_precision(
    model: nn.Module, inputs: Any, forward: Forward | None, probes: int, seed: int, dtype: torch.dtype | None
) -> tuple[SearchResult, torch.dtype]:
    """In float64; in float32 for models that cannot run in it, or where it is asked for."""
    try:
        if dtype != torch.float32:
            return search(model, inputs, forward, torch.float64, probes, seed), torch.float64
    except ForwardError:
        pass  # whatever a model raises that meets float64; if it raises in float32 too, it is the inputs
    try:
        return search(model, inputs, forward, torch.float32, probes, seed), torch.float32
    except ForwardError as failure:
        error = failure.args[0]
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors_in(inputs)) or type(inputs).__name__
        if forward is not None:
            raise InvalidInputError(
                f"your forward raised {type(error).__name__}: {error} (inputs: {shapes}). "
                f"{_cure_of(error, model, inputs) or ''}".removesuffix(". ")
            ) from error
        said = str(error).split("\n", 1)[0]  # some go on with every signature that there is
        raise InvalidInputError(
            f"the inputs ({shapes}) do not fit {type(model).__name__}: its forward raised "
            f"{type(error).__name__}: {said}. {_cure_of(error, model, inputs) or _OTHER_CURE}"
        ) from error


# What a forward may raise, and what helps.
_CURES = (
    (
        "more than 1 value per channel",
        "Probe with a batch of more than one sample: of one value nothing is left",
    ),
    ("more than 1 spatial element", "Probe with larger inputs: of one position nothing is left to normalize"),
    ("on the same device", "Move the inputs to the device of the model"),
    ("index out of range in self", "The inputs hold indices that an embedding does not have"),
    (
        "positional argument",
        "Of a batch (x, y) of a loader pass x alone; a list of samples wants torch.stack; else a tuple goes "
        "in as model(*inputs)",
    ),
    ("unexpected keyword argument", "A mapping goes in as model(**inputs)"),
)
_OTHER_CURE = (
    "A tuple goes in as model(*inputs), a mapping as model(**inputs); for anything else pass forward="
)


def _cure_of(error: Exception, model: nn.Module, inputs: Any) -> str | None:
    tensors = list(tensors_in(inputs))
    there, here = {one.device for one in model.parameters()}, {one.device for one in tensors}
    if len(there) == 1 and here - there:
        away, home = str(next(iter(here - there))), str(next(iter(there)))
        return f"An input is on {away} and the model on {home}: pass inputs.to({home!r})"
    if tensors and "should be the same" in str(error) and not any(one.is_floating_point() for one in tensors):
        return f"The inputs are {tensors[0].dtype}: pass inputs.float(), normalized as for training"
    return next((cure for words, cure in _CURES if words in str(error)), None)


def _kind_faults(inputs: Any) -> list[str]:
    """What people pass in place of a batch."""
    kind = type(inputs).__name__
    if isinstance(inputs, (Iterator, DataLoader, Dataset)):
        return [f"inputs must be a batch, got a {kind}: take one with x, y = next(iter(loader)) and pass x"]
    listed = inputs.values() if isinstance(inputs, Mapping) else inputs
    listed = listed if isinstance(listed, (list, tuple)) or listed is not inputs else [inputs]
    if any(hasattr(one, "__array__") and not isinstance(one, Tensor) for one in listed):
        return ["inputs are numpy arrays: pass tensors, torch.from_numpy(array).float()"]
    if inputs is None or isinstance(inputs, (str, bytes, int, float)):
        return [f"inputs must be what the model is called with, a batch of tensors, got {inputs!r:.60}"]
    return []


def _verdict_of(finding: Finding, parameter: Tensor, dtype: torch.dtype) -> VerdictName:
    if not parameter.requires_grad:
        return "frozen"
    if finding.partition or finding.says in ("sign", "choice", "detached"):
        return "invariant"
    has_moved = finding.failed_finite and finding.moves > PRECISIONS[dtype].effect
    if finding.says in ("moves", "weak", "moves elsewhere") or has_moved:
        return "not_invariant"
    if finding.is_silent or finding.is_mostly_silent or finding.moves < TOLERANCES[dtype].moved:
        return "undecided"
    return "not_invariant"


def _weight_of(name: str, finding: Finding) -> ScaleInvariantWeight:
    assert finding.partition is not None
    blocks = finding.partition.blocks
    return ScaleInvariantWeight(
        name,
        finding.bias,
        blocks.axis,
        blocks.block_sizes,
        finding.norm_layers,
        finding.partition.residual,
        blocks.groups,
        blocks.starts,
    )


def _names(model: nn.Module) -> dict[int, list[str]]:
    """All names of each parameter: a tied one has several."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return names


def _left_out(
    names: list[str], finding: Finding, included: list[str] | None, excluded: list[str]
) -> tuple[LeftOut, str] | None:
    """Why a scale-invariant parameter is not in the result, for programs and for people, or None."""
    for pattern in excluded:
        if fnmatch.filter(names, pattern):
            return "excluded", f"excluded by {pattern!r}"
    if finding.says == "sign":
        return "sign", "a sign is no direction to keep"
    if finding.says in ("choice", "detached"):
        return "no gradient", "no gradient turns it, so that its norm sets no step"
    if included is None:
        return (
            ("numbers", "its rows are single numbers, without a direction to keep; include= holds it too")
            if finding.is_vector
            else None
        )
    is_included = any(fnmatch.filter(names, pattern) for pattern in included)
    return None if is_included else ("not included", "matched by no pattern of include=")


def _patterns(name: str, patterns: str | Iterable[str] | None) -> list[str] | None:
    if patterns is None:
        return None
    listed = [patterns] if isinstance(patterns, str) or not isinstance(patterns, Iterable) else [*patterns]
    if not all(isinstance(pattern, str) for pattern in listed):
        raise InvalidInputError(f"{name} must be glob patterns over parameter names, got {patterns!r:.60}")
    return listed


def _check_arguments(
    model: nn.Module,
    inputs: Any,
    forward: Any,
    probes: Any,
    seed: Any,
    dtype: Any,
    patterns: Mapping[str, list[str]],
) -> None:
    parameters = {
        name: one
        for name, one in model.named_parameters()
        if one.is_floating_point() or one.is_quantized or is_flat_parameter(one)
    }
    faults = unsupported_weights(parameters)
    sharded = [name for name, one in parameters.items() if is_sharded(one)]
    if sharded:
        faults.append(
            f"{', '.join(sharded[:4])} are spread over processes (DTensor): look for weights before "
            "fully_shard or parallelize_module, and use what was found after it"
        )
    more = [f"and {len(faults) - 4} more"] if len(faults) > 4 else []
    about = "these parameters cannot be probed: "
    raise_all(faults_of(UnsupportedWeightError, faults[:4] + more), about=about)
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    wrong = [
        f"{argument}: {pattern!r} matches no parameter{closest(pattern, names)}"
        for argument, listed in patterns.items()
        for pattern in listed
        if not fnmatch.filter(names, pattern)
    ]
    wrong += [] if names else [f"{type(model).__name__} has no parameters, so there is nothing to find"]
    wrong += _kind_faults(inputs) if forward is None else []
    if forward is not None and not callable(forward):
        wrong.append(f"forward must be a function of a model and its inputs, got {forward!r}")
    if isinstance(seed, bool) or not isinstance(seed, int) or not -(2**63) <= seed < 2**64:
        wrong.append(f"seed must be a whole number of at most 64 bits, got {seed!r:.60}")
    wrong += whole_number_faults("probes", probes)
    if dtype not in (None, torch.float32, torch.float64):
        wrong.append(f"dtype must be torch.float64, torch.float32 or None, got {dtype!r}")
    meta = [name for name, buffer in model.named_buffers() if buffer.is_meta]
    meta += ["an input"] if any(tensor.is_meta for tensor in tensors_in(inputs)) else []
    wrong += [f"{name} is on the meta device and has no values" for name in meta]
    dense = [one for one in tensors_in(inputs) if one.layout == torch.strided and not one.is_nested]
    if any(one.is_nested and one.layout == torch.strided for one in tensors_in(inputs)):
        wrong.append("an input is nested without its sizes: make it with layout=torch.jagged")
    floating = [tensor for tensor in dense if tensor.is_floating_point() and tensor.numel() > 1]
    if not meta and floating and all(bool((tensor == tensor.flatten()[0]).all()) for tensor in floating):
        wrong.append(
            "the inputs are constant, so that normalizations see no variance: "
            "use random ones, like torch.randn"
        )
    raise_all(faults_of(InvalidInputError, wrong))


def _warn_of_eval_mode(model: nn.Module, weights: Sequence[ScaleInvariantWeight]) -> None:
    modules = dict(model.named_modules())
    tracked = [modules[name] for name in tracked_modules(model)]
    if tracked and not any(module.training for module in tracked):
        warnings.warn(
            f"{len(tracked)} normalizations with running statistics are in eval mode: they divide by fixed "
            f"numbers, so no weight before them is scale-invariant ({len(weights)} found elsewhere); call "
            "model.train() first if you train them",
            stacklevel=3,
        )
