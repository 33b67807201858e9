"""Does scaling decide where gradients say nothing, or not the truth? Weights of which the answer is known.

Each kind of gradient that is no derivative, each kind of zero gradient, clips that nothing reaches yet, and
buffers that hide a dependence by being zero.
"""

import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from decayfree import InvalidInputError, Invariance, Verdict, find_invariant
from decayfree.invariance.by_scaling import PRECISIONS, Nudge, liars, nudges
from decayfree.invariance.perturbed_buffers import perturb_buffers_
from decayfree.invariance.probe import Probe, Ran
from support.zoo_entry import net, tail

ROWS = torch.randn(12, 5, generator=torch.Generator().manual_seed(1))
PICTURES = torch.randn(6, 3, 8, 7, generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def fixed_weights() -> None:
    torch.manual_seed(0)


def verdict_of(model: nn.Module, inputs: Tensor, name: str) -> Verdict:
    return find_invariant(model, inputs).verdicts[name]


# Gradients that are not the derivative


class Backwards(torch.autograd.Function):
    """The identity; its gradient is multiplied by a number."""

    @staticmethod
    def forward(ctx, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.clone()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.factor * gradient, None


class Changed(nn.Module):
    """A linear layer with a function of its weight, a norm or none, and a head."""

    def __init__(self, function: Callable[[Tensor], Tensor], *, norm: bool = True) -> None:
        super().__init__()
        self.function = function
        self.fc = nn.Linear(5, 6, bias=False)
        self.norm = nn.BatchNorm1d(6) if norm else nn.Identity()
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.norm(F.linear(x, self.function(self.fc.weight)))))


