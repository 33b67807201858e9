"""What cannot be converted is refused, all faults at once, and then nothing has changed."""

import copy
import math
import re

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

import decayfree
from decayfree.conversion.converted_rescaling import drop_decay, fixed_norm_recipe
from decayfree.conversion.gradient_norms import GradientNorms
from decayfree.errors import AlreadyAttachedError, InvalidInputError, MismatchError, NonFiniteWeightError
from support.networks import find, mixed_net


def norms_for(found):
    return {one.name: torch.full((one.blocks.n_blocks,), 2.0) for one in found}


class refused_and_unchanged:
    """Expects an error that matches, and the model, the groups and the hooks as they were."""

    def __init__(self, model, optimizer, kind, message):
        self.model, self.optimizer = model, optimizer
        self.raises = pytest.raises(kind, match=re.escape(message))

    def everything(self):
        groups = [
            (id(group), list(map(id, group["params"])), group["weight_decay"])
            for group in self.optimizer.param_groups
        ]
        hooks = (
            list(self.optimizer._optimizer_step_post_hooks),
            list(self.optimizer._optimizer_step_pre_hooks),
        )
        return groups, [set(group) for group in self.optimizer.param_groups], hooks

    def __enter__(self):
        self.before = self.everything()
        self.weights = copy.deepcopy(self.model.state_dict())
        return self.raises.__enter__()

    def __exit__(self, *error):
        is_handled = self.raises.__exit__(*error)
        assert self.everything() == self.before
        for name, values in self.model.state_dict().items():
            torch.testing.assert_close(values, self.weights[name], rtol=0, atol=0, equal_nan=True)
        return is_handled


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (
            lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=0.01),
            InvalidInputError,
            "the norms at which SGD settles depend on how large gradients are: measure them in a few hundred "
            "steps of your own training, `with decayfree.GradientNorms(optimizer, found) as measured: ...`, "
            "and pass gradient_norms=measured",
        ),
        (
            lambda p: torch.optim.Adam(p, weight_decay=0.01),
            InvalidInputError,
            "the norms at which Adam with L2 regularization settles depend",
        ),
        (
            lambda p: torch.optim.AdamW(p, weight_decay=0.0),
            InvalidInputError,
            "parameter group 0 has weight_decay=0 on conv.weight, grouped.weight, transposed.weight, "
            "hidden.weight: without decay there is no equilibrium to keep; leave them out of `found`",
        ),
        (
            lambda p: torch.optim.RMSprop(p, weight_decay=0.1),
            InvalidInputError,
            (
                "where weight decay settles under RMSprop is not known; it is for SGD, SGDW, Adam, AdamW, "
                "Lion: choose a radius yourself"
            ),
        ),
        (
            lambda p: torch.optim.AdamW(p, weight_decay=0.1, amsgrad=True),
            InvalidInputError,
            "AdamW with amsgrad=True is another rule, and where it settles is not known",
        ),
        (
            lambda p: torch.optim.AdamW(p, lr=0.0, weight_decay=0.1),
            InvalidInputError,
            "conv.weight: lr must be a finite number above 0, got 0.0",
        ),
        (
            lambda p: torch.optim.AdamW(p, lr=10.0, weight_decay=0.1),
            InvalidInputError,
            "conv.weight: lr times weight_decay must be below 1, got 10.0 times 0.1",
        ),
        (
            lambda p: torch.optim.AdamW([nn.Parameter(torch.ones(2))]),
            MismatchError,
            "none of the 4 scale-invariant weights (conv.weight, …) is among the optimizer's 1 parameters",
        ),
    ],
    ids=["SGD", "Adam", "no decay", "unknown", "amsgrad", "no rate", "too large", "another model"],
)
def test_what_cannot_be_converted_is_refused(seed, make, kind, message):
    model = mixed_net()
    optimizer = make(model.parameters())
    with refused_and_unchanged(model, optimizer, kind, message):
        drop_decay(optimizer, find(model))


@pytest.mark.parametrize(
    ("norms", "message"),
    [
        (None, "conv.weight: gradient_norms has no entry for it"),
        (torch.ones(3), "conv.weight: expected gradient norms of shape (4,), one for each block, got (3,)"),
        (torch.tensor([1.0, 1.0, -1.0, 1.0]), "conv.weight: gradient norms must be finite and not negative"),
        (torch.full((4,), math.inf), "conv.weight: gradient norms must be finite and not negative"),
    ],
)
def test_gradient_norms_that_do_not_fit_are_refused(seed, norms, message):
    model = mixed_net()
    found = find(model)
    given = norms_for(found) | {"conv.weight": norms}
    if norms is None:
        del given["conv.weight"]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.01)
    with refused_and_unchanged(model, optimizer, MismatchError, message):
        drop_decay(optimizer, found, gradient_norms=given)


def test_gradient_norms_of_no_step_are_refused(seed):
    model = mixed_net()
    found = find(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.01)
    with GradientNorms(optimizer, found) as measured:
        pass
    with refused_and_unchanged(
        model, optimizer, MismatchError, "conv.weight: no finite gradient was seen in 0 steps"
    ):
        drop_decay(optimizer, found, gradient_norms=measured)


