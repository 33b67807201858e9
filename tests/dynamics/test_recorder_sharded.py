"""Weights that are sharded over several processes are recorded as they would be in one.

Two processes on gloo; the reference is the same training in this process.
"""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

import decayfree
from decayfree.dynamics.recorder import Recorder
from decayfree.dynamics.samples import Sample, read_jsonl

N_STEPS = 4


def net() -> nn.Module:
    """7 kernels (uneven over two processes), a transposed convolution, groups with a bias, a whole weight."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 7, 3, padding=1),
        nn.BatchNorm2d(7),
        nn.ReLU(),
        nn.ConvTranspose2d(7, 6, 2),
        nn.BatchNorm2d(6),
        nn.Conv2d(6, 4, 3),
        nn.GroupNorm(2, 4),
        nn.Flatten(),
        nn.Linear(4 * 49, 5),
        nn.LayerNorm(5),
        nn.Linear(5, 3),
    ).double()


def images() -> Tensor:
    return torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def record(model: nn.Module, found: decayfree.Invariance, path: Path) -> Sample | None:
    """Train with decay, so that norms change, and record to a file."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9, weight_decay=0.01)
    recorder = Recorder(optimizer, found, every=2, sink=path)
    for _ in range(N_STEPS):
        optimizer.zero_grad()
        model(images()).square().mean().backward()
        optimizer.step()
    return recorder.last


def one_process(rank: int, folder: str) -> None:
    from torch.distributed.fsdp import fully_shard

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    try:
        model = net()
        found = decayfree.find_invariant(model, images())
        fully_shard(model, mesh=torch.distributed.device_mesh.init_device_mesh("cpu", (2,)))
        last = record(model, found, Path(folder) / "sharded.jsonl")
        assert last is not None  # on every rank
    finally:
        dist.destroy_process_group()


@pytest.mark.skipif(
    not dist.is_available() or not dist.is_gloo_available(), reason="torch was built without gloo"
)
@pytest.mark.filterwarnings("default")
def test_sharded_weights_are_recorded_like_whole_ones(tmp_path: Path) -> None:
    mp.spawn(one_process, args=(str(tmp_path),), nprocs=2)
    model = net()
    record(model, decayfree.find_invariant(model, images()), tmp_path / "whole.jsonl")
    sharded, whole = read_jsonl(tmp_path / "sharded.jsonl"), read_jsonl(tmp_path / "whole.jsonl")
    assert [one.step for one in sharded] == [one.step for one in whole] == [2, 4]
    for mine, wanted in zip(sharded, whole, strict=True):
        assert list(mine.weights) == list(wanted.weights) == ["0.weight", "3.weight", "5.weight", "8.weight"]
        for key, value in wanted.flat().items():
            # What is left of ⟨w, g⟩ is rounding.
            tolerance = {"abs": 1e-12} if key.startswith("radial_share") else {"rel": 1e-9}
            assert mine.flat()[key] == pytest.approx(value, **tolerance), key
