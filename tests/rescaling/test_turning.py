"""Turning: how long directions are remembered, against random gradients and real training."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

import decayfree
from decayfree import MismatchError, Turning, WeightRescaling
from decayfree.methods import TurningMethod
from decayfree.rescaling.turning import DEFAULT_MEMORY_EPOCHS
from support.available import import_or_skip

N_ROWS, N_WEIGHTS = 64, 512

OPTIMIZERS = {
    "SGD": lambda params: torch.optim.SGD(params, lr=0.1),
    "momentum": lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9),
    "Nesterov": lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9, nesterov=True),
    "dampened": lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9, dampening=0.5),
    "Adam": lambda params: torch.optim.Adam(params, lr=1e-3, betas=(0.8, 0.99)),
    "AdamW": lambda params: torch.optim.AdamW(params, lr=1e-3, weight_decay=0.0),
    "NAdam": lambda params: torch.optim.NAdam(params, lr=1e-3),
    "RAdam": lambda params: torch.optim.RAdam(params, lr=1e-3),
    "Adamax": lambda params: torch.optim.Adamax(params, lr=1e-3),
    "RMSprop": lambda params: torch.optim.RMSprop(params, lr=1e-3),
    "RMSprop with momentum": lambda params: torch.optim.RMSprop(params, lr=1e-3, momentum=0.8),
    "Adagrad": lambda params: torch.optim.Adagrad(params, lr=1e-2),
    "Lion": lambda params: import_or_skip("pytorch_optimizer").Lion(params, lr=1e-4, betas=(0.9, 0.95)),
    "Muon": lambda params: torch.optim.Muon(params, lr=1e-2, weight_decay=0.0, momentum=0.9),
}


def rows_under_a_norm() -> tuple[nn.Module, decayfree.Invariance]:
    """A layer whose rows have no scale; its gradients are made by hand."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(N_WEIGHTS, N_ROWS, bias=False), nn.BatchNorm1d(N_ROWS)).double()
    return model, decayfree.find_invariant(model, torch.randn(8, N_WEIGHTS, dtype=torch.float64))


def steps_with_independent_gradients(weight: Tensor, optimizer: Optimizer, n_steps: int) -> None:
    for _ in range(n_steps):
        gradient = torch.randn_like(weight)
        unit = weight.detach() / weight.detach().norm(dim=1, keepdim=True)
        weight.grad = gradient - (gradient * unit).sum(1, keepdim=True) * unit
        optimizer.step()


def forgotten(start: Tensor, end: Tensor) -> float:
    """−log of the mean cosine of rows."""
    return -math.log(float(torch.cosine_similarity(start, end, dim=1).mean()))


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
def test_directions_are_forgotten_as_was_said(make):
    model, found = rows_under_a_norm()
    weight = model[0].weight
    optimizer = make([weight])
    turning = Turning(optimizer, found, steps_per_epoch=100, memory_epochs=20.0)
    steps_with_independent_gradients(weight, optimizer, 200)  # until momentum is there
    start, before = weight.detach().clone(), turning.forgotten
    steps_with_independent_gradients(weight, optimizer, 1000)
    assert turning.forgotten - before == pytest.approx(0.5)
    # 64 rows scatter by 2 %; what a momentum of 20 to 50 steps still holds is not yet turned.
    assert forgotten(start, weight.detach()) == pytest.approx(0.5, rel=0.07)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_forgetting_is_that_of_the_whole_schedule(schedule):
    model, found = rows_under_a_norm()
    weight = model[0].weight
    optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.5)
    start = weight.detach().clone()
    turning = Turning(optimizer, found, forgetting=0.4, total_steps=800, schedule=schedule)
    steps_with_independent_gradients(weight, optimizer, 800)
    assert turning.forgotten == pytest.approx(0.4)
    assert forgotten(start, weight.detach()) == pytest.approx(0.4, rel=0.05)