def through(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The values of a function, with the gradient of the identity."""
    return lambda weight: weight + (function(weight) - weight).detach()


def quantized(weight: Tensor) -> Tensor:
    """To four bits, with the largest number of each row as the unit."""
    unit = weight.abs().amax(1, keepdim=True) / 7
    return (weight / unit).round() * unit


def on_a_grid(weight: Tensor) -> Tensor:
    return (weight * 8).round() / 8


FREE = {
    "signs under a norm": Changed(through(torch.sign)),
    "signs without a norm": Changed(through(torch.sign), norm=False),
    "signs times their mean size": Changed(through(lambda w: w.sign() * w.abs().mean(1, keepdim=True))),
    "four bits of the largest": Changed(through(quantized)),
    "a reversed gradient": Changed(lambda w: Backwards.apply(w, -1.0)),
    "a gradient scaled inside": Changed(lambda w: Backwards.apply(w, 0.1)),
}


@pytest.mark.parametrize("kind", FREE)
def test_a_weight_that_scaling_does_not_move_is_invariant_whatever_its_gradient(kind: str) -> None:
    found = find_invariant(FREE[kind], ROWS)
    assert found["fc.weight"].block_sizes == (1,) * 6, found.verdicts["fc.weight"].reason


def test_an_untrue_gradient_is_said_to_be_one() -> None:
    for kind in ("signs under a norm", "signs without a norm", "four bits of the largest"):
        assert "gradient is not the derivative" in verdict_of(FREE[kind], ROWS, "fc.weight").reason
    plain = find_invariant(Changed(lambda w: w), ROWS)
    assert not any("derivative" in verdict.reason for verdict in plain.verdicts.values())


SCALED = {
    "a fixed grid": Changed(through(on_a_grid)),
    "a fixed grid without a norm": Changed(through(on_a_grid), norm=False),
    "a reversed gradient without a norm": Changed(lambda w: Backwards.apply(w, -1.0), norm=False),
    "a gradient scaled inside without a norm": Changed(lambda w: Backwards.apply(w, 0.1), norm=False),
    "half of it detached": Changed(lambda w: w + 0.5 * w.sign().detach()),
    "all of it detached": Changed(lambda w: w.detach(), norm=False),
    "rounded without a gradient": Changed(on_a_grid),
}


@pytest.mark.parametrize("kind", SCALED)
def test_a_weight_that_scaling_moves_is_not_invariant_whatever_its_gradient(kind: str) -> None:
    verdict = verdict_of(SCALED[kind], ROWS, "fc.weight")
    assert verdict.verdict == "not_invariant", verdict.reason
    assert verdict.measured > 1e-5


class Measured:
    """Trials in which φ moves by the numbers that changes hold, and by what bends between many of them."""

    outputs = 0.0

    def __init__(self, bend: float = 0.0) -> None:
        self.bend = bend
        self.probe = SimpleNamespace(functional_change=lambda before, after: after - before)

    def run(self, *changes: dict[str, float]) -> SimpleNamespace:
        return SimpleNamespace(outputs=sum(one["moves"] for one in changes) + self.bend * len(changes) ** 2)


def test_what_many_honest_gradients_miss_together_makes_none_of_them_a_liar() -> None:
    """Curvature between n parameters grows with n², and passes the limit for sixteen and not for eight."""
    precision = PRECISIONS[torch.float64]
    step = precision.step
    made = {str(index): Nudge({"moves": step}, {"moves": -step}, step) for index in range(16)}
    assert liars(Measured(5e-4 * step), made, precision) == []
    made["a"] = Nudge({"moves": 0.0}, {"moves": 0.0}, step)
    assert liars(Measured(5e-4 * step), made, precision) == ["a"]


@pytest.mark.parametrize(("there", "back"), [(0.7, -1.0), (1.4, -0.6)], ids=["a ReLU", "curvature"])
def test_what_shows_in_one_direction_or_not_between_the_two_makes_no_liar(there: float, back: float) -> None:
    precision = PRECISIONS[torch.float64]
    step = precision.step
    made = {"bent": Nudge({"moves": there * step}, {"moves": back * step}, step)}
    assert liars(Measured(), made, precision) == []


def test_one_liar_among_many_honest_ones_is_found() -> None:
    layers = [layer for _ in range(12) for layer in (nn.Linear(5, 5), nn.Tanh())]
    model = nn.Sequential(*layers, Changed(through(torch.sign), norm=False))
    found = find_invariant(model, ROWS)
    assert [weight.name for weight in found] == ["24.fc.weight"]
    others = [verdict for name, verdict in found.verdicts.items() if name != "24.fc.weight"]
    assert not any("derivative" in verdict.reason for verdict in others)


@pytest.mark.parametrize("seed", range(6))
def test_what_two_untrue_gradients_promise_does_not_cancel(seed: int) -> None:
    torch.manual_seed(seed)
    first, second = (Changed(through(torch.sign), norm=False) for _ in range(2))
    found = find_invariant(nn.Sequential(first, nn.Linear(3, 5), second), ROWS, seed=seed)
    assert [weight.name for weight in found] == ["0.fc.weight", "2.fc.weight"]


class Routed(nn.Module):
    """One of two experts, chosen by the largest of two numbers; a third is never asked."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(5, 2, bias=False)
        self.experts = nn.ModuleList(nn.Linear(5, 3) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        chosen = self.router(x).argmax(-1)
        outputs = x.new_zeros(len(x), 3)
        for index, expert in enumerate(self.experts):
            outputs[chosen == index] += expert(x[chosen == index])
        return outputs


def test_a_router_that_is_only_asked_which_is_larger_has_no_scale() -> None:
    verdict = verdict_of(Routed(), ROWS, "router.weight")
    assert (verdict.verdict, verdict.left_out) == ("invariant", "no gradient")
    assert "argmax" in verdict.reason


def test_an_expert_that_no_input_reaches_is_undecided_and_said_so() -> None:
    found = find_invariant(Routed(), ROWS)
    assert found.verdicts["experts.0.weight"].verdict == "not_invariant"
    unused = found.verdicts["experts.2.weight"]
    assert unused.verdict == "undecided"
    assert "do not reach it" in unused.reason


# Zero gradients


class Branches(nn.Module):
    """A kernel of 3×3 and one of a single number for each channel, each before a norm, as in MobileOne."""

    def __init__(self, *, head: bool = True) -> None:
        super().__init__()
        self.wide, self.norm3 = nn.Conv2d(3, 3, 3, padding=1, groups=3), nn.BatchNorm2d(3)
        self.narrow, self.norm1 = nn.Conv2d(3, 3, 1, groups=3, bias=False), nn.BatchNorm2d(3)
        self.head = nn.Linear(3, 2) if head else None

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm3(self.wide(x)) + self.norm1(self.narrow(x)))
        return self.head(x.mean((2, 3))) if self.head else x


def test_of_kernels_of_one_number_only_the_sign_counts() -> None:
    found = find_invariant(Branches(), PICTURES)
    assert [weight.name for weight in found] == ["wide.weight"]
    verdict = found.verdicts["narrow.weight"]
    assert (verdict.verdict, verdict.left_out) == ("invariant", "sign")
    assert "signs of its numbers count" in verdict.reason


class Factor(nn.Module):
    """One number that all channels are multiplied by."""

    def __init__(self, name: str, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.register_parameter(name, nn.Parameter(torch.full(shape, 0.7)))

    def forward(self, x: Tensor) -> Tensor:
        return x * next(self.parameters())


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (1,), ()], ids=str)
@pytest.mark.parametrize("name", "abcd")
def test_a_single_number_before_a_norm_is_turned_around(name: str, shape: tuple[int, ...]) -> None:
    conv, norm, head = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Linear(4 * 6 * 5, 2)
    model = nn.Sequential(conv, Factor(name, shape), norm, nn.ReLU(), nn.Flatten(), head)
    verdict = verdict_of(model, PICTURES, f"1.{name}")
    assert (verdict.verdict, verdict.left_out) == ("invariant", "sign"), verdict.reason


