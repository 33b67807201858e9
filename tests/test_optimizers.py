"""The table of optimizers, row by row.

The family is the one whose law the optimizer obeys, its state follows a weight that is scaled bit by bit, its
own decay does without gradients what the row says. A row that is not measured here names a paper.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn, optim

from decayfree.blocks import Blocks
from decayfree.dynamics.families import update_family
from decayfree.errors import InvalidInputError
from decayfree.methods.weight_decay import own_form
from decayfree.optimizers import OPTIMIZERS, KnownOptimizer, in_studies, nearest_row, row_of
from decayfree.rescaling.following import follow_moments_, unknown_moments
from decayfree.rescaling.held import Held
from support.available import import_or_skip

WHOLE = Blocks(0, (4,))
C = 2.0
N_BEFORE, N_AFTER = 8, 6
# Every epsilon is nothing beside such gradients.
SIZE = 1e6


@dataclass(frozen=True)
class Row:
    """How an optimizer of the table is made here, and what is out of the ordinary.

    Args:
        package: Where its class is.
        settings: Such that all of its state is there.
        lr_power: By which power of c its learning rate goes along with a weight that is scaled by c; None for
            what its family says.
        n_warm: Steps before it divides by its second moment at all.
        rate: The learning rate.
        named: What of its state cannot follow, and is named.
        not_looked_into: Whether its state is kept in lists or tables, which nothing looks into.
        with_rate: What of its state goes along with the learning rate, a number and no tensor.
    """

    package: str = "torch.optim"
    settings: dict[str, Any] = field(default_factory=dict)
    lr_power: int | None = None
    n_warm: int = 0
    rate: float = 0.02
    named: tuple[str, ...] = ()
    not_looked_into: bool = False
    with_rate: str | None = None


PO, TIMM, STILL = "pytorch_optimizer", "timm.optim", {"weight_decay": 0.0}
MEASURED = {
    "SGD": Row(settings={"momentum": 0.9}),
    "SGDW": Row(PO, {"momentum": 0.9, **STILL}),
    "Adam": Row(settings={"amsgrad": True}),
    "AdamW": Row(settings={"amsgrad": True, **STILL}),
    "NAdam": Row(),
    "RAdam": Row(n_warm=8),
    "RMSprop": Row(settings={"momentum": 0.9, "centered": True}),
    "Adamax": Row(),
    "Adagrad": Row(),
    "Lion": Row(PO, STILL),
    "Muon": Row(settings=STILL),
    # The steps of these three go along with the weight by what they remember, or are a share of it.
    "Adadelta": Row(lr_power=0, rate=10.0),
    "Rprop": Row(settings={"step_sizes": (1e-12, 1e6)}, lr_power=0),
    "Adafactor": Row(lr_power=0),
    "ASGD": Row(settings={"lambd": 0.0}),
    "SparseAdam": Row(),
    "SGDP": Row("adamp", {"momentum": 0.9}),
    "AccSGD": Row(PO),
    "QHM": Row(PO),
    "AggMo": Row(PO, not_looked_into=True),
    "AdamP": Row("adamp"),
    "NAdamW": Row(TIMM, STILL),
    "Adan": Row(PO),
    "AdaBelief": Row(PO, n_warm=8),
    "ADOPT": Row(PO),
    "AdEMAMix": Row(PO),
    "LaProp": Row(PO, with_rate="exp_avg_lr_1"),
    "QHAdam": Row(PO),
    "StableAdamW": Row(PO, STILL),
    "Yogi": Row(PO),
    "NvNovoGrad": Row(TIMM, named=("exp_avg_sq",)),
    "NovoGrad": Row(PO, named=("grads_ema",)),
    "Shampoo": Row(
        PO, named=("inv_pre_cond_0", "inv_pre_cond_1", "momentum_buffer", "pre_cond_0", "pre_cond_1")
    ),
    "SOAP": Row(PO, STILL, not_looked_into=True),
    "MARS": Row(PO, named=("exp_avg", "exp_avg_sq", "last_grad")),
    "AdafactorBigVision": Row(TIMM),
    "RMSpropTF": Row(TIMM, {"momentum": 0.9, "centered": True}),
    # Which weigh their average by learning rates, if that is not set aside.
    "SGDScheduleFree": Row("schedulefree", {"weight_lr_power": 0.0}),
    "AdamWScheduleFree": Row("schedulefree", {"weight_lr_power": 0.0}),
    "RAdamScheduleFree": Row("schedulefree", {"weight_lr_power": 0.0}, n_warm=8),
    "ScheduleFreeSGD": Row(PO, {"weight_lr_power": 0.0}),
    "ScheduleFreeAdamW": Row(PO, {"weight_lr_power": 0.0}),
    "ScheduleFreeRAdam": Row(PO, {"weight_lr_power": 0.0}, n_warm=8),
    "Tiger": Row(PO, STILL),
    "SignSGD": Row(PO, STILL),
}
# Other implementations of these.
UNMEASURED = {f"{name}ScheduleFreeClosure" for name in ("SGD", "AdamW", "RAdam")} | {"AdamWScheduleFreePaper"}
# Those whose steps know signs or directions only; the law of this family is that of Adam's.
OF_SIGNS = {"Lion", "Muon", "Rprop", "Tiger", "SignSGD", "Signum", "Dion"}
REFUSED = {
    **dict.fromkeys(
        ("LARS", "LARC", "LAMB", "Nero", "Fromage", "Adafactor"), "a share of the weight's own norm"
    ),
    **dict.fromkeys(("LBFGS", "AdaHessian"), "the length of its step from the curvature"),
    **dict.fromkeys(
        ("DAdaptSGD", "DAdaptAdam", "DAdaptLion", "DAdaptAdaGrad", "Prodigy"),
        "a factor of one that it estimates",
    ),
}
DECAY = {
    **dict.fromkeys(("SGD", "Adam", "NAdam", "RAdam", "RMSprop", "Adamax", "Adagrad"), "coupled"),
    **dict.fromkeys(("SGDW", "AdamW", "Lion", "Muon"), "decoupled"),
}
EQUILIBRIUM = {"SGD": "sgd", "SGDW": "sgd", "Adam": "adam_l2", "AdamW": "adamw", "Lion": "lion"}
# In state that is kept for other kinds of weights, or by another package.
ELSEWHERE = {"Adafactor": {"variance"}, "Adan": {"neg_pre_grad"}}
each_measured = pytest.mark.parametrize("name", MEASURED)


def known(name: str) -> KnownOptimizer:
    return next(row for row in OPTIMIZERS if name in row.classes.split())


def class_of(name: str) -> type[optim.Optimizer]:
    """The class, under whatever size of letters its package has it."""
    package = import_or_skip(MEASURED[name].package)
    return next(
        kind
        for its, kind in vars(package).items()
        if its.lower() == name.lower() and isinstance(kind, type) and issubclass(kind, optim.Optimizer)
    )


def made(name: str, weight: nn.Parameter, **settings: Any) -> optim.Optimizer:
    row = MEASURED[name]
    optimizer = class_of(name)([weight], **{"lr": row.rate, **row.settings, **settings})
    getattr(optimizer, "train", bool)()  # of those that are free of a schedule
    return optimizer


def weight_of(scale: float = 1.0) -> nn.Parameter:
    generator = torch.Generator().manual_seed(1)
    return nn.Parameter(scale * torch.randn(4, 5, generator=generator, dtype=torch.float64))


def gradients(n: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [SIZE * torch.randn(4, 5, generator=generator, dtype=torch.float64) for _ in range(n)]


def step(optimizer: optim.Optimizer, weight: nn.Parameter, gradient: Tensor) -> None:
    weight.grad = gradient.to_sparse() if isinstance(optimizer, optim.SparseAdam) else gradient.clone()
    optimizer.step()


def set_eps_aside(optimizer: optim.Optimizer) -> None:
    for group in optimizer.param_groups:
        if isinstance(group.get("eps"), float):
            group["eps"] = 0.0


def direction(scale: float, name: str, rate: float) -> list[Tensor]:
    """The weight's direction after each step, with gradients that shrink as the weight grows."""
    weight, n_warm = weight_of(scale), MEASURED[name].n_warm
    optimizer = made(name, weight, lr=rate)
    slope = gradients(1)[0]
    directions = []
    for number in range(n_warm + N_AFTER):
        for group in optimizer.param_groups if n_warm else []:
            group["lr"] = rate if number >= n_warm else 0.0
        loss = (slope * weight / weight.norm()).sum()
        step(optimizer, weight, torch.autograd.grad(loss, weight)[0])
        directions.append((weight / weight.norm()).detach())
    return directions


