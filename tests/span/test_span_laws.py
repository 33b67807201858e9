"""What becomes of a weight's off-span part under each optimizer in 300 steps, against the law of facts.

Every law speaks of q = Qw, which no gradient touches: it stays, decays, or shrinks with the norm, whatever
the loss does.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import decayfree
from decayfree.span.layer_span import LayerSpan
from support import bounds
from support.span_by_hand import watch

LR, DECAY, MOMENTUM, N_STEPS = 0.05, 0.04, 0.9, 300


def features(n, generator, dtype):
    """(n, 12): seven numbers seen through a linear map, and so a span of seven dimensions once centered."""
    mixing = torch.randn(7, 12, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    sources = torch.randn(n, 7, generator=generator, dtype=torch.float64)
    return (sources @ mixing / 7**0.5 + 1).to(dtype)


def images(*factors):
    """Makes (n, channels, 8, 8): one image and its multiples by channel; None starts another image."""

    def make(n, generator, dtype):
        channels = []
        for factor in factors:
            if factor is None:
                image = torch.randn(n, 8, 8, generator=generator) + 1
            channels.append(image if factor is None else factor * image)
        return torch.stack(channels, dim=1).to(dtype)

    return make


# A first layer, what it is fed, and the rank of that within a batch.
FIRST_LAYERS = {
    "fully connected": (lambda: nn.Linear(12, 5, bias=False), features, [7]),
    "convolution": (lambda: nn.Conv2d(3, 4, 3, padding=1, bias=False), images(None, 1.0, 2.0), [9]),
    "stride and dilation": (
        lambda: nn.Conv2d(2, 4, (3, 2), stride=2, padding=(1, 0), dilation=(1, 2), bias=False),
        images(None, -0.5),
        [6],
    ),
    "groups": (
        lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2, bias=False),
        images(None, 1.0, None, 2.0),
        [9, 9],
    ),
}


@dataclass
class Setting:
    """A network with its data: three batches that come again and again."""

    model: nn.Sequential
    batches: list[tuple[Tensor, Tensor]]

    @property
    def weight(self) -> Tensor:
        return self.model[0].weight

    def span(self, centered=True) -> LayerSpan:
        return watch(copy.deepcopy(self.model), [inputs for inputs, _ in self.batches], centered=centered)[
            "0.weight"
        ]

    def loss(self, step) -> Tensor:
        inputs, labels = self.batches[step % len(self.batches)]
        return F.cross_entropy(self.model(inputs), labels)


def setting(kind, seed, dtype=torch.float64, with_norm=True):
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    make, data, _ = FIRST_LAYERS[kind]
    layer = make()
    batches = [(data(8, generator, dtype), torch.randint(3, (8,), generator=generator)) for _ in range(3)]
    outputs = layer.to(dtype)(batches[0][0])
    norm = nn.BatchNorm2d(outputs.shape[1]) if outputs.ndim == 4 else nn.BatchNorm1d(outputs.shape[1])
    head = nn.Linear(outputs[0].numel(), 3)
    middle = [norm] if with_norm else []
    return Setting(nn.Sequential(layer, *middle, nn.ReLU(), nn.Flatten(), head).to(dtype), batches)


def decay_(weight):
    with torch.no_grad():
        weight.mul_(1 - LR * DECAY)


def trust_(weight):
    """LARS: the gradient of a layer gets the length of its weight."""
    weight.grad.mul_(0.1 * weight.detach().norm() / weight.grad.norm())


def clip_(weight):
    nn.utils.clip_grad_norm_([weight], 0.02)


def sgd(**settings):
    return lambda parameters: torch.optim.SGD(parameters, lr=LR, **settings)


@dataclass
class Rule:
    """How a weight is trained, what its off-span part is multiplied with in so many steps, how exactly."""

    optimizer: Callable[..., torch.optim.Optimizer]
    law: Callable[[int], float]
    before_step: Callable[[Tensor], None] = lambda weight: None
    most: tuple[float, float] = bounds.STAYS


def stays(step):
    return 1.0


def decays(step):
    return (1 - LR * DECAY) ** step


def two_terms(step):
    """q₁ = (1 − ηλ)q₀, then q₂ = (1 + μ − ηλ)q₁ − μq₀, and so on."""
    before, now = 1.0, 1 - LR * DECAY
    for _ in range(step - 1):
        before, now = now, (1 + MOMENTUM - LR * DECAY) * now - MOMENTUM * before
    return now if step else before


RULES = {
    "SGD": Rule(sgd(), stays),
    "momentum": Rule(sgd(momentum=MOMENTUM), stays),
    "Nesterov": Rule(sgd(momentum=MOMENTUM, nesterov=True), stays),
    "clipped momentum": Rule(sgd(momentum=MOMENTUM), stays, before_step=clip_),
    "LARS": Rule(sgd(momentum=MOMENTUM), stays, before_step=trust_),
    "SGD with L2": Rule(sgd(weight_decay=DECAY), decays, most=bounds.DECAYS),
    "momentum with decoupled decay": Rule(
        sgd(momentum=MOMENTUM), decays, before_step=decay_, most=bounds.DECAYS
    ),
    "momentum with L2": Rule(sgd(momentum=MOMENTUM, weight_decay=DECAY), two_terms, most=bounds.TWO_TERMS),
}


def train(one, optimizer, before_step=lambda weight: None, n_steps=N_STEPS):
    """Take steps; after each yield its number, from 1."""
    for step in range(n_steps):
        optimizer.zero_grad()
        one.loss(step).backward()
        before_step(one.weight)
        optimizer.step()
        yield step + 1


def distance(found, expected, scale):
    return (torch.linalg.vector_norm(found - expected) / torch.linalg.vector_norm(scale)).item()


# In float32 one kind of convolution is enough.
CASES = [
    *((kind, torch.float64) for kind in FIRST_LAYERS),
    *((kind, torch.float32) for kind in ("fully connected", "groups")),
]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("kind", "dtype"), CASES)
def test_the_off_span_part_follows_its_law(seed, kind, dtype, rule):
    one, rule = setting(kind, seed, dtype), RULES[rule]
    span = one.span()
    assert span.rank().tolist() == FIRST_LAYERS[kind][2]
    start, first = span.off_span(one.weight), one.weight.detach().clone()
    for step in train(one, rule.optimizer(one.model.parameters()), rule.before_step):
        error = distance(span.off_span(one.weight), rule.law(step) * start, start)
        assert error < rule.most[dtype == torch.float32]
    assert distance(span.in_span(one.weight), span.in_span(first), first) > 0.05  # the rest of it learned


def orthogonalize_(weight):
    """Muon: five steps of Newton and Schulz on the gradient, whose rows stay sums of the gradient's rows."""
    rows = weight.grad.flatten(1)
    rows = rows / rows.norm()
    for _ in range(5):
        square = rows @ rows.T
        rows = 3.4445 * rows + (-4.775 * square + 2.0315 * square @ square) @ rows
    weight.grad.copy_(rows.view_as(weight))


