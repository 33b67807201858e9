"""Norms are held by one optimizer a weight, stepped in backward, as by one optimizer after it."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import decayfree
from support import bounds
from support.processes import in_processes, needs_gloo

# Of torch.distributed.optim, when it is imported.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")

make_optimizer = partial(torch.optim.SGD, lr=0.3, momentum=0.9)
JOINT = ["6.*", "9.*"]  # weights that have no scale together with their bias


def net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        *(nn.Conv2d(3, 7, 3, padding=1), nn.BatchNorm2d(7), nn.ReLU()),
        *(nn.Conv2d(7, 7, 3), nn.BatchNorm2d(7), nn.ReLU()),
        *(nn.Conv2d(7, 4, 3), nn.GroupNorm(2, 4), nn.Flatten()),
        *(nn.Linear(64, 5), nn.LayerNorm(5), nn.Linear(5, 2)),
    ).double()


def images(step: int) -> Tensor:
    return torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(step), dtype=torch.float64)


def backward(model: nn.Module, step: int) -> None:
    model(images(step)).square().mean().backward()


def after_backward(every: int = 1, exclude: list[str] | None = None) -> dict[str, Tensor]:
    """Weights and statistics after five ordinary steps."""
    model = net()
    found = decayfree.find_invariant(model, images(0), exclude=exclude or [])
    optimizer = make_optimizer(model.parameters())
    decayfree.WeightRescaling(optimizer, found, radius=2.0, every=every)
    for step in range(5):
        optimizer.zero_grad()
        backward(model, step)
        optimizer.step()
    return model.state_dict()


class InBackward:
    """A model with an optimizer for each weight, with its bias where they only work together."""

    def __init__(self, model: nn.Module, found: decayfree.Invariance, *, every: int = 1) -> None:
        together = {name: weight.name for weight in found for name in weight.names}
        parts: dict[str, list[nn.Parameter]] = {}
        for name, parameter in model.named_parameters():
            parts.setdefault(together.get(name, name), []).append(parameter)
        self.optimizers = {name: make_optimizer(part) for name, part in parts.items()}
        for name, part in parts.items():
            for parameter in part:
                parameter.register_post_accumulate_grad_hook(partial(self._step, name, part))
        self.model = model
        self.held = {
            one.name: decayfree.WeightRescaling(self.optimizers[one.name], found, radius=2.0, every=every)
            for one in found
        }

    def _step(self, name: str, part: list[nn.Parameter], _: Tensor) -> None:
        if all(parameter.grad is not None for parameter in part):
            self.optimizers[name].step()
            self.optimizers[name].zero_grad()

    def train(self, steps: range) -> None:
        for step in steps:
            backward(self.model, step)
        assert {one.check().problems for one in self.held.values()} == {()}

    @property
    def _all(self) -> dict[str, Any]:
        held = {f"held {name}": one for name, one in self.held.items()}
        return {"model": self.model, **self.optimizers, **held}

    def state(self) -> dict[str, Any]:
        return {name: one.state_dict() for name, one in self._all.items()}

    def load(self, state: dict[str, Any]) -> None:
        for name, one in self._all.items():
            one.load_state_dict(state[name])


def assert_alike(mine: dict[str, Any], expected: dict[str, Tensor]) -> None:
    for name, tensor in mine.items():
        here = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
        torch.testing.assert_close(here, expected[name], rtol=bounds.ON_MESHES, atol=1e-13, msg=name)


@pytest.mark.parametrize("every", [1, 2])
def test_weights_and_statistics_are_those_of_one_optimizer_and_resume_to_the_bit(
    tmp_path: Path, every: int
) -> None:
    run = InBackward(model := net(), decayfree.find_invariant(model, images(0)), every=every)
    run.train(range(3))  # with every=2 in the middle between two rescales
    torch.save(run.state(), tmp_path / "last.pt")
    run.train(range(3, 5))
    assert_alike(run.model.state_dict(), after_backward(every))

    again = InBackward(model := net(1), decayfree.find_invariant(model, images(0)), every=every)
    again.load(torch.load(tmp_path / "last.pt", weights_only=True))
    again.train(range(3, 5))
    for name, tensor in again.model.state_dict().items():
        assert tensor.equal(run.model.state_dict()[name]), name


def optimizers_of_torch(model: nn.Module) -> dict[int, torch.optim.Optimizer]:
    """As its own function makes them, one for each parameter; by the ``id`` of that."""
    from torch.distributed.optim import _apply_optimizer_in_backward, _get_in_backward_optimizers

    _apply_optimizer_in_backward(torch.optim.SGD, model.parameters(), make_optimizer.keywords)
    made = _get_in_backward_optimizers(model)
    return {id(one.param_groups[0]["params"][0]): one for one in made}


def test_the_optimizers_that_torch_makes_are_held_as_well() -> None:
    found = decayfree.find_invariant(model := net(), images(0), exclude=JOINT)
    optimizers = optimizers_of_torch(model)
    for one in found:
        decayfree.WeightRescaling(optimizers[id(model.get_parameter(one.name))], found, radius=2.0)
    for step in range(5):
        backward(model, step)
    assert_alike(model.state_dict(), after_backward(exclude=JOINT))


def test_check_says_that_another_optimizer_moves_the_bias_of_a_weight() -> None:
    found = decayfree.find_invariant(model := net(), images(0))
    wrs = decayfree.WeightRescaling(optimizers_of_torch(model)[id(model[6].weight)], found)
    backward(model, 0)
    (said,) = wrs.check().problems
    assert "6.weight is off its radius by" in said
    assert "its bias, which is held with it, is not in this optimizer: give it both" in said


def on_shards(rank: int, folder: Path) -> None:
    from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy, fully_shard

    for policy in (OffloadPolicy(), CPUOffloadPolicy(pin_memory=False)):
        found = decayfree.find_invariant(model := net(), images(0))
        for layer in (*(one for one in model if list(one.parameters())), model):
            fully_shard(layer, offload_policy=policy)
        run = InBackward(model, found, every=2)
        run.train(range(5))
        assert_alike(run.model.state_dict(), torch.load(folder / "expected.pt"))


@needs_gloo
def test_sharded_weights_are_stepped_in_backward_too(tmp_path: Path) -> None:
    torch.save(after_backward(every=2), tmp_path / "expected.pt")
    in_processes(on_shards, 2, tmp_path)
