"""Whole trainings under weight rescaling, against the float64 reference and scale invariance's algebra.

Outputs and running statistics, errors, and what is remembered have files of their own: test_rescaling_*.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

import decayfree
from decayfree.blocks import block_norms
from support import reference
from support.networks import digit_batch, digit_losses, find, mixed_net, step_once
from support.reference import Rule

N_STEPS = 200
RADII: dict[str, float | str | dict[str, float]] = {
    "one": 1.0,
    "two": 2.0,
    "as found": "init",
    "by name": {"conv.*": 0.5, "[gt]r*": 2.0, "hidden.weight": 1.5},
}
# At these learning rates a difference of one ulp stays below 2e-14 in 200 steps. With momentum and 0.02 the
# radii as found are at the edge of stability, where it grows to 2e-12.
RULES = {
    "sgd": Rule("sgd", lr=0.05),
    "momentum": Rule("sgd", lr=0.01, momentum=0.9),
    "nesterov": Rule("sgd", lr=0.02, momentum=0.9, nesterov=True),
    "adam": Rule("adam", lr=2e-3),
}


@dataclass(frozen=True)
class Case:
    """One way to rescale, under one optimizer."""

    rule: str
    radius: str
    every: int = 1
    momentum: str = "keep"
    fused: bool = False


CASES = [
    Case("sgd", "one"),
    Case("sgd", "as found", every=5),
    Case("sgd", "by name"),
    Case("momentum", "one"),
    Case("momentum", "two"),
    Case("momentum", "one", every=5),
    Case("momentum", "as found", momentum="scale"),
    Case("momentum", "by name", every=5, momentum="scale"),
    Case("nesterov", "one"),
    Case("nesterov", "two", every=5, momentum="scale"),
    Case("adam", "one"),
    Case("adam", "as found", every=5),
    Case("adam", "two", momentum="scale"),
    Case("adam", "by name", every=5, momentum="scale"),
    Case("momentum", "one", fused=True),
    Case("momentum", "by name", every=5, momentum="scale", fused=True),
    Case("adam", "as found", every=5, fused=True),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_run_equals_the_reference(case: Case) -> None:
    losses = digit_losses(N_STEPS)
    rule, radius = RULES[case.rule], RADII[case.radius]

    model = mixed_net()
    optimizer = torch_optimizer(rule, model)
    settings = {"radius": radius, "every": case.every, "momentum": case.momentum, "fused": case.fused}
    decayfree.WeightRescaling(optimizer, find(model), **settings)

    expected = mixed_net()
    targets = {spec.weight: target_norms(spec, radius, expected) for spec in expected.specs}
    parameters = dict(expected.named_parameters())
    for spec in expected.specs:  # it rescales at once
        bias = None if spec.bias is None else parameters[spec.bias]
        reference.rescale(parameters[spec.weight], targets[spec.weight], spec, bias)
    rescaling = reference.Rescaling(
        expected.specs, targets, case.every, moments_follow=case.momentum == "scale"
    )

    for step, snapshot in enumerate(reference.train(expected, losses, rule, rescaling)):
        step_once(model, optimizer, losses[step])
        for name, parameter in model.named_parameters():
            distance = (parameter.detach() - snapshot[name]).norm() / snapshot[name].norm()
            assert distance < 1e-13, f"{name} after step {step}"


def torch_optimizer(rule: Rule, model: nn.Module) -> torch.optim.Optimizer:
    if rule.name == "sgd":
        return torch.optim.SGD(model.parameters(), lr=rule.lr, momentum=rule.momentum, nesterov=rule.nesterov)
    return torch.optim.Adam(model.parameters(), lr=rule.lr, betas=rule.betas, eps=rule.eps)


def target_norms(
    spec: reference.BlockSpec, radius: float | str | dict[str, float], model: nn.Module
) -> list[float]:
    """What each block's norm should be: written out by hand for the patterns above."""
    if radius == "init":
        parameters = dict(model.named_parameters())
        bias = None if spec.bias is None else parameters[spec.bias]
        return reference.norms_of(parameters[spec.weight], spec, bias)
    if isinstance(radius, dict):
        by_hand = {"conv.weight": 0.5, "grouped.weight": 2.0, "transposed.weight": 2.0, "hidden.weight": 1.5}
        return reference.target_norms(spec, by_hand[spec.weight])
    assert isinstance(radius, float)
    return reference.target_norms(spec, radius)


