"""Weights that have a scale and are held since somebody asked for it, and blocks that are only kept short.

References: the same training with a loop over rows by hand, in float64.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import decayfree
from decayfree.blocks import Blocks
from decayfree.errors import InvalidInputError, MismatchError
from decayfree.rescaling.fused_holder import fused_holders_of
from decayfree.rescaling.held import Held
from decayfree.rescaling.holder import Holder

N_STEPS = 20
BLOCKS = {"0.weight": 6, "2.weight": 1, "4.weight": 2}
REQUEST = {"0.*": "row", "2.*": "whole", "*": 2}


def network() -> nn.Sequential:
    """No normalization, so that every weight has a scale."""
    torch.manual_seed(0)
    layers = (nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4))
    return nn.Sequential(*layers).double()


def inputs() -> Tensor:
    return torch.randn(16, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def requested(model: nn.Module) -> decayfree.Invariance:
    return decayfree.find_invariant(model, inputs()).by_request(REQUEST)


def blocks_of(weight: Tensor, n_blocks: int) -> Tensor:
    return weight.detach().view(n_blocks, -1)


def train(
    model: nn.Module, optimizer: torch.optim.Optimizer, after: Callable[[], None] = lambda: None
) -> None:
    for _ in range(N_STEPS):
        optimizer.zero_grad()
        (model(inputs()) - 0.1 * inputs().sign()).square().mean().backward()
        optimizer.step()
        after()


def put_back_(model: nn.Module, norms: dict[str, Tensor], *, at_most: bool) -> None:
    """By hand: every block that is off its norm, or only what is longer."""
    for name, n_blocks in BLOCKS.items():
        for block, norm in zip(blocks_of(model.get_parameter(name), n_blocks), norms[name], strict=True):
            if not at_most or block.norm() > norm:
                block.mul_(norm / block.norm())


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("at_most", [False, True])
def test_a_training_holds_what_was_asked_for_as_a_loop_by_hand_does(*, fused: bool, at_most: bool) -> None:
    model = network()
    by_hand = copy.deepcopy(model)
    norms = {name: blocks_of(model.get_parameter(name), n).norm(dim=1) for name, n in BLOCKS.items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    wrs = decayfree.WeightRescaling(optimizer, requested(model), at_most=at_most, fused=fused)
    train(model, optimizer)
    theirs = torch.optim.SGD(by_hand.parameters(), lr=0.3, momentum=0.9)
    train(by_hand, theirs, lambda: put_back_(by_hand, norms, at_most=at_most))
    for own, other in zip(model.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-11, atol=1e-12)
    assert wrs.check().problems == ()
    assert str(wrs.check()).startswith("all is well after ")
    now = {name: blocks_of(model.get_parameter(name), n).norm(dim=1) for name, n in BLOCKS.items()}
    is_shorter = any(bool((now[name] < 0.99 * norms[name]).any()) for name in BLOCKS)
    assert is_shorter == at_most  # so that the two are told apart


def test_a_pattern_sets_the_radius_and_a_number_is_for_weights_without_a_scale() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 2), nn.Linear(2, 2))
    found = decayfree.find_invariant(model, torch.randn(16, 4)).by_request({"3.*": "row", "4.*": "row"})
    own = model[3].weight.detach().norm(dim=1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with decayfree.WeightRescaling(optimizer, found, radius=2.0) as wrs:
        torch.testing.assert_close(
            wrs.radii,
            {
                "0.weight": torch.full((3,), 2.0),
                "3.weight": own,
                "4.weight": model[4].weight.detach().norm(dim=1),
            },
        )
    with decayfree.WeightRescaling(optimizer, found, radius={"4.*": 0.5}) as wrs:
        torch.testing.assert_close(
            wrs.radii, {"0.weight": torch.ones(3), "3.weight": own, "4.weight": torch.full((2,), 0.5)}
        )
        torch.testing.assert_close(model[4].weight.detach().norm(dim=1), torch.full((2,), 0.5))


@pytest.mark.parametrize("momentum", ["keep", "scale"])
def test_moments_and_gradients_of_what_has_a_scale_stay_as_they_are(momentum: str) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    train(model, optimizer)
    before = [optimizer.state[one]["momentum_buffer"].clone() for one in model.parameters()]
    gradients = [one.grad.clone() for one in model.parameters() if one.grad is not None]
    decayfree.WeightRescaling(optimizer, requested(model), radius={"*": 0.5}, momentum=momentum)  # type: ignore[arg-type]
    for parameter, buffer, gradient in zip(model.parameters(), before, gradients, strict=True):
        assert torch.equal(optimizer.state[parameter]["momentum_buffer"], buffer)
        assert torch.equal(parameter.grad, gradient)  # type: ignore[arg-type]
    optimizer.step()
    moved = [0.9 * buffer + gradient for buffer, gradient in zip(before, gradients, strict=True)]
    for parameter, buffer in zip(model.parameters(), moved, strict=True):
        torch.testing.assert_close(optimizer.state[parameter]["momentum_buffer"], buffer)


def test_rescaling_once_moves_no_output_and_so_leaves_them_alone() -> None:
    model = network()
    before = model(inputs())
    assert decayfree.rescale_(model, requested(model), radius=3.0) == {}
    assert torch.equal(model(inputs()), before)


def test_the_table_marks_them_and_json_keeps_them() -> None:
    found = requested(network())
    text = repr(found)
    assert "0 scale-invariant weights with 0 blocks: 0 of 89 parameters." in text
    assert "3 weights by request, whose norms change what the model computes, with 9 blocks: 74 of 89" in text
    assert "by request: changes the model" in text
    again = decayfree.Invariance.from_dict(json.loads(json.dumps(found.to_dict())), network())
    assert [(one.name, one.block_sizes, one.by_request) for one in again] == [
        ("0.weight", (1,) * 6, True),
        ("2.weight", (5,), True),
        ("4.weight", (2, 2), True),
    ]


def test_a_weight_without_a_scale_stays_what_it_is_and_a_transposed_one_has_its_rows() -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ConvTranspose2d(4, 6, 2, groups=2))
    found = decayfree.find_invariant(model, torch.randn(4, 2, 6, 6))
    both = found.by_request({"*": "row"})
    assert [(one.name, one.by_request, one.axis, one.groups, one.blocks.n_blocks) for one in both] == [
        ("0.weight", False, 0, 1, 4),
        ("2.weight", True, 1, 2, 6),
    ]
    assert [one.name for one in found] == ["0.weight"]


@pytest.mark.parametrize(
    ("by", "says"),
    [
        (
            {"9.*": "row"},
            r"'9\.\*' matches none of the 3 trained matrices and kernels \(0\.weight, 2\.weight",
        ),
        ({"*.bias": "row"}, r"'\*\.bias' matches none of the 3 trained matrices"),
        ({"0.*": 4}, r"0\.weight has 6 rows, which are no 4 equal blocks"),
        ({"0.*": "heads"}, r"""0\.weight wants "row", "whole" or a number of blocks, got 'heads'"""),
        ({"0.*": True}, r"0\.weight wants .* got True"),
        ({"0.*": 0}, r"0\.weight wants .* got 0"),
        ("row", r"by must map patterns over names .* got 'row'"),
    ],
)
def test_a_request_that_cannot_be_met_says_why(by: object, says: str) -> None:
    with pytest.raises(InvalidInputError, match=says):
        decayfree.find_invariant(network(), inputs()).by_request(by)  # type: ignore[arg-type]


def test_a_weight_that_came_after_the_probe_is_refused() -> None:
    model = network()
    found = decayfree.find_invariant(model, inputs())
    model.append(nn.Linear(4, 4).double())
    with pytest.raises(MismatchError, match=r"5\.weight was not in the model that was probed"):
        found.by_request({"*": "row"})


def test_at_most_is_a_setting_that_is_checked_and_goes_with_the_state() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(InvalidInputError, match="at_most must be True or False, got 1"):
        decayfree.WeightRescaling(optimizer, requested(model), at_most=1)  # type: ignore[arg-type]
    with decayfree.WeightRescaling(optimizer, requested(model), at_most=True) as wrs:
        state = wrs.state_dict()
    with decayfree.WeightRescaling(optimizer, requested(model)) as wrs:
        wrs.load_state_dict(state)
        assert wrs.at_most
        model[0].weight.data.mul_(0.5)
        assert wrs.check().problems == ()
        model[0].weight.data.mul_(4.0)
        assert "0.weight is off its radius by 1" in wrs.check().problems[0]
        assert str(wrs.check()).startswith("- 0.weight is off its radius by 1")


@pytest.mark.parametrize("way", ["plain", "careful", "few calls", "fused"])
def test_shorter_blocks_keep_their_bits(way: str) -> None:
    rows = [[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]] + [[float("nan"), 1.0]] * (way == "careful")
    weight = torch.tensor(rows)
    one = Held(weight, None, Blocks(0, (1,) * len(rows)), "w", torch.full((len(rows),), 2.0))
    match way:
        case "fused":
            (holder,) = fused_holders_of([one], at_most=True)
        case _:
            holder = Holder([one], at_most=True, in_few_calls=way == "few calls")
    holder.hold_()
    expected = [[1.2, 1.6], rows[1], rows[2]]
    if way == "careful":  # beside NaN all of a weight are left alone
        expected = rows
    torch.testing.assert_close(weight, torch.tensor(expected), equal_nan=True)
    assert torch.equal(weight[1], torch.tensor(rows[1]))


@pytest.mark.parametrize("every", [1, 3])
def test_running_statistics_are_brought_to_the_norms_that_weights_have(every: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4, eps=1e-30), nn.Linear(4, 2)).double()
    x = torch.randn(32, 3, dtype=torch.float64)
    found = decayfree.find_invariant(model, x)
    weight, norm = model[0].weight, model[1]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    own = weight.detach().norm(dim=1)
    wrs = decayfree.WeightRescaling(
        optimizer, found, radius={"*": own * torch.tensor([0.5, 1.01, 1.05, 9.0])}, at_most=True, every=every
    )
    average = norm.running_var / weight.detach().norm(dim=1).square()
    for _ in range(12):
        optimizer.zero_grad()
        (model(x) - x[:, :2]).square().mean().backward()
        variance = (x @ weight.detach().T).var(0) / weight.detach().norm(dim=1).square()
        average = 0.9 * average + 0.1 * variance
        optimizer.step()
    assert bool((weight.detach().norm(dim=1) < 0.99 * wrs.radii["0.weight"]).any())
    torch.testing.assert_close(
        norm.running_var, average * weight.detach().norm(dim=1).square(), rtol=1e-9, atol=0.0
    )
