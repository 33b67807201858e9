"""Rows that are not held, of a weight of which others are: decayed as a parameter of their own would be."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import decayfree
from decayfree.blocks import Blocks, Part, scale_other_rows_
from decayfree.errors import InvalidInputError, WeightDecayError
from decayfree.invariance.verdict import ScaleInvariantWeight, Verdict
from decayfree.rescaling.faults import decay_faults
from decayfree.rescaling.other_rows import OTHER_ROWS, decay_other_rows_, other_rows_faults

# Of ten rows, two blocks of two are held.
SIZES, STARTS = (2, 2), (1, 6)
HELD, OTHERS = [1, 2, 6, 7], [0, 3, 4, 5, 8, 9]


class Projection(nn.Module):
    """A layer whose held rows have no scale, and whose others do."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 10, dtype=dtype)
        self.head = nn.Linear(10, 1, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        heads = [F.rms_norm(y[:, start : start + 2], (2,)) for start in STARTS]
        return self.head(torch.cat([*heads, y[:, OTHERS]], dim=1).tanh())


def found_in(model: nn.Module, **left_out: str) -> decayfree.Invariance:
    """Its partly invariant weight, written down by hand."""
    verdicts = {
        name: Verdict(name, "not_invariant", "", 1.0, tuple(parameter.shape))
        for name, parameter in model.named_parameters()
    }
    shape = tuple(model.layer.weight.shape)
    verdicts["layer.weight"] = Verdict("layer.weight", "invariant", "", 0.0, shape)
    weight = ScaleInvariantWeight("layer.weight", "layer.bias", 0, SIZES, (), 0.0, starts=STARTS)
    return decayfree.Invariance(model, [weight], verdicts, dtype=torch.float64, confirmed_to=0.0)


class Cut(nn.Module):
    """The same layer as two: what is held and what is not."""

    def __init__(self, whole: Projection) -> None:
        super().__init__()
        for name, rows in (("held", HELD), ("others", OTHERS)):
            for part in ("weight", "bias"):
                cut = nn.Parameter(getattr(whole.layer, part).detach()[rows].clone())
                self.register_parameter(f"{name}_{part}", cut)
        self.head = nn.Linear(10, 1, dtype=whole.head.weight.dtype)
        self.head.load_state_dict(whole.head.state_dict())

    def forward(self, x: Tensor) -> Tensor:
        held, others = (
            F.linear(x, self.held_weight, self.held_bias),
            F.linear(x, self.others_weight, self.others_bias),
        )
        heads = [F.rms_norm(held[:, start : start + 2], (2,)) for start in (0, 2)]
        return self.head(torch.cat([*heads, others], dim=1).tanh())


OPTIMIZERS: dict[str, Any] = {
    "SGD": lambda groups: torch.optim.SGD(groups, lr=0.1),
    "SGD with momentum": lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=True),
    "SGD upwards": lambda groups: torch.optim.SGD(groups, lr=0.01, maximize=True),
    "Adam": lambda groups: torch.optim.Adam(groups, lr=0.01),
    "Adam with decoupled decay": lambda g: torch.optim.Adam(g, lr=0.01, decoupled_weight_decay=True),
    "AdamW": lambda groups: torch.optim.AdamW(groups, lr=0.01),
    "AdamW with its rate in a tensor": lambda g: torch.optim.AdamW(g, lr=torch.tensor(0.01)),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_the_others_train_as_a_parameter_of_their_own(make: Any, dtype: torch.dtype, seed: int) -> None:
    whole = Projection(dtype)
    cut, found = Cut(whole), found_in(whole)
    optimizer = make(decayfree.split_params(whole, found, weight_decay=0.3))
    apart = make(
        [
            {"params": [cut.held_weight, cut.held_bias], "weight_decay": 0.0},
            {"params": [cut.others_weight, cut.others_bias, *cut.head.parameters()], "weight_decay": 0.3},
        ]
    )
    x = torch.randn(20, 8, 5, dtype=dtype)
    for inputs in x:
        for model, one in ((whole, optimizer), (cut, apart)):
            one.zero_grad()
            model(inputs).square().mean().backward()
        gradients = decay_other_rows_(optimizer, found.parts().values())
        optimizer.step()
        for parameter, gradient in gradients:
            parameter.grad = gradient
        apart.step()
        for part in ("weight", "bias"):
            own = getattr(whole.layer, part)
            for rows, name in ((HELD, "held"), (OTHERS, "others")):
                twin = getattr(cut, f"{name}_{part}")
                torch.testing.assert_close(
                    own[rows], twin, rtol=1e-12 if dtype.itemsize == 8 else 1e-4, atol=1e-7
                )
                torch.testing.assert_close(own.grad[rows], twin.grad, rtol=1e-4, atol=1e-6)
    # Without decay they would be elsewhere.
    assert (cut.others_weight.norm() / Projection(dtype).layer.weight[OTHERS].norm() - 1).abs() > 0.01


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_held_rows_keep_their_bits_and_the_gradients_come_back(make: Any, seed: int) -> None:
    model = Projection()
    found = found_in(model)
    optimizer = make(decayfree.split_params(model, found, weight_decay=0.3))
    model(torch.randn(8, 5, dtype=torch.float64)).sum().backward()
    own = {name: (p.detach().clone(), p.grad, p.grad.clone()) for name, p in model.named_parameters()}
    gradients = dict(decay_other_rows_(optimizer, found.parts().values()))
    for name, parameter in model.layer.named_parameters():
        value, gradient, numbers = own[f"layer.{name}"]
        assert torch.equal(parameter[HELD], value[HELD])
        assert torch.equal(parameter.grad[HELD], numbers[HELD])
        assert torch.equal(gradient, numbers)
        assert gradients.get(parameter, gradient) is gradient
        is_moved = not torch.equal(parameter[OTHERS], value[OTHERS])
        assert is_moved != (not torch.equal(parameter.grad[OTHERS], numbers[OTHERS]))


@pytest.mark.parametrize("make", [OPTIMIZERS["SGD"], OPTIMIZERS["AdamW"]], ids=["SGD", "AdamW"])
def test_a_frozen_bias_keeps_no_weight_from_its_decay(make: Any, seed: int) -> None:
    inputs, others = torch.randn(8, 5, dtype=torch.float64), []
    for weight_decay in (0.3, 0.0):
        torch.manual_seed(0)
        model = Projection()
        optimizer = make(decayfree.split_params(model, found_in(model), weight_decay=weight_decay))
        model.layer.bias.requires_grad_(False)
        bias = model.layer.bias.detach().clone()
        shrunk = model.layer.weight.detach()[OTHERS] * optimizer.defaults["lr"] * weight_decay
        model(inputs).square().mean().backward()
        decay_other_rows_(optimizer, found_in(model).parts().values())
        optimizer.step()
        assert torch.equal(model.layer.bias, bias)
        others.append(model.layer.weight.detach()[OTHERS] + shrunk)
    torch.testing.assert_close(*others, rtol=1e-12, atol=1e-14)


def test_a_weight_without_a_gradient_is_not_decayed(seed: int) -> None:
    model = Projection()
    found = found_in(model)
    optimizer = OPTIMIZERS["AdamW"](decayfree.split_params(model, found, weight_decay=0.3))
    before = model.layer.weight.detach().clone()
    assert decay_other_rows_(optimizer, found.parts().values()) == []
    assert torch.equal(model.layer.weight, before)


def test_a_step_that_a_grad_scaler_skips_inside_decays_nothing(seed: int) -> None:
    model = Projection()
    found = found_in(model)
    optimizer = OPTIMIZERS["AdamW"](decayfree.split_params(model, found, weight_decay=0.3))
    model(torch.randn(8, 5, dtype=torch.float64)).sum().backward()
    before = model.layer.weight.detach().clone()
    optimizer.found_inf = torch.tensor(1.0)
    decay_other_rows_(optimizer, found.parts().values())
    assert torch.equal(model.layer.weight, before)
    optimizer.found_inf = torch.tensor(0.0)
    decay_other_rows_(optimizer, found.parts().values())
    torch.testing.assert_close(model.layer.weight[OTHERS], before[OTHERS] * (1 - 0.01 * 0.3))


def test_scaled_gradients_get_decay_scaled_alike(seed: int) -> None:
    model = Projection()
    found = found_in(model)
    optimizer = OPTIMIZERS["SGD"](decayfree.split_params(model, found, weight_decay=0.5))
    model(torch.randn(8, 5, dtype=torch.float64)).sum().backward()
    gradient = model.layer.weight.grad
    optimizer.grad_scale = torch.tensor(1024.0)
    decay_other_rows_(optimizer, found.parts().values())
    added = model.layer.weight.grad - gradient
    torch.testing.assert_close(added[OTHERS], 512 * model.layer.weight[OTHERS])


def test_an_optimizer_whose_decay_nobody_knows_is_refused(seed: int) -> None:
    model = Projection()
    found = found_in(model)

    class Unknown(torch.optim.Optimizer):
        """Nobody knows it."""

    optimizer = Unknown(decayfree.split_params(model, found, weight_decay=0.5), {"lr": 0.1})
    model(torch.randn(8, 5, dtype=torch.float64)).sum().backward()
    message = (
        r"nobody knows what weight decay does under Unknown, .* other_rows_weight_decay=0\.5: set it to 0, or"
    )
    assert len(other_rows_faults(optimizer)) == 1
    with pytest.raises(InvalidInputError, match=message):
        decay_other_rows_(optimizer, found.parts().values())
    optimizer.param_groups[-1][OTHER_ROWS] = 0.0
    assert decay_other_rows_(optimizer, found.parts().values()) == other_rows_faults(optimizer) == []


# ---------------------------------------------------------------------------------------------- groups


def names_of(model: nn.Module, group: dict[str, Any]) -> set[str]:
    inside = {id(parameter) for parameter in group["params"]}
    return {name for name, parameter in model.named_parameters() if id(parameter) in inside}


def test_partly_held_weights_are_in_a_group_of_their_own() -> None:
    model = Projection()
    rest, partly = decayfree.split_params(model, found_in(model), weight_decay=0.3)
    assert (names_of(model, rest), rest["weight_decay"]) == ({"head.weight", "head.bias"}, 0.3)
    assert names_of(model, partly) == {"layer.weight", "layer.bias"}
    assert (partly["weight_decay"], partly[OTHER_ROWS]) == (0.0, 0.3)


@pytest.mark.parametrize("value", ["much", None, [0.1], math.nan, math.inf, -0.1, torch.ones(2)], ids=repr)
def test_a_decay_that_is_no_number_is_refused_by_the_name_of_its_group(value: Any, seed: int) -> None:
    model = Projection()
    groups = decayfree.split_params(model, found_in(model), weight_decay=0.3)
    optimizer = torch.optim.SGD(groups, lr=0.1)
    wrs = decayfree.WeightRescaling(optimizer, found_in(model))
    optimizer.param_groups[1][OTHER_ROWS] = value
    message = f"parameter group 1 has {OTHER_ROWS}="
    model(torch.randn(8, 5, dtype=torch.float64)).sum().backward()
    with pytest.raises(InvalidInputError, match=message):  # set while it trains
        optimizer.step()
    wrs.detach()
    with pytest.raises(InvalidInputError, match=message):
        decayfree.WeightRescaling(optimizer, found_in(model))


def test_without_any_decay_they_are_held_weights_as_others() -> None:
    model = Projection()
    held, _ = decayfree.split_params(model, found_in(model))
    assert names_of(model, held) == {"layer.weight", "layer.bias"}
    assert OTHER_ROWS not in held


@pytest.mark.parametrize(
    ("left_out", "is_decayed"),
    [("sign", False), ("numbers", False), ("no gradient", False), ("excluded", True), ("not included", True)],
)
def test_what_has_no_scale_is_not_decayed_unless_the_user_left_it_out(
    left_out: Any, is_decayed: bool
) -> None:
    model = Projection()
    found = found_in(model)
    found.verdicts["head.weight"] = Verdict("head.weight", "invariant", "", 0.0, (1, 10), left_out)
    decay = {
        name: group["weight_decay"]
        for group in decayfree.split_params(model, found, weight_decay=0.3)
        for name in names_of(model, group)
    }
    assert decay["head.weight"] == (0.3 if is_decayed else 0.0)
    assert decay["head.bias"] == 0.3


def test_decay_on_all_rows_is_refused_and_the_cure_is_named() -> None:
    model = Projection()
    found = found_in(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
    with pytest.raises(WeightDecayError, match=r"^decayfree\.exempt_.*split_params"):
        decayfree.WeightRescaling(optimizer, found)
    assert decayfree.exempt_(optimizer, found)
    assert [group[OTHER_ROWS] for group in optimizer.param_groups if OTHER_ROWS in group] == [0.1]
    assert decay_faults(optimizer, list(found), dict(model.named_parameters())) == []


def test_other_rows_are_scaled_along_axis_one_too() -> None:
    weight = torch.arange(1.0, 9.0).reshape(4, 2)  # two groups of two: rows are columns within a group
    scale_other_rows_(weight, 10.0, Blocks(axis=1, block_sizes=(1,), groups=2, starts=(2,)))
    assert weight.tolist() == [[10.0, 20.0], [30.0, 40.0], [5.0, 60.0], [7.0, 80.0]]


def test_a_weight_that_is_held_whole_has_no_other_rows() -> None:
    weight = torch.ones(2, 2)
    scale_other_rows_(weight, math.nan, Blocks(0, (1, 1)))
    assert torch.equal(weight, torch.ones(2, 2))


def test_a_row_has_as_many_numbers_whatever_is_held() -> None:
    weight, bias = torch.ones(4, 3), torch.ones(4)
    assert (
        Part(weight, bias, Blocks(0, (1,), starts=(2,))).fan_in
        == Part(weight, bias, Blocks(0, (4,))).fan_in
        == 4
    )


@pytest.mark.parametrize("with_closure", [False, True])
@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_weight_rescaling_decays_them_before_each_step(make: Any, with_closure: bool, seed: int) -> None:
    whole, x = Projection(), torch.randn(20, 8, 5, dtype=torch.float64)
    cut = Cut(whole)
    found, of_cut = decayfree.find_invariant(whole, x[0]), decayfree.find_invariant(cut, x[0])
    assert found["layer.weight"].starts == STARTS
    optimizer = make(decayfree.split_params(whole, found, weight_decay=0.3))
    apart = make(decayfree.split_params(cut, of_cut, weight_decay=0.3))
    decayfree.WeightRescaling(optimizer, found)
    decayfree.WeightRescaling(apart, of_cut)
    for inputs in x:
        for model, one in ((whole, optimizer), (cut, apart)):

            def closure(model: nn.Module = model, one: Any = one, inputs: Tensor = inputs) -> Tensor:
                one.zero_grad()
                loss = model(inputs).square().mean()
                loss.backward()
                return loss

            if with_closure:
                one.step(closure)
            else:
                closure()
                one.step()
    for part in ("weight", "bias"):
        for rows, name in ((HELD, "held"), (OTHERS, "others")):
            twin = getattr(cut, f"{name}_{part}")
            torch.testing.assert_close(getattr(whole.layer, part)[rows], twin, rtol=1e-9, atol=1e-9)
    norms = whole.layer.weight[[1, 2]].square().sum() + whole.layer.bias[[1, 2]].square().sum()
    assert norms.item() == pytest.approx(2.0)
