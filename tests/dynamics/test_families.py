"""An optimizer's family: a larger weight with a larger learning rate takes the same directions.

Tried on a function without scale, so that the law says which family is right; names are only looked up.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn, optim

from decayfree.blocks import Blocks
from decayfree.dynamics.families import update_family
from decayfree.dynamics.measures import angular_update_rad
from decayfree.errors import InvalidInputError
from support.available import import_or_skip
from support.optimizer_rows import SETTINGS

FACTOR = 4.0
# By what the learning rate must grow with the weight, in powers of the factor, for the same directions.
POWER = {"sgd": 2, "adam": 1, "sign": 1, "relative": 0}
LOSS_SCALE = 1e6  # every epsilon in a denominator is nothing beside such gradients
N_WARM = {"RAdam": 8}  # steps before it divides by its second moment at all
WHOLE = Blocks(0, (4,))


def trained(make: Callable[..., optim.Optimizer], *, scale: float, rate: float, n_warm: int) -> list[Tensor]:
    """The weight after each step on a linear function of its direction, which has no scale."""
    generator = torch.Generator().manual_seed(0)
    slope = torch.randn(4, 5, generator=generator, dtype=torch.float64)
    weight = nn.Parameter(scale * torch.randn(4, 5, generator=generator, dtype=torch.float64))
    optimizer = make([weight], lr=rate)
    points = []
    for step in range(n_warm + 6):
        for group in optimizer.param_groups if n_warm else []:
            group["lr"] = rate if step >= n_warm else 0.0

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = LOSS_SCALE * (slope * weight / weight.norm()).sum()
            loss.backward()
            return loss

        optimizer.step(closure)
        points.append(weight.detach().clone())
    return points


def differing(make: Callable[..., optim.Optimizer], rate: float, power: int, n_warm: int = 0) -> float:
    """Largest angle between the run and its enlarged twin, as a share of the way that the run went."""
    run = trained(make, scale=1.0, rate=rate, n_warm=n_warm)
    twin = trained(make, scale=FACTOR, rate=rate * FACTOR**power, n_warm=n_warm)
    angles = [angular_update_rad(a, b, WHOLE).item() for a, b in zip(run, twin, strict=True)]
    return max(angles) / angular_update_rad(run[0], run[-1], WHOLE).item()


def family_by_law(make: Callable[..., optim.Optimizer], rate: float, n_warm: int = 0) -> set[str]:
    """The families whose law the optimizer obeys."""
    return {name for name, power in POWER.items() if differing(make, rate, power, n_warm) < 1e-3}


@pytest.mark.parametrize("name", SETTINGS)
def test_the_family_of_every_optimizer_of_torch_is_the_one_whose_law_it_obeys(name: str) -> None:
    kind, settings, _ = SETTINGS[name]
    settings = {key: value for key, value in settings.items() if key != "lr"}
    is_sgd = kind in (optim.SGD, optim.ASGD)
    rate = 0.1 / LOSS_SCALE if is_sgd else 0.02
    if kind is optim.Rprop:
        settings["step_sizes"] = (1e-12, 1e6)

    def make(params: Any, lr: float) -> optim.Optimizer:
        return kind(params, lr=lr, **settings)

    obeyed = family_by_law(make, rate, N_WARM.get(name, 0))
    if kind is optim.Adafactor:
        assert obeyed == {"relative"}
        with pytest.raises(InvalidInputError, match="Adafactor has no effective learning rate"):
            update_family(make([nn.Parameter(torch.ones(2))], lr=rate))
    else:
        assert update_family(make([nn.Parameter(torch.ones(2))], lr=rate)) in obeyed
        assert obeyed in ({"sgd"}, {"adam", "sign"})


def test_the_families_of_muon_and_sparse_adam() -> None:
    assert update_family(optim.SparseAdam([nn.Parameter(torch.ones(2))])) == "adam"
    muon = optim.Muon([nn.Parameter(torch.ones(2, 2))])
    assert update_family(muon) == "sign"
    assert family_by_law(lambda p, lr: optim.Muon(p, lr=lr, weight_decay=0.0), 0.02) == {"adam", "sign"}


@pytest.mark.parametrize(
    ("name", "family", "rate"), [("AdamP", "adam", 0.02), ("SGDP", "sgd", 0.1 / LOSS_SCALE)]
)
def test_the_families_of_the_projecting_optimizers(name: str, family: str, rate: float) -> None:
    kind = getattr(import_or_skip("adamp"), name)
    assert family in family_by_law(lambda params, lr: kind(params, lr=lr), rate)
    assert update_family(kind([nn.Parameter(torch.ones(2))], lr=rate)) == family


def named(name: str, *bases: type) -> optim.Optimizer:
    """An optimizer of a class of this name."""
    kind = type(name, bases or (optim.Optimizer,), {})
    return kind([nn.Parameter(torch.ones(2))], **({"lr": 0.1} if bases else {"defaults": {}}))


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("Lion", "sign"),
        ("PagedLion8bit", "sign"),
        ("SingleDeviceMuon", "sign"),
        ("FusedSGD", "sgd"),
        ("SGDW", "sgd"),
        ("AdamW8bit", "adam"),
        ("PagedAdamW32bit", "adam"),
        ("DeepSpeedCPUAdam", "adam"),
        ("Adam_Foreach", "adam"),
        ("SOAP", "adam"),
    ],
)
def test_well_known_names_are_known(name: str, family: str) -> None:
    assert update_family(named(name)) == family


def test_a_class_derived_from_a_known_one_is_of_its_family() -> None:
    assert update_family(named("MyRule", optim.SGD)) == "sgd"
    assert update_family(named("MyAdam", type("Between", (optim.AdamW,), {}))) == "adam"


@pytest.mark.parametrize(
    ("name", "bases", "reason"),
    [
        ("LARS", (optim.SGD,), "LARS has no effective .* a share of the weight's own norm"),
        ("FusedLAMB", (), "FusedLAMB has no effective .* a share of the weight's own norm"),
        ("SGDScheduleFree", (), "gradients at another point than where the weights are"),
        ("AdamWScheduleFree", (optim.AdamW,), "its weights change between train and eval mode"),
        ("Prodigy", (), "its learning rate is a factor of one that it estimates"),
    ],
)
def test_optimizers_without_such_a_rate_are_refused_with_the_reason(
    name: str, bases: tuple[type, ...], reason: str
) -> None:
    with pytest.raises(InvalidInputError, match=reason):
        update_family(named(name, *bases))


def test_second_order_optimizers_are_refused_with_the_reason() -> None:
    with pytest.raises(InvalidInputError, match=r"LBFGS .* takes the length of its step from the curvature"):
        update_family(optim.LBFGS([nn.Parameter(torch.ones(2))]))


def test_unknown_optimizers_say_so() -> None:
    with pytest.raises(
        InvalidInputError, match=r'nobody knows how the step of Mystery .* say family="sgd" if'
    ):
        update_family(named("Mystery"))
