"""Trainings in which some rows of a weight are held, against the reference: the others are not touched."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import decayfree
from decayfree.blocks import Blocks
from decayfree.invariance.verdict import ScaleInvariantWeight, Verdict
from decayfree.rescaling.other_rows import OTHER_ROWS
from support import reference
from support.reference import BlockSpec, Rule

N_STEPS = 30
SPEC = BlockSpec("qkv.weight", (3, 3, 3, 3), bias="qkv.bias", starts=(0, 3, 9, 12))
OTHERS = [6, 7, 8, 15, 16, 17]  # the values lie between queries and keys, and after them


class Attention(nn.Module):
    """Two heads of three, whose queries and keys are normalized, over four tokens of six numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(6, 18, dtype=torch.float64)
        self.head = nn.Linear(6, 1, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.qkv(x).unflatten(-1, (6, 3)).movedim(-2, 0)  # of each: q q v k k v
        q, k = F.rms_norm(rows[[0, 1]], (3,), eps=1e-30), F.rms_norm(rows[[3, 4]], (3,), eps=1e-30)
        y = F.scaled_dot_product_attention(q, k, rows[[2, 5]])
        return self.head(y.movedim(0, -2).flatten(-2))


def found_in(model: nn.Module) -> decayfree.Invariance:
    verdicts = {
        name: Verdict(
            name, "invariant" if "qkv" in name else "not_invariant", "", 0.0, tuple(parameter.shape)
        )
        for name, parameter in model.named_parameters()
    }
    weight = ScaleInvariantWeight(SPEC.weight, SPEC.bias, 0, SPEC.sizes, (), 0.0, starts=SPEC.starts)
    return decayfree.Invariance(model, [weight], verdicts, dtype=torch.float64, confirmed_to=0.0)


def losses() -> list[Any]:
    batches = torch.randn(N_STEPS, 8, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return [lambda model, x=x: (model(x) - x.sum(-1, keepdim=True)).square().mean() for x in batches]


def attention() -> Attention:
    torch.manual_seed(0)
    return Attention()


RULES = {
    "momentum": Rule("sgd", lr=0.02, momentum=0.9),
    "adam": Rule("adam", lr=1e-2),
}


def optimizer_of(rule: Rule, model: nn.Module) -> torch.optim.Optimizer:
    if rule.name == "sgd":
        return torch.optim.SGD(model.parameters(), lr=rule.lr, momentum=rule.momentum)
    return torch.optim.Adam(model.parameters(), lr=rule.lr)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"every": 4},
        {"momentum": "scale"},
        {"fused": True},
        {"radius": 0.5, "fused": True, "momentum": "scale"},
    ],
    ids=str,
)
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_a_training_follows_the_reference(rule: Rule, settings: dict[str, Any]) -> None:
    model, twin = attention(), attention()
    targets = {SPEC.weight: reference.target_norms(SPEC, settings.get("radius", 1.0))}
    reference.rescale(twin.qkv.weight, targets[SPEC.weight], SPEC, twin.qkv.bias)
    expected = reference.train(
        twin,
        losses(),
        rule,
        reference.Rescaling([SPEC], targets, settings.get("every", 1), settings.get("momentum") == "scale"),
    )
    optimizer = optimizer_of(rule, model)
    wrs = decayfree.WeightRescaling(optimizer, found_in(model), **settings)
    for loss, right in zip(losses(), expected, strict=True):
        optimizer.zero_grad()
        loss(model).backward()
        optimizer.step()
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(parameter.detach(), right[name], rtol=1e-9, atol=1e-11)
    assert wrs.check().problems == ()


@pytest.mark.parametrize("fused", [False, True])
def test_the_other_rows_keep_their_bits(fused: bool) -> None:
    model = attention()
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    wrs = decayfree.WeightRescaling(optimizer, found_in(model), fused=fused)
    plain = attention()
    plain.load_state_dict(model.state_dict())
    for one, own in ((model, optimizer), (plain, torch.optim.SGD(plain.parameters(), lr=0.1))):
        losses()[0](one).backward()
        own.step()
    for part in ("weight", "bias"):
        now, alone = getattr(model.qkv, part), getattr(plain.qkv, part)
        assert torch.equal(now[OTHERS], alone[OTHERS])
        assert not torch.equal(now[OTHERS], before[f"qkv.{part}"][OTHERS])
    assert [len(radii) for radii in wrs.radii.values()] == [4]


def test_the_one_off_leaves_outputs_and_the_other_rows_as_they_are() -> None:
    model = attention()
    before, x = copy.deepcopy(model.state_dict()), torch.randn(3, 4, 6, dtype=torch.float64)
    outputs = model(x).detach()
    factors = decayfree.rescale_(model, found_in(model), radius=3.0)
    assert factors[SPEC.weight].min() > 1
    torch.testing.assert_close(model(x).detach(), outputs, rtol=1e-12, atol=1e-12)
    assert torch.equal(model.qkv.weight[OTHERS], before["qkv.weight"][OTHERS])
    assert torch.equal(model.qkv.bias[OTHERS], before["qkv.bias"][OTHERS])
    norms = reference.norms_of(model.qkv.weight, SPEC, model.qkv.bias)
    assert norms == pytest.approx([3 * 3**0.5] * 4)


def test_a_run_resumes_bitwise_from_its_states() -> None:
    def started() -> tuple[nn.Module, torch.optim.Optimizer, decayfree.WeightRescaling]:
        model = attention()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        return model, optimizer, decayfree.WeightRescaling(optimizer, found_in(model), radius="init")

    def step(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Any) -> None:
        optimizer.zero_grad()
        loss(model).backward()
        optimizer.step()

    run = started()
    for loss in losses()[:5]:
        step(*run[:2], loss)
    states = copy.deepcopy([one.state_dict() for one in run])
    resumed = started()
    with torch.no_grad():
        resumed[0].qkv.weight.mul_(2.0)
    for one, state in zip(resumed, states, strict=True):
        one.load_state_dict(state)
    for loss in losses()[5:10]:
        step(*run[:2], loss)
        step(*resumed[:2], loss)
    assert all(map(torch.equal, run[0].parameters(), resumed[0].parameters()))


def test_rows_go_through_json() -> None:
    found = found_in(attention())
    again = decayfree.Invariance.from_dict(found.to_dict(), attention())
    assert again[SPEC.weight].blocks == found[SPEC.weight].blocks
    assert again[SPEC.weight].blocks.rows == (0, 1, 2, 3, 4, 5, 9, 10, 11, 12, 13, 14)


@pytest.mark.parametrize("decay_of_others", [0.0, 0.1])
def test_a_step_makes_no_blocks_anew(decay_of_others: float, monkeypatch: pytest.MonkeyPatch) -> None:
    model, (loss, *_) = attention(), losses()
    groups = [{"params": list(model.parameters()), OTHER_ROWS: decay_of_others}]
    optimizer, made = torch.optim.SGD(groups, lr=0.1), []
    decayfree.WeightRescaling(optimizer, found_in(model))
    monkeypatch.setattr(Blocks, "__post_init__", lambda blocks: made.append(blocks))
    for _ in range(2):  # what is kept may be made in the first
        made.clear()
        loss(model).backward()
        optimizer.step()
    assert made == []