@pytest.mark.parametrize("kind", [kind for kind in FIRST_LAYERS if kind != "groups"])
def test_orthogonalized_updates_stay_in_the_span(seed, kind):
    one = setting(kind, seed)
    span, start = one.span(), one.span().off_span(one.weight)
    for _ in train(one, sgd(momentum=MOMENTUM)(one.model.parameters()), orthogonalize_, n_steps=50):
        assert distance(span.off_span(one.weight), start, start) < 1e-13


def test_orthogonalizing_groups_together_mixes_their_spans(seed):
    one = setting("groups", seed)
    span, start = one.span(), one.span().off_span(one.weight)
    for _ in train(one, sgd()(one.model.parameters()), orthogonalize_, n_steps=1):
        assert distance(span.off_span(one.weight), start, start) > 1e-3


def test_with_momentum_l2_is_not_a_power(seed):
    # What decoupled decay gives, (1 − ηλ)^t, is 0.55 after 300 steps; the two-term law is 0.0005.
    assert abs(two_terms(N_STEPS) - decays(N_STEPS)) > 0.5
    assert abs(two_terms(2) - decays(2)) > 1e-3


@pytest.mark.parametrize(("momentum", "lr"), [(0.0, 0.5), (MOMENTUM, LR)])
@pytest.mark.parametrize(("kind", "dtype"), CASES)
def test_under_rescaling_the_share_shrinks_by_the_growth_of_the_norm(seed, kind, dtype, momentum, lr):
    accuracy = bounds.SHRINKS_WITH_THE_NORM[dtype == torch.float32]
    one = setting(kind, seed, dtype)
    span = one.span()
    found = decayfree.find_invariant(one.model, one.batches[0][0])
    optimizer = torch.optim.SGD(one.model.parameters(), lr=lr, momentum=momentum)
    with decayfree.WeightRescaling(optimizer, found, momentum="keep"):
        start = expected = span.off_span_share(one.weight)
        before = one.weight.detach().double().flatten(1).clone()
        for _ in train(one, optimizer):
            # Where the step went before it was rescaled: w − ηv, with v as the optimizer kept it, or the
            # gradient itself.
            step = optimizer.state[one.weight]["momentum_buffer"] if momentum else one.weight.grad
            expected = expected * before.norm(dim=1) / (before - lr * step.double().flatten(1)).norm(dim=1)
            assert distance(span.off_span_share(one.weight), expected, start) < accuracy
            before = one.weight.detach().double().flatten(1).clone()
    assert (expected < 0.99 * start).all()


