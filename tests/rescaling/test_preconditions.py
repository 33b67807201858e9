"""What was refused at the start and comes about later is told in the next step, once, and by check()."""

import copy
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.nn.utils import parametrizations, parametrize, prune
from torch.nn.utils.fusion import fuse_linear_bn_eval

import decayfree
from decayfree import MismatchError, WeightRescaling

INPUTS = torch.randn(16, 4, generator=torch.Generator().manual_seed(1))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 6), nn.LayerNorm(6)
        )
        self.frozen = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6)).requires_grad_(False)
        self.head = nn.Linear(6, 2)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.head(self.frozen(self.body(inputs)))


@dataclass
class Held:
    model: Net
    optimizer: torch.optim.Optimizer
    wrs: WeightRescaling

    def step(self) -> list[str]:
        """What is told in one step."""
        self.optimizer.zero_grad()
        self.model(INPUTS).square().mean().backward()
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            self.optimizer.step()
        return [str(one.message) for one in told]


def attached(**settings: float) -> Held:
    torch.manual_seed(0)
    model = Net()
    found = decayfree.find_invariant(model, INPUTS)
    assert [weight.name for weight in found] == ["body.0.weight", "body.3.weight"]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, **settings)
    return Held(model, optimizer, WeightRescaling(optimizer, found))


class Doubled(nn.Module):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return 2 * weight


def decay_of_a_schedule(held: Held) -> None:
    held.optimizer.param_groups[0]["weight_decay"] = 0.04


def decay_of_a_checkpoint(held: Held) -> None:
    state = held.optimizer.state_dict()
    state["param_groups"][0]["weight_decay"] = 5e-4
    held.optimizer.load_state_dict(state)


def a_group_that_joins(held: Held) -> None:
    held.optimizer.add_param_group({"params": [nn.Parameter(torch.ones(3, 5))]})


def thawed(held: Held) -> None:
    held.model.frozen.requires_grad_(True)


def eval_mode(held: Held) -> None:
    held.model.body[1].eval()


def pruned(held: Held) -> None:
    prune.l1_unstructured(held.model.body[0], "weight", amount=0.3)


def parametrized(held: Held) -> None:
    parametrize.register_parametrization(held.model.body[0], "weight", Doubled())


WARNED: dict[Callable[[Held], None], str] = {
    decay_of_a_schedule: r"decayfree\.exempt_.*weight_decay=0\.04 on body\.0\.weight",
    decay_of_a_checkpoint: r"decayfree\.exempt_.*weight_decay=0\.0005 on body\.0\.weight",
    a_group_that_joins: r"not looked after: a parameter of shape \(3, 5\) in group 1",
    thawed: r"not looked after: frozen\.0\.weight \(was frozen\), frozen\.0\.bias \(was frozen\)",
    eval_mode: r"body\.1 went into eval mode while the model trains",
    pruned: r"body\.0\.weight is body\.0\.weight_orig",
    parametrized: r"body\.0\.weight is body\.0\.parametrizations\.weight\.original",
}
CHECKED = {pruned: "have gone or were renamed", parametrized: "have gone or were renamed"}


@pytest.mark.parametrize("change", WARNED, ids=lambda change: change.__name__)
def test_it_is_told_in_the_next_step_once(change):
    held = attached()
    assert held.step() == []
    change(held)
    (told,) = held.step()
    assert re.search(WARNED[change], told)
    assert held.step() == []
    pattern = CHECKED.get(change, WARNED[change])
    assert any(re.search(pattern, problem) for problem in held.wrs.check().problems)
    norms = [one.norm(dim=1) for name, one in held.model.named_parameters() if name.startswith("body.0.w")]
    assert all(one.allclose(torch.tensor(1.0), atol=1e-6) for one in norms)


def test_a_schedule_of_decay_on_the_rest_is_silent():
    torch.manual_seed(0)
    model = Net()
    found = decayfree.find_invariant(model, INPUTS)
    optimizer = torch.optim.SGD(decayfree.split_params(model, found, weight_decay=0.1), lr=0.1)
    held = Held(model, optimizer, WeightRescaling(optimizer, found))
    for step in range(4):
        optimizer.param_groups[-1]["weight_decay"] = 0.1 + step
        assert held.step() == []
    assert held.wrs.check().problems == ()


def test_what_was_told_is_not_told_again_with_other_figures():
    held = attached()
    for decay in (0.04, 0.05, 0.0, 0.06):
        held.optimizer.param_groups[0]["weight_decay"] = decay
        assert len(held.step()) == (decay == 0.04)


