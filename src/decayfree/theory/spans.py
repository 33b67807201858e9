"""Where do updates of weights without scale lie, and what becomes of the part of a weight outside?

In the span of the centered inputs that were seen; and by one law for each optimizer. Looks at layers whose
inputs do not depend on any parameter, so that their span stays what it is; deep layers usually see every
direction, and then there is nothing outside.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.overrides import TorchFunctionMode

from decayfree.arguments.kinds import COUNT, checked
from decayfree.blocks import scale_blocks_
from decayfree.rescaling.weight_rescaling import WeightRescaling
from decayfree.span.input_span import InputSpan
from decayfree.span.layer_span import LayerSpan
from decayfree.theory.check import Check, difference, equality, figure, not_applicable
from decayfree.theory.subject import Subject
from decayfree.theory.trajectory import (
    MakeOptimizer,
    Step,
    Training,
    combined,
    direction_distances,
    largest,
    together,
    training,
)

N_STEPS = 60
"""Of a training, unless told otherwise."""
_PAPER = "2102.03497v1"
_TOLERANCE = 1e-6
_MAX_FEATURES = 1200
_UNCLEAR = 1e-12
_NOTHING_OUTSIDE = "No scale-invariant weight whose inputs are fixed has a direction outside their span."

NOISE_STORY = (
    "The paper's weight noise: under SGD, momentum and Adam the part outside the span has no influence at "
    "all on training. It acts only where test inputs leave the span of the training inputs. Under WRS it "
    "matters, since it takes a share of the fixed norm."
)


@checked()
def gradients_in_span(subject: Subject) -> Check:
    """In any layer a row's gradient lies in the span of its batch's inputs (centered before a BatchNorm)."""
    statement = "Gradients lie in the span of the batch's inputs, in every layer"
    twin = subject.copy()
    with InputSpan(twin.model, twin.found, centered=subject.is_centered, max_features=_MAX_FEATURES) as spans:
        gradients = twin.gradients(0)
    elsewhere = _used_elsewhere(subject)
    names = [weight.name for weight in twin.found if weight.name in spans and weight.name not in elsewhere]
    low = [name for name in names if _has_outside(spans[name]) and bool(gradients[name].any())]
    if not low:
        return not_applicable(
            statement, _PAPER, "In every layer that was watched this batch reaches every direction."
        )
    shares = [float(spans[name].off_span(gradients[name]).norm() / gradients[name].norm()) for name in low]
    residual = largest(shares)
    return Check(
        statement,
        _PAPER,
        f"‖Qg‖/‖g‖ ≤ {figure(residual)}",
        "0",
        residual,
        _TOLERANCE,
        f"{len(low)} of {len(names)} layers see fewer directions in one batch than their rows have numbers; "
        f"at most {_MAX_FEATURES} numbers a row were looked at.",
    )


@checked(n_steps=COUNT)
def updates_in_span(
    subject: Subject, make_optimizer: MakeOptimizer = torch.optim.SGD, *, n_steps: int = N_STEPS
) -> Check:
    """SGD moves a weight only inside the span of the centered inputs: Δw = P·Δw.

    References:
        Liu et al., arXiv 2102.03497v1, the second statement.
    """
    statement = "SGD moves weights only in the span of their centered inputs"
    spans = _fixed_spans(subject, n_steps)
    if not spans:
        return not_applicable(statement, _PAPER, _NOTHING_OUTSIDE)
    residual = largest(
        [share for _, share in _shares_outside(subject, spans, make_optimizer, n_steps, momentum=0.9)]
    )
    return Check(
        statement,
        _PAPER,
        f"‖QΔw‖/‖Δw‖ ≤ {figure(residual)}",
        "0",
        residual,
        _TOLERANCE,
        f"{_names(spans)}; every update of {n_steps} steps with momentum 0.9.",
    )


@checked(n_steps=COUNT)
def adam_leaves_the_span(
    subject: Subject, make_optimizer: Callable[..., Optimizer] = torch.optim.Adam, *, n_steps: int = N_STEPS
) -> Check:
    """Elementwise optimizers leave the span; the statement fails where they do not."""
    statement = "Adam's updates leave the span"
    spans = _fixed_spans(subject, n_steps)
    if not spans:
        return not_applicable(statement, "algebra", _NOTHING_OUTSIDE)
    spans = {name: span for name, span in spans.items() if _signs_leave(span)}
    if not spans:
        return not_applicable(
            statement, "algebra", "The span is closed under signs: features that are zero or equal."
        )
    shares = [share for _, share in _shares_outside(subject, spans, make_optimizer, n_steps)]
    mean = sum(shares) / len(shares)
    return difference(
        statement,
        "algebra",
        f"‖QΔw‖/‖Δw‖ = {mean:.2g}",
        mean,
        f"{_names(spans)}; mean over {n_steps} steps. So the statement above is about SGD, "
        "and Adam brings noise in by itself.",
    )


@checked(n_steps=COUNT)
def off_span_part_stays(
    subject: Subject, make_optimizer: MakeOptimizer = torch.optim.SGD, *, n_steps: int = N_STEPS
) -> Check:
    """Without decay Qw_t = Qw_0, with any momentum."""
    statement = "Without decay the part outside the span stays: Qw = Qw₀"
    return _law(subject, statement, make_optimizer, n_steps, decayed=False, momentum=0.9)


@checked(n_steps=COUNT)
def off_span_part_decays(
    subject: Subject, make_optimizer: MakeOptimizer = torch.optim.SGD, *, n_steps: int = N_STEPS
) -> Check:
    """Under SGD with L2, Qw_t = (1−ηλ)^t·Qw_0."""
    statement = "Under decay it shrinks geometrically: Qw = (1−ηλ)ᵗ·Qw₀"
    return _law(subject, statement, make_optimizer, n_steps, decayed=True, momentum=0.0)


@checked(n_steps=COUNT)
def off_span_part_decays_with_momentum(
    subject: Subject, make_optimizer: MakeOptimizer = torch.optim.SGD, *, n_steps: int = N_STEPS
) -> Check:
    """Under momentum with L2, q_{t+1} = (1+μ−ηλ)q_t − μq_{t−1}, q_1 = (1−ηλ)q_0; not (1−ηλ)^t."""
    statement = "With momentum by q₊ = (1+μ−ηλ)q − μq₋, not (1−ηλ)ᵗ"
    caution = "Momentum makes decay act 1/(1−μ) times as fast as (1−ηλ)ᵗ says, and with a delay."
    return _law(subject, statement, make_optimizer, n_steps, decayed=True, momentum=0.9, caution=caution)


@checked(n_steps=COUNT)
def off_span_part_under_rescaling(
    subject: Subject, make_optimizer: MakeOptimizer = torch.optim.SGD, *, n_steps: int = N_STEPS
) -> Check:
    """Under WRS Qw_t = Qw_0/Π r̃_s: it shrinks by exactly the ratio by which steps stretch the weight."""
    statement = "Under WRS it shrinks by the growth of the norm: Qw = Qw₀/Πr̃"
    spans = _fixed_spans(subject, n_steps)
    if not spans:
        return not_applicable(statement, _PAPER, _NOTHING_OUTSIDE)
    run = training(subject, make_optimizer, lr=subject.learning_rate(), momentum=0.9)
    rescaling = WeightRescaling(run.optimizer, run.subject.found)
    weights = {weight.name: weight for weight in run.subject.found}
    expected = {name: span.off_span(run.subject.parameters[name].detach()) for name, span in spans.items()}
    start = {name: part.clone() for name, part in expected.items()}
    residuals = []
    for step in run.steps(n_steps):
        for name, span in spans.items():
            scale_blocks_(expected[name], rescaling.factors[name], weights[name].blocks)
            residuals.append(_distance(span.off_span(step.after[name]), expected[name], start[name]))
    left = min(float(expected[name].norm() / start[name].norm()) for name in spans)
    return equality(
        statement,
        _PAPER,
        largest(residuals),
        _TOLERANCE,
        f"{_names(spans)}; momentum 0.9, {n_steps} steps, after which {left:.1%} of it is left.",
    )


@checked(n_steps=COUNT)
def training_ignores_the_outside(
    subject: Subject, make_optimizer: Callable[..., Optimizer] = torch.optim.SGD, *, n_steps: int = N_STEPS
) -> Check:
    """The in-span trajectory does not depend on Qw_0."""
    name = make_optimizer.__name__ if isinstance(make_optimizer, type) else "the optimizer"
    lr = subject.learning_rate() if name == "SGD" else 1e-3
    settings = {"momentum": 0.9} if name == "SGD" else {}
    label = "Momentum" if settings else name
    statement = f"{label}: what training does inside the span does not depend on the part outside"
    spans = _fixed_spans(subject, n_steps)
    if not spans:
        return not_applicable(statement, "algebra", _NOTHING_OUTSIDE)
    one, other = _ends_inside(
        subject, spans, lambda twin: training(twin, make_optimizer, lr=lr, **settings), n_steps
    )
    return equality(
        statement,
        "algebra",
        largest([_distance(other[name], one[name], one[name]) for name in spans]),
        _TOLERANCE,
        f"{_names(spans)}; two trainings of {n_steps} steps, one of them with twice the part "
        "outside, compared inside.",
        NOISE_STORY,
    )


@checked(n_steps=COUNT)
def rescaled_training_feels_the_outside(
    subject: Subject, make_optimizer: MakeOptimizer = torch.optim.SGD, *, n_steps: int = N_STEPS
) -> Check:
    """Under WRS the in-span trajectory depends on ‖Qw_0‖, a share of the fixed norm; fails if it does not."""
    statement = "Under WRS it does: the part outside takes a share of the norm"
    lr = subject.learning_rate()

    def rescaled(twin: Subject) -> Training:
        run = training(twin, make_optimizer, lr=lr)
        WeightRescaling(run.optimizer, run.subject.found)
        return run

    spans = _fixed_spans(subject, n_steps)
    if not spans:
        return not_applicable(statement, "algebra", _NOTHING_OUTSIDE)
    one, other = _ends_inside(subject, spans, rescaled, n_steps)
    weights = [replace(weight, bias=None) for weight in subject.found if weight.name in spans]
    apart = largest([float(direction_distances(one, other, weight).max()) for weight in weights])
    return difference(
        statement,
        "algebra",
        f"apart by {figure(apart)}",
        apart,
        f"{_names(spans)}; two trainings of {n_steps} steps, one of them with twice the part outside, block "
        "directions compared inside.",
    )


def _law(
    subject: Subject,
    statement: str,
    make_optimizer: MakeOptimizer,
    n_steps: int,
    *,
    decayed: bool,
    momentum: float,
    caution: str = "",
) -> Check:
    spans = _fixed_spans(subject, n_steps)
    if not spans:
        return not_applicable(statement, _PAPER, _NOTHING_OUTSIDE)
    lr = subject.learning_rate(0.03 * (1 - momentum))
    turn = (1.0 - momentum) / n_steps if decayed else 0.0
    settings: dict[str, Any] = {"momentum": momentum} if momentum else {}
    run = training(subject, make_optimizer, lr=lr, weight_decay=turn / lr, **settings)
    start = {name: span.off_span(subject.parameters[name].detach()) for name, span in spans.items()}
    shares, residuals = [1.0, 1.0 - turn], []
    for step in run.steps(n_steps):
        for name, span in spans.items():
            residuals.append(
                _distance(span.off_span(step.after[name]), shares[-1] * start[name], start[name])
            )
        shares.append((1 + momentum - turn) * shares[-1] - momentum * shares[-2])
    plain = f", where (1−ηλ)ᵗ says {(1 - turn) ** n_steps:.1%}" if decayed and momentum else ""
    return equality(
        statement,
        _PAPER if not momentum or not decayed else "algebra",
        largest(residuals),
        _TOLERANCE,
        f"{_names(spans)}; {n_steps} steps with momentum {momentum:g}, "
        f"after which {shares[-2]:.1%} of it is left{plain}.",
        caution,
    )


def _shares_outside(
    subject: Subject,
    spans: dict[str, LayerSpan],
    make_optimizer: MakeOptimizer,
    n_steps: int,
    **settings: Any,
) -> Iterator[tuple[Step, float]]:
    lr = 1e-3 if not settings else subject.learning_rate()
    run = training(subject, make_optimizer, lr=lr, **settings)
    for step in run.steps(n_steps):
        update = combined((1.0, step.after), (-1.0, step.before))
        for name, span in spans.items():
            size = float(update[name].norm())
            if size:
                yield step, float(span.off_span(update[name]).norm()) / size


def _ends_inside(
    subject: Subject, spans: dict[str, LayerSpan], train: Callable[[Subject], Training], n_steps: int
) -> list[dict[str, Tensor]]:
    """In-span parts at the ends of two trainings, the second of which starts with twice the part outside."""
    runs = []
    for times in (1.0, 2.0):
        twin = subject.copy()
        with torch.no_grad():
            for name, span in spans.items():
                weight = twin.parameters[name]
                weight.add_((times - 1.0) * span.off_span(weight.detach()))
        runs.append(train(twin))
    for _ in together(runs, n_steps):
        pass
    return [
        {name: span.in_span(run.subject.parameters[name].detach()) for name, span in spans.items()}
        for run in runs
    ]


def _fixed_spans(subject: Subject, n_steps: int) -> dict[str, LayerSpan]:
    """Spans, by weight, of layers whose inputs depend on no parameter and leave out some direction."""
    key = f"fixed spans of {n_steps} steps"
    if key not in subject.notes:
        first, second = (_watched(subject, n_steps, perturbed) for perturbed in (False, True))
        subject.notes[key] = {
            name: span
            for name, span in first.items()
            if torch.equal(span.second_moment, second[name].second_moment) and _has_outside(span)
        }
    spans: dict[str, LayerSpan] = subject.notes[key]
    return spans


def _signs_leave(span: LayerSpan) -> bool:
    """Whether the signs of an in-span direction lie off the span, as an elementwise first step does."""
    generator = torch.Generator().manual_seed(0)
    inside = span.in_span(torch.randn(span.layout.shape, generator=generator, dtype=torch.float64))
    signs = torch.where(inside.abs() > 1e-9 * inside.abs().max(), inside.sign(), 0.0)
    return float(span.off_span(signs).norm()) > 0.01 * float(signs.norm())


def _has_outside(span: LayerSpan) -> bool:
    """Whether a direction is off the span, and all that are so are it by far, in any units of features."""
    deviations = span.second_moment.diagonal(dim1=1, dim2=2).sqrt()
    seen = torch.where(deviations > 0, 1 / deviations, 0.0)
    spectrum = torch.linalg.eigvalsh(span.second_moment * seen[:, :, None] * seen[:, None, :])
    ranks = (spectrum > _UNCLEAR * spectrum[:, -1:]).sum(1)
    return torch.equal(ranks, span.rank().to(ranks)) and int(ranks.min()) < span.n_features


def _watched(subject: Subject, n_steps: int, perturbed: bool) -> dict[str, LayerSpan]:
    twin = subject.copy()
    if perturbed:
        with torch.no_grad():
            generator = torch.Generator().manual_seed(0)
            for parameter in twin.parameters.values():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    with (
        InputSpan(twin.model, twin.found, centered=subject.is_centered, max_features=_MAX_FEATURES) as span,
        torch.no_grad(),
    ):
        for step in range(n_steps):
            twin.run(step)
    elsewhere = _used_elsewhere(subject)
    # Rows that have a scale follow laws of their own.
    whole = [weight.name for weight in twin.found if not weight.blocks.is_partial]
    return {name: span[name] for name in whole if name in span and name not in elsewhere}


class _Uses(TorchFunctionMode):
    """Counts how often each of some tensors is an argument of a function."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        super().__init__()
        self.n_uses = dict.fromkeys(map(id, tensors), 0)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if getattr(func, "__name__", "") != "__get__":  # a look at a shape or a device is no use
            for argument in (*args, *(kwargs or {}).values()):
                if id(argument) in self.n_uses:
                    self.n_uses[id(argument)] += 1
        return func(*args, **(kwargs or {}))


def _used_elsewhere(subject: Subject) -> set[str]:
    """Weights that are also used outside the modules that own them, where nobody watches their inputs."""
    twin = subject.copy()
    weights = {weight.name: twin.parameters[weight.name] for weight in twin.found}
    n_calls = dict.fromkeys(map(id, weights.values()), 0)

    def count(module: nn.Module, inputs: Any) -> None:
        for parameter in module.parameters(recurse=False):
            if id(parameter) in n_calls:
                n_calls[id(parameter)] += 1

    for module in twin.model.modules():
        module.register_forward_pre_hook(count)
    with torch.no_grad(), _Uses(weights.values()) as uses:
        twin.run(0)
    return {name for name, weight in weights.items() if uses.n_uses[id(weight)] > n_calls[id(weight)]}


def _distance(a: Tensor, b: Tensor, size: Tensor) -> float:
    return float((a - b).norm() / size.norm())


def _names(spans: dict[str, LayerSpan]) -> str:
    return ", ".join(
        f"{name} (rank {int(span.rank().min())} of {span.n_features})" for name, span in spans.items()
    )