class Lion(torch.optim.Optimizer):
    """Chen et al. 2023, arXiv 2302.06675, algorithm 2, without decay."""

    def __init__(self, parameters, lr, betas=(0.9, 0.99)):
        super().__init__(parameters, {"lr": lr, "betas": betas})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for parameter in group["params"]:
                moment = self.state[parameter].setdefault("moment", torch.zeros_like(parameter))
                parameter -= group["lr"] * moment.lerp(parameter.grad, 1 - group["betas"][0]).sign()
                moment.lerp_(parameter.grad, 1 - group["betas"][1])


LEAVERS = {
    "Adam": torch.optim.Adam,
    "AdamW": lambda parameters, lr: torch.optim.AdamW(parameters, lr=lr, weight_decay=0.0),
    "Lion": Lion,
    "RMSprop": torch.optim.RMSprop,
    "Adagrad": torch.optim.Adagrad,
}


@pytest.mark.parametrize("optimizer", LEAVERS)
@pytest.mark.parametrize("kind", FIRST_LAYERS)
def test_elementwise_optimizers_leave_the_span(seed, kind, optimizer):
    one = setting(kind, seed)
    span, before = one.span(), one.weight.detach().clone()
    for _ in train(one, LEAVERS[optimizer](one.model.parameters(), lr=1e-3), n_steps=20):
        assert span.off_span_share(one.weight.grad).max() < 1e-13
    assert span.off_span_share(one.weight.detach() - before).mean() > bounds.LEAVERS_LEAVE


@pytest.mark.parametrize("optimizer", LEAVERS)
def test_but_equal_channels_stay_equal_under_them(seed, optimizer):
    """Grey images: off their span lie differences of channels, which equal gradients do not make."""
    one = setting("convolution", seed)
    grey = [(inputs[:, :1].expand(-1, 3, -1, -1), labels) for inputs, labels in one.batches]
    one = Setting(one.model, grey)
    span, before = one.span(), one.weight.detach().clone()
    for _ in train(one, LEAVERS[optimizer](one.model.parameters(), lr=1e-3), n_steps=20):
        pass
    assert span.rank() == 9
    assert span.off_span_share(one.weight.detach() - before).max() < 1e-12


def test_one_step_of_adam_by_hand():
    layer = nn.Linear(2, 1, bias=False).double()
    with torch.no_grad():
        layer.weight.zero_()
    inputs = torch.tensor([[1.0, 0.1]], dtype=torch.float64)
    span = watch(layer, [inputs], centered=False)["weight"]
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1)
    (-layer(inputs)).sum().backward()
    optimizer.step()
    torch.testing.assert_close(layer.weight.detach(), torch.full((1, 2), 0.1).double(), rtol=1e-6, atol=0)
    off = torch.linalg.vector_norm(span.off_span(layer.weight))
    assert off.item() == pytest.approx(0.0895533, abs=5e-8)
    assert span.off_span_share(layer.weight).item() == pytest.approx(0.0895533 / 0.1414214, abs=1e-6)