@pytest.mark.parametrize("radius", [1.0, 2.0])
def test_sgd_with_rescaling_is_sgd_with_a_learning_rate_per_block(radius: float) -> None:
    # A free weight of norm r that takes steps of η r²/R² computes the same functions as one held at norm R
    # with η.
    lr, losses = 0.1 * radius**2, digit_losses(N_STEPS)
    held, free = mixed_net(), mixed_net()
    optimizer = torch.optim.SGD(held.parameters(), lr=lr)
    decayfree.WeightRescaling(optimizer, find(held), radius=radius)
    images, _ = digit_batch(-1, torch.float64)
    for loss in losses:
        step_once(held, optimizer, loss)
        step_with_a_rate_per_block(free, loss(free), lr, radius)
        with torch.no_grad():
            outputs, expected = held(images), free(images)
        assert (outputs - expected).abs().max() < 1e-10 * expected.abs().max()
    grown = [norms / start for norms, start in zip(norms_in(free), norms_in(mixed_net()), strict=True)]
    assert max(float(ratio.max()) for ratio in grown) > 1.05  # the two runs did go different ways


def step_with_a_rate_per_block(model: nn.Module, loss: Tensor, lr: float, radius: float) -> None:
    """Plain SGD, each block of norm r and R rows at learning rate lr · r² / (radius² R)."""
    parameters = dict(model.named_parameters())
    gradients = dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))
    for spec in model.specs:
        bias = None if spec.bias is None else parameters[spec.bias]
        norms = reference.norms_of(parameters[spec.weight], spec, bias)
        rates = [norm**2 / (radius**2 * size) for norm, size in zip(norms, spec.sizes, strict=True)]
        bias_gradient = None if spec.bias is None else gradients[spec.bias]
        reference.scale(gradients[spec.weight], rates, spec, bias_gradient)
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter -= lr * gradients[name]


def norms_in(model: nn.Module) -> list[Tensor]:
    parameters = dict(model.named_parameters())
    return [
        torch.tensor(
            reference.norms_of(parameters[s.weight], s, None if s.bias is None else parameters[s.bias])
        )
        for s in model.specs
    ]


@pytest.mark.parametrize("radius", [1.0, 2.0])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_norms_just_before_each_rescale_follow_the_closed_form(momentum: float, radius: float) -> None:
    # r̃² = R² + η²‖g‖² for SGD; with momentum and a kept buffer ⟨w, v⟩ comes in. No angle is measured.
    lr, losses = 0.02 * radius**2, digit_losses(N_STEPS)
    model = mixed_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)
    decayfree.WeightRescaling(optimizer, find(model), radius=radius)
    parameters = dict(model.named_parameters())
    histories = {(s.weight, block): reference.History() for s in model.specs for block in range(len(s.sizes))}
    for loss in losses:
        before = {name: p.detach().clone() for name, p in parameters.items()}
        step_once(model, optimizer, loss)
        steps = {name: step_taken(optimizer, p) for name, p in parameters.items()}
        for spec in model.specs:
            bias = (
                (None, None)
                if spec.bias is None
                else (before[spec.bias] - lr * steps[spec.bias], steps[spec.bias])
            )
            moved = reference.norms_of(before[spec.weight] - lr * steps[spec.weight], spec, bias[0])
            buffers = reference.norms_of(steps[spec.weight], spec, bias[1])
            for block, (norm, buffer) in enumerate(zip(moved, buffers, strict=True)):
                histories[spec.weight, block].norms.append(norm)
                histories[spec.weight, block].buffer_norms.append(buffer)
    for (name, block), history in histories.items():
        rows = {s.weight: s.sizes for s in model.specs}[name][block]
        predicted = reference.predicted_norms_before_rescale(history, lr, momentum, radius * math.sqrt(rows))
        assert max(history.norms) > radius * math.sqrt(rows) * (1 + 1e-6)
        torch.testing.assert_close(torch.tensor(history.norms), torch.tensor(predicted), rtol=1e-13, atol=0)