@pytest.mark.filterwarnings("ignore:the ε of normalizations")
def test_learning_rate_norm_and_batch_do_not_count():
    starts = []
    for lr, radius, size in ((0.1, "init", 1.0), (3.0, 5.0, 1e-3), (1e-4, 0.01, 1e3)):
        torch.manual_seed(1)
        model, found = rows_under_a_norm()
        weight = model[0].weight
        optimizer = torch.optim.SGD([weight], lr=lr, momentum=0.9)
        Turning(optimizer, found, steps_per_epoch=50, radius=radius)
        torch.manual_seed(2)
        for _ in range(20):
            weight.grad = size * torch.randn_like(weight)
            optimizer.step()
        starts.append(weight.detach() / weight.detach().norm(dim=1, keepdim=True))
    torch.testing.assert_close(starts[1], starts[0], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(starts[2], starts[0], rtol=1e-10, atol=1e-12)


def test_every_step_turns_by_the_angle_while_updates_are_alike():
    model, found = rows_under_a_norm()
    weight = model[0].weight
    optimizer = torch.optim.SGD([weight], lr=0.1)
    turning = Turning(optimizer, found, steps_per_epoch=10, memory_epochs=5.0)
    for _ in range(5):
        before = weight.detach().clone()
        gradient = torch.randn_like(weight)
        gradient -= (gradient * before).sum(1, keepdim=True) * before / before.square().sum(1, keepdim=True)
        weight.grad = gradient / gradient.norm(dim=1, keepdim=True)
        optimizer.step()
        angles = torch.arccos(torch.cosine_similarity(before, weight.detach(), dim=1))
        torch.testing.assert_close(angles, torch.full_like(angles, turning.angles_rad["0.weight"]))
        torch.testing.assert_close(weight.detach().norm(dim=1), before.norm(dim=1))
    assert turning.angles_rad["0.weight"] == pytest.approx(math.sqrt(2 / 50))


def test_a_direction_is_remembered_for_five_epochs_unless_something_else_is_said():
    model, found = rows_under_a_norm()
    optimizer = torch.optim.SGD([model[0].weight], lr=0.1)
    turning = Turning(optimizer, found, steps_per_epoch=10)
    steps_with_independent_gradients(model[0].weight, optimizer, 1)
    assert turning.angles_rad["0.weight"] == pytest.approx(math.sqrt(2 / (5 * 10)))
    assert TurningMethod().memory_epochs == DEFAULT_MEMORY_EPOCHS == 5


@pytest.mark.parametrize(("schedule", "power"), [("follow", 0.5), ("plain", 1.0)])
def test_angles_follow_the_scheduler(schedule, power):
    model, found = rows_under_a_norm()
    optimizer = torch.optim.SGD([model[0].weight], lr=0.4, momentum=0.9)
    turning = Turning(optimizer, found, steps_per_epoch=10, memory_epochs=10, schedule=schedule)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: (step + 1) / 4 if step < 3 else 1.0)
    angles = []
    for _ in range(5):
        steps_with_independent_gradients(model[0].weight, optimizer, 1)
        angles.append(turning.angles_rad["0.weight"])
        scheduler.step()
    full = math.sqrt(2 / (19 * 100))
    assert angles == pytest.approx([full * share**power for share in (0.25, 0.5, 0.75, 1.0, 1.0)])


def test_a_cycle_knows_its_own_full_rate():
    model, found = rows_under_a_norm()
    optimizer = torch.optim.SGD([model[0].weight], lr=0.4, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2.0, total_steps=10, cycle_momentum=False)
    turning = Turning(optimizer, found, steps_per_epoch=10, memory_epochs=10)
    angles = []
    for _ in range(10):
        steps_with_independent_gradients(model[0].weight, optimizer, 1)
        angles.append(turning.angles_rad["0.weight"])
        scheduler.step()
    assert max(angles) == pytest.approx(math.sqrt(2 / (19 * 100)), rel=0.05)


def small_network() -> tuple[nn.Module, Tensor, decayfree.Invariance]:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.Flatten()
    )
    images = torch.randn(8, 3, 8, 8)
    return model, images, decayfree.find_invariant(model, images)


def train(model: nn.Module, images: Tensor, optimizer: Optimizer, n_steps: int) -> None:
    for step in range(n_steps):
        optimizer.zero_grad()
        model(images + 0.1 * step).square().sub(1).square().mean().backward()
        optimizer.step()