@each_measured
def test_a_family_is_the_one_whose_law_is_obeyed(name: str) -> None:
    power = {"sgd": 2, "adam": 1, "sign": 1, None: 0}[known(name).family]
    rate = 0.1 / SIZE if power == 2 else MEASURED[name].rate

    def differing(by: int) -> float:
        pairs = zip(direction(1.0, name, rate), direction(4.0, name, rate * 4.0**by), strict=True)
        return max(float((one - other).norm()) for one, other in pairs)

    assert differing(power) < 1e-3 * max(differing(by) for by in range(3))
    assert (name in OF_SIGNS) == (known(name).family == "sign")


@each_measured
def test_state_follows_a_weight_that_is_scaled_bit_by_bit(name: str) -> None:
    """As w grows by c, gradients shrink by c: what was scaled by its degree goes on to c times the weight."""
    row, its = known(name), MEASURED[name]
    if its.not_looked_into:
        assert row.state == {}
        return
    rate = 0.1 / SIZE if row.family == "sgd" else its.rate
    power = (
        its.lr_power if its.lr_power is not None else {"sgd": 2, "adam": 1, "sign": 1, None: 0}[row.family]
    )
    weights = [weight_of(), weight_of()]
    plain, scaled = (made(name, weight, lr=rate) for weight in weights)
    all_gradients = gradients(N_BEFORE + N_AFTER)
    for gradient in all_gradients[:N_BEFORE]:
        for optimizer, weight in zip((plain, scaled), weights, strict=True):
            step(optimizer, weight, gradient)
    held = Held(weights[1], None, WHOLE, "weight", torch.ones(1))
    assert unknown_moments(scaled, [held]) == [f"{type(scaled).__name__}'s {key!r}" for key in its.named]
    assert_all_state_is_in_the_row(row, plain.state[weights[0]], name)
    if not set(its.named) <= row.state.keys():
        return

    weights[1].data.mul_(C)
    follow_moments_(scaled, [(held, torch.full((1,), C, dtype=torch.float64))])
    for group in scaled.param_groups:
        group["lr"] *= C**power
    for key in its.named:  # numbers of the whole weight, which belong to no block
        scaled.state[weights[1]][key] /= C ** row.state[key]
    if its.with_rate is not None:
        scaled.state[weights[1]][its.with_rate] *= C
    if isinstance(plain, optim.ASGD):  # its rate of the next step was made with that of the last
        for optimizer, weight in zip((plain, scaled), weights, strict=True):
            step(optimizer, weight, torch.zeros_like(weight))
    set_eps_aside(plain)
    set_eps_aside(scaled)
    for gradient in all_gradients[N_BEFORE:]:
        before = weights[0].detach().clone()
        step(plain, weights[0], gradient)
        step(scaled, weights[1], gradient / C)
        assert torch.equal(weights[1], C * weights[0])
        assert not torch.equal(weights[0], before)
    for key in row.state.keys() & scaled.state[weights[1]].keys():
        one, other = plain.state[weights[0]][key], scaled.state[weights[1]][key]
        assert torch.equal(other, one / C ** row.state[key]), key