def step_taken(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> Tensor:
    """SGD's step without the learning rate: the buffer, or the gradient where there is none."""
    buffer = optimizer.state[parameter].get("momentum_buffer")
    taken = parameter.grad if buffer is None else buffer
    assert taken is not None
    return taken.detach().clone()


def test_norms_without_rescaling_follow_the_closed_form() -> None:
    # The identity holds only for whole blocks of weights that are really scale-invariant.
    lr, momentum, decay, losses = 0.02, 0.9, 1e-2, digit_losses(N_STEPS)
    model = mixed_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum, weight_decay=decay)
    parameters = dict(model.named_parameters())
    found = find(model)
    start = {weight.name: block_norms_of(weight, parameters) for weight in found}
    norms, buffers = {name: [norm] for name, norm in start.items()}, {name: [] for name in start}
    for loss in losses:
        step_once(model, optimizer, loss)
        taken = {name: step_taken(optimizer, p) for name, p in parameters.items()}
        for weight in found:
            norms[weight.name].append(block_norms_of(weight, parameters))
            buffers[weight.name].append(block_norms_of(weight, taken))
    for name in start:
        for block in range(len(start[name])):
            history = reference.History([float(n[block]) for n in norms[name]])
            history.buffer_norms = [float(n[block]) for n in buffers[name]]
            predicted = reference.predicted_norms(history, lr, momentum, decay)
            torch.testing.assert_close(
                torch.tensor(history.norms[1:]), torch.tensor(predicted), rtol=1e-12, atol=0
            )


def block_norms_of(weight: decayfree.ScaleInvariantWeight, tensors: dict[str, Tensor]) -> Tensor:
    bias = None if weight.bias is None else tensors[weight.bias].detach()
    return decayfree.blocks.block_norms(tensors[weight.name].detach(), weight.blocks, bias)


def test_nothing_but_the_found_weights_is_touched() -> None:
    model, plain = mixed_net(), mixed_net()
    found = find(model)
    names = {name for weight in found for name in (weight.name, weight.bias)}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    decayfree.WeightRescaling(optimizer, found, radius=2.0)
    step_once(model, optimizer, digit_losses(1)[0])
    for (name, parameter), before in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert torch.equal(parameter, before) == (name not in names), name


def test_a_weight_outside_the_optimizer_is_not_rescaled() -> None:
    model, plain = mixed_net(), mixed_net()
    optimizer = torch.optim.SGD([p for name, p in model.named_parameters() if name != "conv.weight"], lr=0.1)
    decayfree.WeightRescaling(optimizer, find(model), radius=2.0)
    assert torch.equal(model.conv.weight, plain.conv.weight)
    assert not torch.equal(model.grouped.weight, plain.grouped.weight)


def test_rescaling_happens_on_every_fifth_step_only() -> None:
    model = mixed_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    decayfree.WeightRescaling(optimizer, find(model), every=5)
    for step, loss in enumerate(digit_losses(12), start=1):
        step_once(model, optimizer, loss)
        deviation = max(float((norms - norms.round()).abs().max()) for norms in norms_in(model)[:3])
        assert (deviation < 1e-14) == (step % 5 == 0), step


def test_radii_count_per_row() -> None:
    model = mixed_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    wrs = decayfree.WeightRescaling(optimizer, find(model), radius={"hidden.*": 3.0, "[cg]*": 2.0})
    assert {name: radii.tolist() for name, radii in wrs.radii.items()} == {
        "conv.weight": [2.0] * 4,
        "grouped.weight": [2.0] * 6,
        "transposed.weight": [1.0] * 4,  # matched by no pattern
        "hidden.weight": [3.0],
    }
    assert norms_in(model)[3].tolist() == pytest.approx([3 * math.sqrt(8)])


def test_the_first_pattern_that_matches_counts() -> None:
    model = mixed_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    wrs = decayfree.WeightRescaling(optimizer, find(model), radius={"conv.*": 2.0, "*": 3.0, "g*": "init"})
    assert wrs.radii["conv.weight"].tolist() == [2.0] * 4
    assert wrs.radii["grouped.weight"].tolist() == [3.0] * 6