def test_what_only_works_with_its_bias_and_has_no_gradient_says_so() -> None:
    """LayerNorm of two numbers keeps which is larger: the bias decides it as well as the weight."""
    model = nn.Sequential(nn.Linear(5, 2), nn.LayerNorm(2), nn.Tanh(), nn.Linear(2, 3))
    verdict = verdict_of(model, ROWS, "0.weight")
    assert (verdict.verdict, verdict.left_out) == ("invariant", "no gradient")
    assert "scaling it together with 0.bias moves nothing" in verdict.reason


def test_a_bias_before_a_norm_is_no_kernel_of_one_number() -> None:
    verdict = verdict_of(Branches(), PICTURES, "wide.bias")
    assert (verdict.verdict, verdict.left_out) == ("undecided", "")
    assert "bias before it" in verdict.reason


def test_many_kernels_of_one_number_take_no_more_runs_than_a_few(monkeypatch: pytest.MonkeyPatch) -> None:
    run, n_runs = Probe.run, 0

    def counted(probe: Probe, **options: Any) -> Ran:
        nonlocal n_runs
        n_runs += 1
        return run(probe, **options)

    monkeypatch.setattr(Probe, "run", counted)
    counts = []
    for n_stages in (2, 8):
        n_runs, stages = 0, [Branches(head=False) for _ in range(n_stages)]
        find_invariant(nn.Sequential(*stages, nn.Flatten(), nn.Linear(3 * 8 * 7, 2)), PICTURES)
        counts.append(n_runs)
    # A probe, the confirmations, a large ε, both ways, other sizes, and a look for two values.
    assert counts == [8, 8]


def test_kernels_that_see_one_pixel_are_kernels_of_one_number() -> None:
    model = net(
        stem=nn.Conv2d(3, 6, 3, stride=3, bias=False),
        mean=nn.AdaptiveAvgPool2d(1),
        conv=nn.Conv2d(6, 6, 3, padding=1, groups=6, bias=False),
        norm=nn.BatchNorm2d(6),
        **tail(6),
    )
    verdict = verdict_of(model, PICTURES, "conv.weight")
    assert (verdict.verdict, verdict.left_out) == ("invariant", "sign")


def test_kernels_of_one_number_without_a_norm_have_a_scale() -> None:
    model = net(conv=nn.Conv2d(3, 3, 1, groups=3, bias=False), **tail(3))
    assert verdict_of(model, PICTURES, "conv.weight").verdict == "not_invariant"