def assert_all_state_is_in_the_row(row: KnownOptimizer, state: dict[str, Any], name: str) -> None:
    large = {key for key, value in state.items() if isinstance(value, Tensor) and value.numel() > 1}
    said = row.state.keys() | set(row.factored or ())
    named = set(MEASURED[name].named)
    assert large - named <= said or not named <= said, name
    assert said - state.keys() == ELSEWHERE.get(name, set())


def test_state_follows_where_timm_calls_it_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MEASURED, "Adan", Row(TIMM))
    monkeypatch.setitem(ELSEWHERE, "Adan", {"previous_grad"})
    test_state_follows_a_weight_that_is_scaled_bit_by_bit("Adan")


def test_the_second_moment_of_a_vector_is_whole() -> None:
    variances = []
    for scale in (1.0, C):
        vector = nn.Parameter(scale * torch.ones(4))
        optimizer = optim.Adafactor([vector])
        vector.grad = torch.tensor([8.0, 4.0, 2.0, 1.0]) / scale
        optimizer.step()
        variances.append(optimizer.state[vector]["variance"])
    assert torch.equal(variances[1], variances[0] / C ** known("Adafactor").state["variance"])


@pytest.mark.parametrize("name", DECAY)
def test_decay_does_without_gradients_what_the_row_says(name: str) -> None:
    weight = weight_of()
    optimizer = made(name, weight, lr=0.1, weight_decay=0.5)
    before = weight.detach().clone()
    for _ in range(10):
        step(optimizer, weight, torch.zeros_like(weight))
    assert torch.allclose(weight, 0.95**10 * before) == (DECAY[name] == "decoupled")
    assert not torch.allclose(weight, before)
    assert own_form(optimizer) == known(name).decay == DECAY[name]


