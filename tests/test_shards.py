"""Weights that are spread over processes are held, checked and recorded as in one, for few collectives.

Four processes on gloo; the reference is the same training in this process.
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.tensor.debug import CommDebugMode

import decayfree
from decayfree.blocks import Blocks, block_dots, block_norms, scale_blocks_
from decayfree.dynamics.measures import motion, slope
from decayfree.dynamics.recorder import Recorder
from decayfree.dynamics.sinks import Sample
from support import bounds
from support.processes import in_processes, needs_gloo

pytestmark = [needs_gloo, pytest.mark.filterwarnings("default")]

N_STEPS = 4
SETTINGS: dict[str, Callable[..., decayfree.WeightRescaling]] = {
    "radius 2": partial(decayfree.WeightRescaling, radius=2.0),
    "init": partial(decayfree.WeightRescaling, radius="init"),
    "every 2, moments": partial(decayfree.WeightRescaling, every=2, momentum="scale"),
    "follow": partial(decayfree.WeightRescaling, schedule="follow"),
    "turning": partial(decayfree.Turning, steps_per_epoch=2),
}


def convolutions() -> nn.Module:
    """Uneven rows (7, 6, 4, 5), groups that no cut respects, joint biases, a whole weight."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 7, 3, padding=1),
        nn.BatchNorm2d(7),
        nn.ReLU(),
        nn.ConvTranspose2d(7, 6, 2),
        nn.BatchNorm2d(6),
        nn.ConvTranspose2d(6, 4, 1, groups=2, bias=False),
        nn.BatchNorm2d(4),
        nn.Conv2d(4, 4, 3),
        nn.GroupNorm(2, 4),
        nn.Flatten(),
        nn.Linear(4 * 49, 5),
        nn.LayerNorm(5),
        nn.Linear(5, 3),
    ).double()


class Heads(nn.Module):
    """Column-parallel heads of three rows and a free one, and a row-parallel weight with a joint bias."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.mix = nn.Linear(6, 16, bias=False), nn.Linear(16, 6)
        self.norm, self.out = nn.LayerNorm(6), nn.Linear(6, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        heads = self.heads(inputs).unflatten(-1, (-1, 4))
        held, free = heads.split([3, 1], dim=-1)
        held = held / (held.square().mean(-1, keepdim=True) + 1e-12).sqrt()
        return self.out(self.norm(self.mix(torch.cat([held, free], dim=-1).flatten(-2).relu())))


def heads() -> nn.Module:
    torch.manual_seed(0)
    return Heads().double()


def kernels() -> nn.Module:
    torch.manual_seed(0)
    layers = [layer for _ in range(5) for layer in (nn.Conv2d(3, 3, 3, bias=False), nn.BatchNorm2d(3))]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(3 * 36, 3)).double()


def inputs_of(make: Callable[[], nn.Module]) -> Tensor:
    shape = {heads: (8, 6), convolutions: (8, 3, 8, 8), kernels: (4, 3, 16, 16)}[make]
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def mesh_of(*shape: int) -> Any:
    """The first ranks, in this shape."""
    from torch.distributed.device_mesh import DeviceMesh

    names = ("first", "second")[: len(shape)]
    return DeviceMesh("cpu", torch.arange(torch.Size(shape).numel()).view(shape), mesh_dim_names=names)


def replicated(model: nn.Module) -> nn.Module:
    """The one layout that has a network of its own to call."""
    return nn.parallel.DistributedDataParallel(model, process_group=mesh_of(2).get_group())


def fsdp(n: int) -> Callable[[nn.Module], None]:
    return lambda model: _fsdp(model, mesh_of(n))


def _fsdp(model: nn.Module, mesh: Any) -> None:
    from torch.distributed.fsdp import fully_shard

    fully_shard(model, mesh=mesh)


def offloaded(model: nn.Module) -> None:
    from torch.distributed.fsdp import CPUOffloadPolicy, fully_shard

    fully_shard(model, mesh=mesh_of(2), offload_policy=CPUOffloadPolicy(pin_memory=False))


def _parallel(model: nn.Module, mesh: Any) -> None:
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    parallelize_module(model, mesh, {"heads": ColwiseParallel(), "mix": RowwiseParallel()})


def columns(model: nn.Module) -> None:
    from torch.distributed.tensor import Replicate
    from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module

    parallelize_module(model, mesh_of(2), {"heads": ColwiseParallel(output_layouts=Replicate())})


def both(model: nn.Module) -> None:
    mesh = mesh_of(2, 2)
    _parallel(model, mesh["second"])
    _fsdp(model, mesh["first"])


def table_of_the_page() -> dict[str, tuple[int, int]]:
    """What docs/processes.md says is sent, in a step and by a question, by the layouts' names there."""
    text = (Path(__file__).parents[1] / "docs" / "processes.md").read_text(encoding="utf-8")
    table = text.partition("## What is sent")[2].partition("\n|---|--:|--:|\n")[2].partition("\n\n")[0]
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in table.splitlines()]
    return {name: (int(step), int(question)) for name, step, question in rows}