def standardized(weight):
    """Qiao et al. 2019, arXiv 1903.10520: each kernel minus its mean, over its deviation."""
    rows = weight.flatten(1)
    return ((rows - rows.mean(dim=1, keepdim=True)) / rows.std(dim=1, keepdim=True)).view_as(weight)


@pytest.mark.parametrize("kind", FIRST_LAYERS)
def test_weight_standardization_and_gradient_centralization_leave_the_span(seed, kind):
    one = setting(kind, seed)
    span = one.span()
    one.loss(0).backward()
    gradient = one.weight.grad
    # arXiv 2004.01461
    centralized = gradient - gradient.flatten(1).mean(dim=1).view(-1, *[1] * (gradient.ndim - 1))
    inputs, labels = one.batches[0]
    parameters = {"0.weight": standardized(one.weight)}
    loss = F.cross_entropy(torch.func.functional_call(one.model, parameters, inputs), labels)
    (through_standardization,) = torch.autograd.grad(loss, one.weight)
    assert span.off_span_share(gradient).max() < 1e-14
    assert span.off_span_share(centralized).mean() > 0.01
    assert span.off_span_share(through_standardization).mean() > 0.01


OPTIMIZERS = {"SGD": sgd(), "momentum with L2": sgd(momentum=MOMENTUM, weight_decay=DECAY), **LEAVERS}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_in_span_part_does_not_depend_on_the_off_span_part_without_rescaling(seed, optimizer):
    apart, size = in_span_distance(seed, OPTIMIZERS[optimizer], is_rescaled=False)
    assert apart < bounds.IN_SPAN_NOTICES * size


def test_under_rescaling_it_does(seed):
    apart, size = in_span_distance(seed, OPTIMIZERS["SGD"], is_rescaled=True)
    assert apart > 0.01 * size


def in_span_distance(seed, make_optimizer, *, is_rescaled):
    """Distance of in-span parts after 100 steps that differed only in an off-span part at the start."""
    results = []
    for scale in (1.0, 3.0):
        one = setting("groups", seed)
        span = one.span()
        with torch.no_grad():
            one.weight.add_((scale - 1) * span.off_span(one.weight))
        keywords = (
            {} if make_optimizer in (OPTIMIZERS["SGD"], OPTIMIZERS["momentum with L2"]) else {"lr": 1e-3}
        )
        optimizer = make_optimizer(one.model.parameters(), **keywords)
        if is_rescaled:
            decayfree.WeightRescaling(optimizer, decayfree.find_invariant(one.model, one.batches[0][0]))
        for _ in train(one, optimizer, n_steps=100):
            pass
        results.append(span.in_span(one.weight))
    return (results[0] - results[1]).norm(), results[0].norm()


def test_a_constant_feature_gets_no_gradient_under_batchnorm_and_a_dead_one_gets_zero(seed):
    one = setting("fully connected", seed)
    for inputs, _ in one.batches:
        inputs[:, 3] = 0.7
        inputs[:, 5] = 0.0
    one.loss(0).backward()
    gradient = one.weight.grad
    assert gradient[:, 3].abs().max() < 1e-15 * gradient.abs().max()
    assert torch.equal(gradient[:, 5], torch.zeros(5, dtype=torch.float64))
    plain = setting("fully connected", seed, with_norm=False)
    plain.batches = one.batches
    plain.loss(0).backward()
    assert plain.weight.grad[:, 3].abs().max() > 0.1 * plain.weight.grad.abs().max()
    assert torch.equal(plain.weight.grad[:, 5], torch.zeros(5, dtype=torch.float64))


@pytest.mark.parametrize("kind", FIRST_LAYERS)
def test_without_a_batchnorm_only_the_span_without_centering_holds(seed, kind):
    one = setting(kind, seed, with_norm=False)
    one.loss(0).backward()
    assert one.span(centered=False).off_span_share(one.weight.grad).max() < 1e-13
    if kind == "fully connected":  # zeros around an image make its mean patch one like the others
        assert one.span(centered=True).off_span_share(one.weight.grad).min() > bounds.UNCENTERED_IN_A_GRADIENT