def test_no_other_row_says_what_its_decay_does() -> None:
    assert {row.classes for row in OPTIMIZERS if row.decay is not None} == DECAY.keys()


def test_a_setting_says_more_of_decay_than_the_class() -> None:
    kind = class_of("Lion")
    for decoupled, form in ((True, "decoupled"), (False, "coupled")):
        assert own_form(kind([weight_of()], weight_decouple=decoupled)) == form


def named(name: str, *bases: type, module: str = "elsewhere") -> optim.Optimizer:
    kind = type(name, bases or (optim.Optimizer,), {"__module__": module})
    return kind([nn.Parameter(torch.ones(2, 2))], **({"lr": 0.1} if bases else {"defaults": {"lr": 0.1}}))


def test_classes_of_the_same_name_from_elsewhere_may_decay_otherwise() -> None:
    assert own_form(named("Adam")) is None
    assert own_form(named("Adam", optim.Adam)) == "coupled"
    assert own_form(named("Lion")) == "decoupled"
    assert own_form(named("FusedAdam")) is None


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_family_is_refused_with_the_reason(name: str) -> None:
    assert known(name).family is None
    with pytest.raises(InvalidInputError, match=f"^{name} has no effective .*{re.escape(REFUSED[name])}"):
        update_family(named(name))


@pytest.mark.parametrize("name", ["Signum", "Dion"])
def test_the_family_of_what_no_package_here_has(name: str) -> None:
    assert update_family(named(name)) == known(name).family == "sign"


def test_equilibria_are_named_where_decay_settles_as_they_say() -> None:
    said = {row.classes: row.equilibrium.__name__ for row in OPTIMIZERS if row.equilibrium is not None}
    assert said == EQUILIBRIUM


def test_every_row_says_where_it_was_verified() -> None:
    for row in OPTIMIZERS:
        if MEASURED.keys() & {*row.classes.split()}:
            assert row.verified == "tests/test_optimizers.py"
        else:
            assert re.fullmatch(r"\w+.*, \d{4}(, arXiv \d{4}\.\d{5})?", row.verified), row.classes


def test_every_row_is_here_and_no_name_twice() -> None:
    names = [name for row in OPTIMIZERS for name in row.classes.split()]
    assert sorted(names) == sorted({*MEASURED, *REFUSED, *OF_SIGNS, *UNMEASURED})


def test_every_optimizer_of_torch_has_a_row() -> None:
    kinds = [kind for kind in vars(optim).values() if isinstance(kind, type) and kind is not optim.Optimizer]
    assert not [kind for kind in kinds if issubclass(kind, optim.Optimizer) and row_of(kind) is None]


def test_names_are_matched_without_case_and_underscores_and_by_the_nearest_class() -> None:
    assert row_of(type("Ada_Max", (), {})) is known("Adamax")
    assert row_of(type("MyAdam", (optim.Adam,), {})) is None
    assert nearest_row(type("MyAdam", (optim.RMSprop,), {})) is known("RMSprop")
    assert nearest_row(type("Mystery", (), {})) is None
    fused = type("FusedAdam", (), {})
    assert row_of(fused) is None
    assert row_of(fused, in_any_implementation=True) is known("Adam")


@pytest.mark.parametrize("key", ["exp_avg", "exp_avg_sq", "momentum_buffer", "step_size", "ax"])
def test_state_of_strangers_is_not_told_by_its_name(key: str) -> None:
    optimizer = named("Mystery")
    (weight,) = optimizer.param_groups[0]["params"]
    optimizer.state[weight] = {key: torch.full((2, 2), 8.0), "step": torch.ones(())}
    held = Held(weight, None, Blocks(0, (2,)), "weight", torch.ones(1))
    assert unknown_moments(optimizer, [held]) == [f"Mystery's {key!r}"]
    follow_moments_(optimizer, [(held, torch.full((1,), C))])
    assert torch.equal(optimizer.state[weight][key], torch.full((2, 2), 8.0))


def test_studies_train_with_ten_of_them() -> None:
    assert list(in_studies()) == [
        *("sgd", "adam", "adamw", "nadam", "radam", "rmsprop", "adamax", "adagrad", "lion", "muon")
    ]