def test_faults_are_raised_together(seed):
    model = mixed_net()
    optimizer = torch.optim.SGD(
        [{"params": [model.conv.weight], "weight_decay": 0.0}, {"params": [model.grouped.weight]}],
        lr=0.0,
        weight_decay=0.1,
    )
    LambdaLR(optimizer, lambda step: 1.0)
    with pytest.raises(InvalidInputError) as error:
        drop_decay(optimizer, find(model))
    assert "a learning-rate scheduler" in str(error.value)
    assert "parameter group 0 has weight_decay=0 on conv.weight" in str(error.value)
    optimizer.param_groups[0]["weight_decay"] = 0.1
    with pytest.raises(InvalidInputError) as error:
        fixed_norm_recipe(optimizer, find(model))
    assert "lr must be a finite number above 0" in str(error.value)
    assert "the norms at which SGD settles" in str(error.value)


def test_arguments_of_another_kind_are_refused(seed):
    with pytest.raises(InvalidInputError, match=r"got MixedNet; found must .* got list"):
        drop_decay(mixed_net(), [])


def test_groups_are_put_together_again_where_weights_cannot_be_held(seed):
    model = mixed_net()
    found = find(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
    with torch.no_grad():
        model.conv.weight[0, 0, 0, 0] = math.nan
    with refused_and_unchanged(model, optimizer, NonFiniteWeightError, "conv.weight"):
        drop_decay(optimizer, found)


def test_a_second_time_is_refused(seed):
    model = mixed_net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
    drop_decay(optimizer, find(model))
    with refused_and_unchanged(model, optimizer, InvalidInputError, "parameter group 1 has weight_decay=0"):
        drop_decay(optimizer, find(model))
    optimizer.param_groups[1]["weight_decay"] = 0.1
    with refused_and_unchanged(
        model, optimizer, AlreadyAttachedError, "held already by another ConvertedRescaling"
    ):
        drop_decay(optimizer, find(model))


def test_a_scheduler_that_was_made_before_is_refused(seed):
    model = mixed_net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
    LambdaLR(optimizer, lambda step: 0.5)
    with refused_and_unchanged(
        model, optimizer, InvalidInputError, "a learning-rate scheduler was made on this optimizer already"
    ):
        drop_decay(optimizer, find(model))
    assert fixed_norm_recipe(optimizer, find(model)).weights  # looking is allowed


@pytest.mark.parametrize(
    ("radius", "message"),
    [
        (
            {"conv.*": torch.ones(3)},
            "radius of conv.weight: expected one for each of its 4 blocks, got shape (3,)",
        ),
        (
            {"conv.*": torch.tensor([1.0, 0.0, 1.0, 1.0])},
            "radius['conv.*'] must hold positive numbers, one for each block",
        ),
        (
            {"conv.*": torch.tensor([1, 1, 1, 1])},
            "radius['conv.*'] must hold positive numbers, one for each block",
        ),
        (torch.ones(4), 'radius must be a positive number or "init"'),
    ],
)
def test_radii_that_do_not_fit_are_refused(seed, radius, message):
    model = mixed_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with refused_and_unchanged(model, optimizer, InvalidInputError, message):
        decayfree.WeightRescaling(optimizer, find(model), radius=radius)


def test_what_is_no_mapping_of_gradient_norms_is_refused():
    model, found = _sgd_case()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=5e-3)
    with pytest.raises(
        InvalidInputError, match=r"gradient_norms must map names to tensors \(n_blocks,\), got 0.3"
    ):
        decayfree.drop_decay(optimizer, found, gradient_norms=0.3)
    with pytest.raises(
        ValueError, match=r"0\.weight: expected a tensor of gradient norms, one for each block, got 0.3"
    ):
        decayfree.drop_decay(optimizer, found, gradient_norms={"0.weight": 0.3})


def test_a_bias_that_is_decayed_in_another_way_than_its_weight_is_refused():
    model = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 2))
    found = decayfree.find_invariant(model, torch.randn(16, 6))
    biases = [p for name, p in model.named_parameters() if name.endswith("bias")]
    weights = [p for name, p in model.named_parameters() if name.endswith("weight")]
    optimizer = torch.optim.AdamW(
        [{"params": weights}, {"params": biases, "weight_decay": 0.0}], weight_decay=0.1
    )
    assert found["0.weight"].bias == "0.bias"
    with pytest.raises(
        InvalidInputError, match=r"0\.weight and 0\.bias are one block, but their groups 0 and 1 differ"
    ):
        decayfree.drop_decay(optimizer, found)


def test_dampening_without_momentum_counts_as_torch_counts_it():
    model, found = _sgd_case()
    norms = {"0.weight": torch.full((8,), 0.5)}
    radii = [
        decayfree.fixed_norm_recipe(
            torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=5e-3, dampening=dampening),
            found,
            gradient_norms=norms,
        )
        .weights[0]
        .radii
        for dampening in (0.0, 0.5)
    ]
    torch.testing.assert_close(*radii, rtol=0, atol=0)


def _sgd_case():
    model = nn.Sequential(nn.Linear(6, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    return model, decayfree.find_invariant(model, torch.randn(16, 6))