def test_it_goes_on_bit_for_bit_where_it_stopped():
    ends = []
    for stop in (None, 3):
        model, images, found = small_network()
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.0)
        turning = Turning(optimizer, found, steps_per_epoch=5)
        if stop is None:
            train(model, images, optimizer, 6)
        else:
            train(model, images, optimizer, 3)
            states = copy.deepcopy((model.state_dict(), optimizer.state_dict(), turning.state_dict()))
            model, images, found = small_network()
            optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.0)
            model.load_state_dict(states[0])
            turning = Turning(optimizer, found, steps_per_epoch=5)
            optimizer.load_state_dict(states[1])
            turning.load_state_dict(states[2])
            for step in range(3, 6):
                optimizer.zero_grad()
                model(images + 0.1 * step).square().sub(1).square().mean().backward()
                optimizer.step()
        assert turning.check().problems == ()
        ends.append((model.state_dict(), turning.forgotten))
    assert ends[0][1] == ends[1][1]
    for name, values in ends[0][0].items():
        assert values.equal(ends[1][0][name]), name


def test_a_copy_turns_alike():
    model, images, found = small_network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    turning = Turning(optimizer, found, steps_per_epoch=5)
    train(model, images, optimizer, 2)
    again, other = copy.deepcopy((turning, optimizer))
    again._attach()
    train(model, images, optimizer, 2)
    train(again.found.model, images, other, 2)
    assert again.forgotten == turning.forgotten
    for one, two in zip(model.parameters(), again.found.model.parameters(), strict=True):
        assert one.equal(two)


def test_rows_that_are_not_held_stay_with_the_optimizer():
    torch.manual_seed(0)

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.q_norm, self.k_norm = (
                nn.Linear(6, 12, bias=False),
                nn.LayerNorm(4),
                nn.LayerNorm(4),
            )

        def forward(self, tokens: Tensor) -> Tensor:
            q, k, v = self.qkv(tokens).chunk(3, dim=-1)
            return (self.q_norm(q) @ self.k_norm(k).transpose(1, 2)).softmax(-1) @ v

    model, tokens = Attention().double(), torch.randn(4, 5, 6, dtype=torch.float64)
    found = decayfree.find_invariant(model, tokens)
    assert found["qkv.weight"].blocks.is_partial
    plain = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    turning = Turning(optimizer, found, steps_per_epoch=10)
    other = torch.optim.SGD(plain.parameters(), lr=0.1)
    before = model.qkv.weight.detach().clone()
    for one, its in ((model, optimizer), (plain, other)):
        one(tokens).square().mean().backward()
        its.step()
    assert model.qkv.weight[8:].equal(plain.qkv.weight[8:])
    for rows in (slice(0, 4), slice(4, 8)):
        angle = torch.arccos(
            torch.cosine_similarity(before[rows].flatten(), model.qkv.weight[rows].flatten(), dim=0)
        )
        assert angle.item() == pytest.approx(turning.angles_rad["qkv.weight"], rel=1e-6)


def test_blocks_without_a_gradient_stay_and_wake_up_at_the_angle():
    model, found = rows_under_a_norm()
    weight = model[0].weight
    optimizer = torch.optim.SGD([weight], lr=0.1)
    Turning(optimizer, found, steps_per_epoch=10, memory_epochs=10)
    start = weight.detach().clone()
    weight.grad = torch.randn_like(weight)
    weight.grad[3] = 0
    for _ in range(3):
        optimizer.step()
    assert weight[3].equal(start[3])
    before = weight.detach().clone()
    weight.grad[3] = 1e-6 * torch.randn(N_WEIGHTS)
    optimizer.step()
    cosine = torch.cosine_similarity(before[3], weight.detach()[3], dim=0)
    assert float(torch.arccos(cosine)) == pytest.approx(math.sqrt(2 / 100), rel=1e-6)


