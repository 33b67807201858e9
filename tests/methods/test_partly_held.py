"""Methods where only some rows of a weight have no scale: these are treated, or the weight is refused."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import decayfree
from decayfree.errors import UnsupportedWeightError
from decayfree.invariance.verdict import ScaleInvariantWeight, Verdict
from decayfree.methods import METHODS, RunLength

HELD, OTHERS = [0, 1, 4, 5], [2, 3, 6, 7]
SETTINGS: dict[str, dict[str, Any]] = {
    "weight_decay": {"weight_decay": 0.1},
    "learning_rate_scaling": {"replayed_weight_decay": 0.1},
    "exact_replay": {"replayed_weight_decay": 0.1},
    "rotational_equilibrium": {"weight_decay": 0.1},
}
WORK = {"none", "wrs", "turning", "hyperball", "rotational_equilibrium", "learning_rate_scaling"}


class Net(nn.Module):
    """Two heads of a projection are normalized, and the rest of its rows is not."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 8, bias=False)
        self.head = nn.Linear(8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.layer(x)
        heads = [F.rms_norm(y[:, rows], (2,), eps=1e-30) for rows in (HELD[:2], HELD[2:])]
        return self.head(torch.cat([*heads, y[:, OTHERS]], dim=1).tanh())


def found_in(model: nn.Module) -> decayfree.Invariance:
    verdicts = {
        name: Verdict(
            name, "invariant" if name == "layer.weight" else "not_invariant", "", 0.0, tuple(p.shape)
        )
        for name, p in model.named_parameters()
    }
    weight = ScaleInvariantWeight("layer.weight", None, 0, (2, 2), (), 0.0, starts=(0, 4))
    return decayfree.Invariance(model, [weight], verdicts, dtype=torch.float64, confirmed_to=0.0)


def test_every_method_is_here() -> None:
    assert set(METHODS) >= WORK | SETTINGS.keys()


@pytest.mark.parametrize("name", METHODS)
def test_a_method_treats_the_rows_that_are_held_or_refuses(name: str, seed: int) -> None:
    model, plain = Net(), Net()
    plain.load_state_dict(model.state_dict())
    found, method = found_in(model), METHODS[name](**SETTINGS.get(name, {}))

    def attach() -> torch.optim.Optimizer:
        prepared = method.prepare(model, found)
        groups = method.param_groups(model, prepared, rest_weight_decay=0.0)
        made = torch.optim.SGD(groups, lr=3.0, momentum=0.9)
        norms = {"layer.weight": torch.full((9, 2), 0.5)} if method.replays else None
        method.attach(made, prepared, replayed=norms, length=RunLength(5, 20))
        return made

    if name not in WORK:
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        with pytest.raises(
            UnsupportedWeightError, match=r"layer\.weight.*only some rows|only some rows.*layer"
        ):
            attach()
        assert {name: p.detach().tolist() for name, p in model.named_parameters()} == {
            name: value.tolist() for name, value in before.items()
        }
        return
    optimizer = attach()
    twin = torch.optim.SGD(plain.parameters(), lr=3.0, momentum=0.9)
    start = found.parts()["layer.weight"].norms()
    x = torch.randn(1, 16, 6)
    for inputs in x:  # one step, while gradients are those of the twin but for the length of held rows
        plain.layer.weight.data[HELD] = model.layer.weight.detach()[HELD]
        for one, own in ((model, optimizer), (plain, twin)):
            own.zero_grad()
            one(inputs).square().mean().backward()
            own.step()
    assert torch.equal(model.layer.weight[OTHERS], plain.layer.weight[OTHERS])
    assert torch.equal(model.layer.weight[HELD], plain.layer.weight[HELD]) == (name == "none")
    if method.holds_norms:
        assert found.parts()["layer.weight"].norms().tolist() == pytest.approx(start.tolist())


@pytest.mark.parametrize("name", sorted(WORK - {"wrs", "turning"}))
def test_decay_of_the_other_rows_is_refused_where_nothing_does_it(name: str) -> None:
    method = METHODS[name](**SETTINGS.get(name, {}))
    message = (
        f"only some rows of layer.weight are scale-invariant, and nothing in {method.label} decays the others"
    )
    model = Net()
    with pytest.raises(UnsupportedWeightError, match=re.escape(message)):
        method.param_groups(model, found_in(model), rest_weight_decay=0.1)


def test_weight_rescaling_hands_the_decay_of_the_other_rows_on() -> None:
    model = Net()
    for name in ("turning", "wrs"):  # which is one
        groups = METHODS[name]().param_groups(model, found_in(model), rest_weight_decay=0.1)
    assert [group.get("other_rows_weight_decay") for group in groups] == [None, 0.1]