SENT = table_of_the_page()
DDP, SHARED = (
    "one process; DDP",
    "FSDP2, HSDP: blocks that ranks share (groups, heads, whole weights), biases included",
)
# Layout -> model, how it is sharded, over how many ranks, and its row in the table of the page.
LAYOUTS: dict[str, tuple[Callable[[], nn.Module], Callable[[nn.Module], nn.Module | None], int, str]] = {
    "DDP on 2": (convolutions, replicated, 2, DDP),
    "FSDP2 on 2": (convolutions, fsdp(2), 2, SHARED),
    "FSDP2 on 4": (convolutions, fsdp(4), 4, SHARED),
    "FSDP2 on 2, offloaded": (convolutions, offloaded, 2, SHARED),
    "HSDP 2x2": (convolutions, lambda model: _fsdp(model, mesh_of(2, 2)), 4, SHARED),
    "TP on 2": (
        heads,
        lambda model: _parallel(model, mesh_of(2)),
        2,
        "TP: blocks that ranks share (whole weights cut in rows)",
    ),
    "TP on 2, columns": (heads, columns, 2, "TP: heads that are whole on a rank"),
    "FSDP2 x TP 2x2": (heads, both, 4, "FSDP2 × TP: blocks that both cut (one a mesh dimension)"),
    "kernels": (kernels, fsdp(4), 4, "FSDP2, HSDP: kernels, or other blocks that are whole on a rank"),
}
CASES = [
    *((layout, "radius 2") for layout in LAYOUTS),
    *(("FSDP2 on 4", setting) for setting in SETTINGS if setting != "radius 2"),
    *(("FSDP2 x TP 2x2", setting) for setting in ("every 2, moments", "follow", "turning")),
    *((layout, "turning") for layout in ("FSDP2 on 2", "TP on 2", "kernels")),
]


