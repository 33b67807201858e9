"""Weights that are sharded over several processes are held as they would be in one.

Two processes on gloo; the reference is the same training in this process.
"""

import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

import decayfree

N_STEPS = 5
LEARNING_RATE = 0.3


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


def trained(model: nn.Module, found: decayfree.Invariance) -> tuple[nn.Module, decayfree.Deviation]:
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=0.9)
    wrs = decayfree.WeightRescaling(optimizer, found, radius=2.0, every=2, momentum="scale")
    for _ in range(N_STEPS + 1):
        optimizer.zero_grad()
        model(images()).square().mean().backward()
        optimizer.step()
    return model, wrs.check()


def one_process(rank: int, folder: str) -> None:
    from torch.distributed.fsdp import fully_shard

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    try:
        model = net()
        found = decayfree.find_invariant(model, images())
        fully_shard(model, mesh=torch.distributed.device_mesh.init_device_mesh("cpu", (2,)))
        model, deviation = trained(model, found)
        whole = {
            name: tensor.full_tensor()
            for name, tensor in model.state_dict().items()
            if hasattr(tensor, "full_tensor")
        }
        buffers = dict(model.named_buffers())
        if rank == 0:
            torch.save((whole, buffers, deviation.largest, deviation.problems), Path(folder) / "sharded.pt")
    finally:
        dist.destroy_process_group()


@pytest.mark.skipif(
    not dist.is_available() or not dist.is_gloo_available(), reason="torch was built without gloo"
)
@pytest.mark.filterwarnings("default")
def test_sharded_weights_are_held_like_whole_ones(tmp_path: Path) -> None:
    environment = dict(os.environ)
    mp.spawn(one_process, args=(str(tmp_path),), nprocs=2)
    assert dict(os.environ) == environment
    weights, buffers, largest, problems = torch.load(tmp_path / "sharded.pt", weights_only=False)
    model = net()
    expected, deviation = trained(model, decayfree.find_invariant(model, images()))
    assert problems == deviation.problems == ()
    assert largest < 1e-12
    for name, parameter in expected.named_parameters():
        assert torch.allclose(weights[name], parameter, rtol=1e-9, atol=1e-12), name
    for name, buffer in expected.named_buffers():
        assert torch.allclose(buffers[name], buffer, rtol=1e-9, atol=1e-12), name
