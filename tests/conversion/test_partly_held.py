"""Dropping the decay of a weight of which some rows are held: the others keep theirs."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import decayfree
from decayfree.conversion.converted_rescaling import drop_decay, fixed_norm_recipe
from decayfree.conversion.gradient_norms import GradientNorms
from decayfree.invariance.verdict import ScaleInvariantWeight, Verdict


class Heads(nn.Module):
    """Two heads of two rows are normalized, and the last four rows are not."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 8, bias=False)
        self.whole = nn.Linear(8, 3, bias=False)

    def forward(self, x):
        y = self.layer(x)
        heads = [F.rms_norm(y[:, start : start + 2], (2,)) for start in (0, 2)]
        return F.layer_norm(self.whole(torch.cat([*heads, y[:, 4:]], dim=1)), (3,))


def found_in(model):
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    verdicts = {name: Verdict(name, "invariant", "", 0.0, shape) for name, shape in shapes.items()}
    weights = [
        ScaleInvariantWeight("layer.weight", None, 0, (2, 2), (), 0.0, starts=(0, 2)),
        ScaleInvariantWeight("whole.weight", None, 0, (3,), (), 0.0),
    ]
    return decayfree.Invariance(model, weights, verdicts, dtype=torch.float64, confirmed_to=0.0)


def test_a_row_has_as_many_numbers_whatever_is_held(seed):
    model = Heads()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
    recipe = fixed_norm_recipe(optimizer, found_in(model))
    assert [one.fan_in for one in recipe.weights] == [6, 8]
    expected = (1e-3 * 6 / 0.2) ** 0.5  # √(ηC/(2λ))
    assert recipe.radii["layer.weight"].tolist() == pytest.approx([expected] * 2, rel=1e-3)


def test_the_other_rows_keep_their_decay_in_a_group_of_their_own(seed):
    model = Heads()
    optimizer = torch.optim.AdamW(model.named_parameters(), lr=1e-3, weight_decay=0.1)
    optimizer.add_param_group({"params": [("more", nn.Parameter(torch.ones(2)))], "weight_decay": 0.01})
    drop_decay(optimizer, found_in(model))
    groups = [
        (group["param_names"], group["weight_decay"], group.get("other_rows_weight_decay"))
        for group in optimizer.param_groups
    ]
    # What is held whole goes first, and what is left of the group is held in part.
    assert groups == [(["layer.weight"], 0.0, 0.1), (["more"], 0.01, None), (["whole.weight"], 0.0, None)]


def test_gradient_norms_are_of_the_held_rows(seed):
    model = Heads()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with GradientNorms(optimizer, found_in(model)) as measured:
        model(torch.randn(16, 6)).square().sum().backward()
        optimizer.step()
    weight, gradient = model.layer.weight.detach(), model.layer.weight.grad
    expected = [float(gradient[rows].norm() * weight[rows].norm()) for rows in (slice(0, 2), slice(2, 4))]
    assert measured["layer.weight"].tolist() == pytest.approx(expected)
