"""A compiled model, and a compiled step, are held as others are, and the hooks add no graph and no break."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch._dynamo
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import decayfree

INPUTS = torch.randn(16, 4, generator=torch.Generator().manual_seed(1))
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "SGD": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
    "AdamW": lambda parameters: torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.0),
}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Sequential(nn.Linear(4, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU())
        self.last = nn.Sequential(nn.Linear(8, 6), nn.LayerNorm(6), nn.Linear(6, 2))
        self.checkpoints = False

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.first(inputs)
        return checkpoint(self.last, hidden, use_reentrant=False) if self.checkpoints else self.last(hidden)


def trained(
    make: Callable[[Any], torch.optim.Optimizer],
    *,
    holds: bool = True,
    compiles: str = "",
    scales: bool = False,
) -> tuple[Net, dict[str, int]]:
    """Six steps of two batches each; and what was compiled in them."""
    model = Net()
    found = decayfree.find_invariant(model, INPUTS)
    model.checkpoints = compiles == "checkpoints"
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    run = torch.compile(model, backend="eager") if "model" in compiles else model
    optimizer = make(model.parameters())
    wrs = decayfree.WeightRescaling(optimizer, found) if holds else None
    recorder = decayfree.Recorder(optimizer, found, every=2, sink=lambda _: None) if holds else None
    step: Any = torch.compile(optimizer.step, backend="eager") if "step" in compiles else optimizer.step
    scaler = torch.amp.GradScaler("cpu", enabled=scales)
    for _ in range(6):
        optimizer.zero_grad()
        for batch in INPUTS.split(8):
            scaler.scale(run(batch).square().mean()).backward()
        scaler.step(optimizer) if scales else step()
        scaler.update()
    if wrs and recorder:
        assert wrs.n_steps == recorder.n_steps == 6
        assert wrs.check().problems == ()
    counters = torch._dynamo.utils.counters
    graphs, breaks = counters["stats"]["unique_graphs"], sum(counters["graph_break"].values())
    torch._dynamo.reset()
    return model, {"graphs": graphs, "breaks": breaks, "frames": counters["frames"]["total"]}


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("compiles", ["model", "model and step"])
@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
def test_the_hooks_add_no_graph_and_no_break_and_no_number_changes(
    make: Callable[[Any], torch.optim.Optimizer], compiles: str
) -> None:
    held, compiled = trained(make, compiles=compiles)
    _, without = trained(make, holds=False, compiles=compiles)
    assert all(compiled[kind] <= without[kind] for kind in without), (compiled, without)
    assert compiled["graphs"] > 0
    for mine, wanted in zip(held.parameters(), trained(make)[0].parameters(), strict=True):
        # AdamW compiled counts its steps in tensors, with other roundings.
        assert (
            torch.allclose(mine, wanted, rtol=1e-5, atol=1e-6) if "step" in compiles else mine.equal(wanted)
        )


@pytest.mark.parametrize("change", [{"compiles": "checkpoints"}, {"scales": True}])
@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
def test_checkpointed_activations_and_scaled_gradients_change_no_number(
    make: Callable[[Any], torch.optim.Optimizer], change: dict[str, Any]
) -> None:
    changed, plain = trained(make, **change)[0], trained(make)[0]
    for mine, wanted in zip(changed.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(mine, wanted, rtol=1e-6, atol=1e-7)