class Gated(nn.Module):
    """A factor that a ReLU keeps at zero."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.tensor([[-2.0]]))
        self.fc = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) * (1 + F.relu(self.gate))


def test_what_sleeps_is_judged_where_it_is_awake() -> None:
    verdict = verdict_of(Gated(), ROWS, "gate")
    assert verdict.verdict == "not_invariant", verdict.reason
    assert "at other values" in verdict.reason


# Too few values


def test_a_batchnorm_of_two_values_is_named_and_a_larger_batch_asked_for() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(4), nn.Flatten()
    )
    verdict = verdict_of(nn.Sequential(model, nn.Linear(4, 2)), PICTURES[:2], "0.0.weight")
    assert verdict.verdict == "undecided"
    assert "0.3 (BatchNorm2d) sees two values" in verdict.reason
    assert "larger batch" in verdict.reason
    assert verdict_of(nn.Sequential(model, nn.Linear(4, 2)), PICTURES, "0.0.weight").verdict == "invariant"


@pytest.mark.parametrize(
    "norm", [nn.InstanceNorm2d(4, affine=True), nn.GroupNorm(2, 4)], ids=["instance", "group"]
)
def test_other_norms_of_two_values_are_named_too(norm: nn.Module) -> None:
    pool = nn.AdaptiveAvgPool2d((2, 1) if isinstance(norm, nn.InstanceNorm2d) else 1)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.ReLU(), pool, norm, nn.Flatten())
    verdict = verdict_of(model, PICTURES, "0.weight")
    assert verdict.verdict == "undecided"
    assert "sees two values" in verdict.reason


CURES = {
    "one sample": (nn.BatchNorm1d(5), ROWS[:1], "more than one sample"),
    "one position": (nn.InstanceNorm2d(3, affine=True), PICTURES[:, :, :1, :1], "larger inputs"),
    "an index too large": (nn.Embedding(3, 2), torch.arange(5), "indices that an embedding does not have"),
}


@pytest.mark.parametrize("kind", CURES)
def test_an_error_of_the_model_comes_with_the_cure_that_fits(kind: str) -> None:
    model, inputs, cure = CURES[kind]
    with pytest.raises(InvalidInputError, match=cure) as refused:
        find_invariant(model, inputs)
    assert "mapping" not in str(refused.value)
    with pytest.raises(InvalidInputError, match=cure):
        find_invariant(model, inputs, forward=lambda model, x: model(x))


# Clips that nothing reaches yet

CLIPS = {
    "ReLU6": nn.ReLU6(),
    "above 4": nn.Hardtanh(-1e9, 4.0),
    "between -3 and 3": nn.Hardtanh(-3.0, 3.0),
    "below a hundredth": nn.Hardshrink(0.001),
}
NORMS = {
    "LayerNorm": lambda: nn.LayerNorm(32),
    "RMSNorm": lambda: nn.RMSNorm(32),
    "GroupNorm(1)": lambda: nn.GroupNorm(1, 32),
    "GroupNorm(2)": lambda: nn.GroupNorm(2, 32),
    "BatchNorm": lambda: nn.BatchNorm1d(32),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("norm", NORMS)
def test_a_clip_that_nothing_reaches_is_reached(norm: str, clip: str, seed: int) -> None:
    layer = nn.Linear(16, 32, bias=False)
    model = nn.Sequential(layer, CLIPS[clip], NORMS[norm](), nn.Linear(32, 4))
    inputs = torch.randn(32, 16, generator=torch.Generator().manual_seed(seed))
    verdict = find_invariant(model, inputs, seed=seed).verdicts["0.weight"]
    assert verdict.verdict == "not_invariant", verdict.reason


@pytest.mark.parametrize("seed", range(3))
def test_a_clip_behind_two_weights_is_reached_though_one_grows_while_the_other_shrinks(seed: int) -> None:
    model = nn.Sequential(
        nn.Linear(5, 8, bias=False),
        nn.Linear(8, 8, bias=False),
        nn.ReLU6(),
        nn.LayerNorm(8),
        nn.Linear(8, 3),
    )
    found = find_invariant(model, ROWS, seed=seed)
    assert list(found) == []


# Buffers


class Stored(nn.Module):
    """A weight, stored statistics, and a norm: only the stored mean lets the scale be seen."""

    def __init__(self, stored: nn.Module) -> None:
        super().__init__()
        self.fc, self.stored, self.head = nn.Linear(5, 6, bias=False), stored, nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.layer_norm(F.relu(self.stored(self.fc(x))), (6,)))


class Centered(nn.Module):
    """Subtracts a stored center."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("center", torch.zeros(6))

    def forward(self, x: Tensor) -> Tensor:
        return x - self.center