def trained(
    model: nn.Module,
    found: decayfree.Invariance,
    images: Tensor,
    setting: str,
    network: nn.Module | None = None,
) -> dict[str, Any]:
    """Weights, statistics, the check and a sample of it; and the collectives that each of them took."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    counts: list[int] = []

    def counted(function: Callable[[], Any]) -> Any:
        with CommDebugMode() as seen:
            result = function()
        counts.append(seen.get_total_counts())
        return result

    wrs = counted(lambda: SETTINGS[setting](optimizer, found))
    samples: list[Sample] = []
    recorder = Recorder(optimizer, found, every=N_STEPS, sink=samples.append)
    for _ in range(N_STEPS):
        optimizer.zero_grad()
        (network or model)(images).square().mean().backward()
        counted(optimizer.step)
        optimizer.param_groups[0]["lr"] *= 0.8
    deviation = counted(wrs.check)
    parameters = {
        name: (one.full_tensor() if hasattr(one, "full_tensor") else one).detach()
        for name, one in model.named_parameters()
    }
    assert recorder.last is not None  # on every rank
    return {
        "parameters": parameters,
        "buffers": dict(model.named_buffers()),
        "radii": wrs.radii,
        "lengths": wrs.state_dict().get("lengths", {}),
        "largest": deviation.largest,
        "problems": deviation.problems,
        "sample": recorder.last.flat(),
        "n_written": len(samples),
        "counts": counts,
    }


def train_all(rank: int, folder: Path) -> None:
    makes = (convolutions, heads, kernels)
    found = {make: decayfree.find_invariant(make(), inputs_of(make)) for make in makes}
    for layout, setting in CASES:
        make, shard, n_ranks, _ = LAYOUTS[layout]
        model = make()
        if rank >= n_ranks:
            mesh_of(n_ranks)  # all have to make it
            continue
        network = shard(model)
        again = decayfree.Invariance.from_dict(found[make].to_dict(), model)
        result = trained(model, again, inputs_of(make), setting, network)
        torch.save(result, folder / f"{layout}, {setting}, rank {rank}.pt")
    alone(rank)
    torch.save(in_bfloat16(), folder / f"bfloat16, rank {rank}.pt")


def in_bfloat16() -> Tensor:
    """Norms of heads whose weights are float32, and which compute in bfloat16."""
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    model, inputs = heads().float(), inputs_of(heads).float()
    found = decayfree.find_invariant(model, inputs)
    policy, mesh = MixedPrecisionPolicy(torch.bfloat16, torch.float32), mesh_of(4)
    for layer in (model.heads, model.mix, model.out):
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    wrs = decayfree.WeightRescaling(optimizer, found)
    for _ in range(N_STEPS):
        optimizer.zero_grad()
        outputs = model(inputs)
        assert outputs.dtype == torch.bfloat16
        outputs.float().square().mean().backward()
        optimizer.step()
    assert wrs.check().problems == ()
    return block_norms(model.heads.weight.full_tensor().detach(), found["heads.weight"].blocks)


def alone(rank: int) -> None:
    """Public functions of tensors, each with one collective at most."""
    from torch.distributed.tensor import Shard, distribute_tensor

    torch.manual_seed(3)
    whole = {name: torch.randn(6, 5, 2, dtype=torch.float64) for name in ("before", "after")}
    mesh = mesh_of(4)
    for blocks in (Blocks(0, (2, 3), starts=(0, 3)), Blocks(1, (5, 5), groups=2), Blocks(1, (2, 1, 2))):
        for dim in (0, 1):
            before, after = (distribute_tensor(one, mesh, [Shard(dim)]) for one in whole.values())
            for function in (block_norms, block_dots, motion, slope):
                given = (before,) if function is block_norms else (before, after)
                with CommDebugMode() as seen:
                    mine = function(*given, blocks)
                assert seen.get_total_counts() == 1
                expected = function(*list(whole.values())[: len(given)], blocks)
                of = (lambda one: one) if isinstance(mine, Tensor) else (lambda one: torch.stack(fields(one)))
                most = bounds.ON_MESHES
                torch.testing.assert_close(of(mine), of(expected), rtol=most, atol=most)
            with CommDebugMode() as seen:
                scale_blocks_(before, torch.arange(2.0, 2 + blocks.n_blocks), blocks)
            assert seen.get_total_counts() == 0
            scaled = whole["before"].clone()
            scale_blocks_(scaled, torch.arange(2.0, 2 + blocks.n_blocks), blocks)
            assert before.full_tensor().equal(scaled)


def fields(one: Any) -> list[Tensor]:
    return list(vars(one).values())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("ranks")
    in_processes(train_all, 4, folder)
    return folder


@pytest.mark.parametrize(("layout", "setting"), CASES)
def test_sharded_weights_are_held_checked_and_recorded_like_whole_ones(
    folder: Path, layout: str, setting: str
) -> None:
    make, _, n_ranks, row = LAYOUTS[layout]
    model, images = make(), inputs_of(make)
    expected = trained(model, decayfree.find_invariant(model, images), images, setting)
    for rank in range(n_ranks):
        mine = torch.load(folder / f"{layout}, {setting}, rank {rank}.pt", weights_only=False)
        for kind in ("parameters", "buffers", "radii"):
            for name, tensor in expected[kind].items():
                assert torch.allclose(mine[kind][name], tensor, rtol=bounds.ON_MESHES, atol=1e-13), (
                    kind,
                    name,
                )
        assert mine["lengths"].keys() == expected["lengths"].keys()
        for kind in ("sizes", "learning_rates"):
            for name, tensor in expected["lengths"].get(kind, {}).items():
                lengths = mine["lengths"][kind][name]
                assert torch.allclose(lengths, tensor, rtol=bounds.ON_MESHES, atol=0), (kind, name)
        assert mine["problems"] == expected["problems"] == ()
        assert mine["n_written"] == (rank == 0)
        assert mine["largest"] < bounds.ON_MESHES
        for key, value in expected["sample"].items():
            # What is left of ⟨w, g⟩ is rounding.
            tolerance = {"abs": 1e-12} if "radial_share" in key else {"rel": 1e-9, "abs": 1e-13}
            assert mine["sample"][key] == pytest.approx(value, **tolerance), key
        attached, *steps, with_sample, checked = mine["counts"]
        in_a_step, of_a_question = SENT[row]
        assert steps == [in_a_step] * (N_STEPS - 1)
        assert [attached, with_sample - in_a_step, checked] == [of_a_question] * 3
    assert expected["counts"] == [0] * (N_STEPS + 2)


def test_the_page_tells_no_layout_that_is_not_tried() -> None:
    assert SENT.keys() == {row for *_, row in LAYOUTS.values()}


def test_norms_are_held_in_float32_where_layers_compute_in_bfloat16(folder: Path) -> None:
    for rank in range(4):
        norms = torch.load(folder / f"bfloat16, rank {rank}.pt")
        assert norms.dtype == torch.float32
        # Four heads of three rows each.
        assert torch.allclose(norms, torch.full((4,), 3**0.5), rtol=1e-6, atol=0)