def test_init_in_a_pattern_is_the_norm_found() -> None:
    model, plain = mixed_net(), mixed_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    decayfree.WeightRescaling(optimizer, find(model), radius={"conv.*": "init", "*": 3.0})
    assert torch.equal(model.conv.weight, plain.conv.weight)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_rescale_returns_the_factors_it_applied(dtype: torch.dtype) -> None:
    model, before = mixed_net(dtype), mixed_net(dtype)
    factors = decayfree.rescale_(model, find(model), radius=2.0)
    parameters = dict(model.named_parameters())
    for spec in model.specs:
        old = dict(before.named_parameters())
        bias = None if spec.bias is None else old[spec.bias]
        expected = reference.rescale(old[spec.weight], reference.target_norms(spec, 2.0), spec, bias)
        rounding = 4 * torch.finfo(dtype).eps
        assert factors[spec.weight].shape == (len(spec.sizes),)
        assert factors[spec.weight].tolist() == pytest.approx(expected, rel=rounding)
        torch.testing.assert_close(parameters[spec.weight], old[spec.weight], rtol=rounding, atol=0)
        if spec.bias is not None:
            torch.testing.assert_close(parameters[spec.bias], old[spec.bias], rtol=rounding, atol=0)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("how", ["once", "attached", "after a step"])
def test_a_factor_that_bfloat16_cannot_hold_is_not_lost(how: str, layout: torch.memory_format) -> None:
    # In bfloat16 1.003 is 1, and a weight times 1 does not move. In float32 the product moves each number
    # whose next neighbor is nearer to it: those with mantissas from 1.303 on.
    model = nn.Sequential(nn.Conv2d(2, 1, (1, 2), bias=False), nn.BatchNorm2d(1)).to(torch.bfloat16)
    model.to(memory_format=layout)
    found = decayfree.find_invariant(model, torch.arange(24.0).reshape(3, 2, 1, 4).sin().bfloat16())
    before = torch.tensor([1.0, 1.25, 1.5, 1.75]).bfloat16()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    if how == "after a step":
        decayfree.WeightRescaling(optimizer, found, radius=1.003 * before.double().norm().item())
    with torch.no_grad():
        model[0].weight.copy_(before.reshape(1, 2, 1, 2))
    radius = 1.003 * before.double().norm().item()
    if how == "once":
        decayfree.rescale_(model, found, radius=radius)
    elif how == "attached":
        decayfree.WeightRescaling(optimizer, found, radius=radius)
    else:
        model[0].weight.grad = torch.zeros_like(model[0].weight)
        optimizer.step()
    assert model[0].weight.flatten().tolist() == [1.0, 1.25, 1.5078125, 1.7578125]


def test_factors_are_what_every_block_was_multiplied_by() -> None:
    model = mixed_net()
    found = find(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    stretched: dict[str, Tensor] = {}
    wrs = decayfree.WeightRescaling(optimizer, found)

    def measure(*_: object) -> None:
        bias = {
            weight.name: None if weight.bias is None else model.get_parameter(weight.bias) for weight in found
        }
        for weight in found:
            own = bias[weight.name]
            norms = block_norms(model.get_parameter(weight.name).detach(), weight.blocks, own)
            stretched[weight.name] = norms

    optimizer.register_step_post_hook(measure)
    hooks = optimizer._optimizer_step_post_hooks
    hooks.move_to_end(list(hooks)[-1], last=False)  # before the rescale
    step_once(model, optimizer, digit_losses(1)[0])
    for name, factors in wrs.factors.items():
        target = found[name].blocks
        radii = wrs.radii[name] * torch.tensor(target.block_sizes, dtype=torch.float64).sqrt()
        torch.testing.assert_close(stretched[name] * factors, radii, rtol=1e-12, atol=0)
        assert (factors < 1).all()  # SGD without decay only stretches
    wrs.factors["hidden.weight"].zero_()  # a copy
    assert wrs.factors["hidden.weight"].all()