def test_what_was_told_is_not_told_again_with_something_else():
    held = attached()
    decay_of_a_schedule(held)
    assert len(held.step()) == 1
    thawed(held)
    (told,) = held.step()
    assert "was frozen" in told
    eval_mode(held)
    (told,) = held.step()
    assert "eval mode" in told


def assigned(held: Held) -> None:
    held.model.load_state_dict(copy.deepcopy(held.model.state_dict()), assign=True)


def a_new_layer(held: Held) -> None:
    held.model.body[0] = nn.Linear(4, 8)


def a_new_body(held: Held) -> None:
    held.model.body = copy.deepcopy(held.model.body)


def fused(held: Held) -> None:
    held.model.body.eval()
    held.model.body[0] = fuse_linear_bn_eval(held.model.body[0], held.model.body[1])
    held.model.body[1] = nn.Identity()
    held.model.body.train()


def without_normalization(held: Held) -> None:
    held.model.body[1] = nn.Identity()


def removed(held: Held) -> None:
    held.model.body = nn.Sequential(*held.model.body[:4], nn.LayerNorm(6))
    held.model.body[1] = nn.BatchNorm1d(8, track_running_stats=False)


def weight_normed(held: Held) -> None:
    parametrizations.weight_norm(held.model.body[0])


def weight_normed_as_of_old(held: Held) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.nn.utils.weight_norm(held.model.body[3])


def without_a_bias(held: Held) -> None:
    held.model.body[0].bias = None


REFUSED: dict[Callable[[Held], None], str] = {
    assigned: r"other parameters as body\.0\.weight, body\.3\.weight now \(load_state_dict\(assign=True\)",
    a_new_layer: r"other parameters as body\.0\.weight now",
    a_new_body: r"other parameters as body\.0\.weight, body\.3\.weight now",
    fused: r"body\.1: Identity keeps no running statistics",
    without_normalization: r"body\.1: Identity keeps no running statistics",
    weight_normed: r"body\.0\.weight",
    weight_normed_as_of_old: r"body\.3\.weight",
    without_a_bias: r"body\.0\.bias: no such bias",
    removed: r"body\.1: BatchNorm1d keeps no running statistics",
}


@pytest.mark.parametrize("change", REFUSED, ids=lambda change: change.__name__)
def test_where_going_on_would_be_wrong_the_next_step_is_refused_and_nothing_moves(change):
    held = attached()
    held.step()
    change(held)
    weights = [parameter.detach().clone() for parameter in held.optimizer.param_groups[0]["params"]]
    with pytest.raises(MismatchError, match=REFUSED[change]):
        held.step()
    after = held.optimizer.param_groups[0]["params"]
    assert all(torch.equal(one, other) for one, other in zip(weights, after, strict=True))
    problems = " ".join(held.wrs.check().problems)
    assert re.search(REFUSED[change], problems)


def test_a_known_wrapper_that_comes_later_changes_no_name():
    held = attached()
    held.step()
    held.model.body = checkpoint_wrapper(held.model.body)
    assert held.step() == []
    assert held.wrs.check().problems == ()
    assert list(held.wrs.state_dict()["radii"]) == ["body.0.weight", "body.3.weight"]


def test_a_batch_norm_that_becomes_one_of_several_processes_is_still_one():
    held = attached()
    held.step()
    held.model = nn.SyncBatchNorm.convert_sync_batchnorm(held.model)
    assert isinstance(held.model.body[1], nn.SyncBatchNorm)
    held.optimizer.zero_grad()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        held.optimizer.step()
    assert held.wrs.check().problems == ()


class Sam(torch.optim.Optimizer):
    """Its two calls are no step."""

    def __init__(self, params, **options):
        super().__init__(params, options)
        self.base = torch.optim.SGD(self.param_groups, **options)
        self.param_groups = self.base.param_groups

    def second_step(self):
        self.base.step()


def test_an_optimizer_whose_step_is_never_called_is_told_by_check():
    torch.manual_seed(0)
    model = Net()
    optimizer = Sam(model.parameters(), lr=0.1)
    wrs = WeightRescaling(optimizer, decayfree.find_invariant(model, INPUTS))
    assert wrs.check().problems == ()
    model(INPUTS).square().mean().backward()
    optimizer.second_step()
    problem = wrs.check().problems[0]
    assert problem == (
        "step() of this Sam was never called, though its weights have moved: hold the optimizer inside, .base"
    )


@pytest.mark.parametrize("change", [*WARNED, *REFUSED], ids=lambda change: change.__name__)
def test_looking_never_raises(change):
    held = attached()
    change(held)
    assert held.wrs.check().problems
    with torch.no_grad():
        held.model.body[3].weight.fill_(float("nan"))
    assert held.wrs.check().problems
    del held.model.body
    assert held.wrs.check().problems