def test_a_stored_mean_of_one_channel_hides_nothing() -> None:
    model = nn.Sequential(nn.Conv2d(3, 1, 3, bias=False), nn.BatchNorm2d(1, affine=False).eval())
    model.extend([nn.ReLU(), nn.GroupNorm(1, 1), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4, 2)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the norm in eval mode
        assert verdict_of(model, PICTURES, "0.weight").verdict == "not_invariant"


@pytest.mark.parametrize("stored", [nn.BatchNorm1d(6, affine=False).eval(), Centered()], ids=["norm", "own"])
def test_a_stored_mean_of_exactly_zero_hides_nothing(stored: nn.Module) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the norm in eval mode
        assert verdict_of(Stored(stored), ROWS, "fc.weight").verdict == "not_invariant"
    assert all(float(buffer.sum()) in (0.0, 6.0) for buffer in stored.buffers())


class Masked(nn.Module):
    """Attention of normalized queries and keys under a mask, and a table of whole numbers."""

    def __init__(self, blocked: float) -> None:
        super().__init__()
        self.q, self.k, self.head = nn.Linear(5, 4), nn.Linear(5, 4), nn.Linear(5, 2)
        self.register_buffer("mask", torch.full((12, 12), blocked).triu(1))
        self.register_buffer("order", torch.arange(12.0).flip(0))
        self.register_buffer("keep", torch.ones(12, 12).tril())

    def forward(self, x: Tensor) -> Tensor:
        q, k = F.normalize(self.q(x), dim=-1), F.normalize(self.k(x), dim=-1)
        weights = (q @ k.T + self.mask).softmax(-1) * self.keep
        return self.head(weights @ x[self.order.long()])


@pytest.mark.parametrize("blocked", [float("-inf"), -1e9])
def test_masks_and_tables_of_whole_numbers_survive(blocked: float) -> None:
    found: Invariance = find_invariant(Masked(blocked), ROWS)
    assert [weight.name for weight in found] == ["q.weight", "k.weight"]


def test_what_is_measured_is_moved_and_what_is_set_is_not() -> None:
    model = nn.Sequential(Masked(-1e9), nn.BatchNorm1d(3), Centered())
    model.register_buffer("is_ready", torch.zeros(1))
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    perturb_buffers_(model, seed=0)
    moved = [name for name, buffer in model.named_buffers() if not torch.equal(buffer, before[name])]
    assert moved == ["1.running_mean", "1.running_var", "2.center"]


def test_a_verdict_that_was_kept_before_there_was_a_word_for_left_out_is_read() -> None:
    model = Branches()
    kept = find_invariant(model, PICTURES).to_dict()
    for entry in kept["verdicts"]:
        del entry["left_out"]
    assert Invariance.from_dict(kept, model).verdicts["narrow.weight"].left_out == ""


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_no_row_goes_far_only_to_undo_what_others_do(dtype: torch.dtype) -> None:
    slopes = torch.tensor([3.0, -3.0, 1e-3, 0.0])
    step = PRECISIONS[dtype].step
    for seed in range(20):
        weight = torch.ones(4, 2, dtype=torch.float64)
        (made,) = nudges({"w": weight}, {"w": slopes}, PRECISIONS[dtype], seed).values()
        made.change["w"](weight)
        moved = (weight[:, 0] - 1) * slopes
        assert bool((moved >= 0).all())
        assert float(moved.max()) <= step * (1 + 1e-6)
        assert float(moved.sum()) == pytest.approx(made.predicted, rel=1e-6) == pytest.approx(step, rel=1e-6)