def test_steps_that_a_scaler_skips_turn_nothing():
    model, images, found = small_network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    turning = Turning(optimizer, found, steps_per_epoch=5)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    start = copy.deepcopy(model.state_dict())
    scaler.scale(model(images).square().mean()).backward()
    model[0].weight.grad[0] = math.inf
    scaler.step(optimizer)
    assert turning.forgotten == 0
    assert turning.n_steps == 0
    assert model[0].weight.equal(start["0.weight"])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "steps_per_epoch=len"),
        ({"steps_per_epoch": 0}, "steps_per_epoch must be"),
        ({"steps_per_epoch": 5, "memory_epochs": 0.0}, "memory_epochs must be"),
        ({"steps_per_epoch": 5, "memory_epochs": math.nan}, "memory_epochs must be"),
        ({"steps_per_epoch": 5, "forgetting": 0.3}, "one of them"),
        ({"forgetting": 0.3, "total_steps": 10}, "whole schedule"),
        ({"forgetting": 0.3, "schedule": "cosine"}, "total_steps is needed"),
        ({"steps_per_epoch": 5, "schedule": "cosine"}, "total_steps is needed"),
        ({"steps_per_epoch": 5, "schedule": "step"}, "schedule must be one of"),
        ({"steps_per_epoch": 5, "full_rate": -1.0}, "full_rate must be"),
        ({"steps_per_epoch": 5, "radius": -1.0}, "radius"),
    ],
)
def test_wrong_settings_are_refused_and_nothing_changes(settings, said):
    model, _images, found = small_network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(decayfree.InvalidInputError, match=said):
        Turning(optimizer, found, **settings)
    assert not optimizer._optimizer_step_post_hooks
    assert not optimizer._optimizer_step_pre_hooks


def test_optimizers_whose_steps_nobody_knows_are_refused():
    model, _images, found = small_network()
    with pytest.raises(decayfree.InvalidInputError, match=r"steps of LBFGS .* SGD, .*Lion, Muon"):
        Turning(torch.optim.LBFGS(model.parameters()), found, steps_per_epoch=5)


def test_decay_is_refused_and_so_is_a_second_holder():
    model, _images, found = small_network()
    with pytest.raises(decayfree.WeightDecayError):
        Turning(torch.optim.AdamW(model.parameters()), found, steps_per_epoch=5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    WeightRescaling(optimizer, found)
    with pytest.raises(decayfree.AlreadyAttachedError):
        Turning(optimizer, found, steps_per_epoch=5)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda state: state["lengths"].pop("sizes"), MismatchError),
        (
            lambda state: state["lengths"]["sizes"].update({"0.weight": torch.ones(3)}),
            MismatchError,
        ),
        (lambda state: state["lengths"]["sizes"]["0.weight"].fill_(math.nan), decayfree.InvalidInputError),
        (lambda state: state["lengths"]["full_rates"].update({"0.weight": 0.0}), decayfree.InvalidInputError),
        (lambda state: state["lengths"].update(forgotten=-1.0), decayfree.InvalidInputError),
        (lambda state: state["radii"]["0.weight"].neg_(), decayfree.InvalidInputError),
    ],
)
def test_a_wrong_state_is_refused_and_nothing_changes(change, error):
    model, images, found = small_network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    turning = Turning(optimizer, found, steps_per_epoch=5)
    train(model, images, optimizer, 2)
    state, mine = copy.deepcopy(turning.state_dict()), copy.deepcopy(turning.state_dict())
    change(state)
    with pytest.raises(error):
        turning.load_state_dict(state)
    assert str(turning.state_dict()) == str(mine)


def test_rescaling_follows_the_root_of_the_schedule_as_decay_does():
    ends = []
    for schedule in ("follow", "plain"):
        model, images, found = small_network()
        model, images = model.double(), images.double()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
        rescaling = WeightRescaling(optimizer, found, radius=2.0, schedule=schedule)
        others = [p for name, p in model.named_parameters() if name not in rescaling.radii]
        for share in (1.0, 0.25, 0.04, 0.0, 0.09):
            # By hand: the root of the share, for the weights that are held alone.
            held = share if schedule == "follow" else math.sqrt(share)
            optimizer.param_groups[0]["lr"] = 0.2 * held
            optimizer.zero_grad()
            model(images).square().sub(1).square().mean().backward()
            for parameter in others:
                parameter.grad *= share / held if held else 0.0
            optimizer.step()
        ends.append(model.state_dict())
        assert rescaling.check().problems == ()
    for name, values in ends[0].items():
        torch.testing.assert_close(values, ends[1][name], rtol=1e-12, atol=1e-14)


def test_a_schedule_to_follow_needs_a_full_rate():
    model, _, found = small_network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with pytest.raises(decayfree.InvalidInputError, match="learning rate of 0"):
        WeightRescaling(optimizer, found, schedule="follow")
    with pytest.raises(decayfree.InvalidInputError, match="schedule must be"):
        WeightRescaling(torch.optim.SGD(model.parameters(), lr=0.1), found, schedule="root")
