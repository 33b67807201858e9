"""Weights that are stored in a form that cannot be scaled are refused on the real classes, with the cure."""

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

import decayfree
from decayfree.errors import DecayFreeError, UnsupportedWeightError
from support.available import import_or_skip
from support.processes import in_processes, needs_gloo

pytestmark = [needs_gloo, pytest.mark.filterwarnings("default")]

INPUTS = torch.randn(16, 64, generator=torch.Generator().manual_seed(1))


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 64, bias=False), nn.BatchNorm1d(64), nn.Linear(64, 2))


# What is done to the model, after which its weights are refused.
def flattened(model: nn.Module) -> nn.Module:
    from torch.distributed.fsdp import FullyShardedDataParallel

    return FullyShardedDataParallel(model, use_orig_params=False, device_id=torch.device("cpu"))


def flattened_as_it_was(model: nn.Module) -> nn.Module:
    from torch.distributed.fsdp import FullyShardedDataParallel

    return FullyShardedDataParallel(model, use_orig_params=True, device_id=torch.device("cpu"))


def in_four_bits(model: nn.Sequential) -> nn.Module:
    made = import_or_skip("torchao.quantization.quantize_.workflows.nf4.nf4_tensor")
    model[0].weight = nn.Parameter(made.to_nf4(model[0].weight.detach(), 64, 64))
    return model


def in_eight_bits(model: nn.Sequential) -> nn.Module:
    made = import_or_skip("torchao.quantization")
    made.quantize_(model, made.Int8WeightOnlyConfig())
    return model


def in_bits_and_bytes(kind: str) -> Callable[[nn.Sequential], nn.Module]:
    def put(model: nn.Sequential) -> nn.Module:
        made = getattr(import_or_skip("bitsandbytes").nn, kind)
        settings = {"has_fp16_weights": False} if kind == "Linear8bitLt" else {"quant_type": "nf4"}
        layer = made(64, 64, bias=False, **settings)
        layer.load_state_dict(model[0].state_dict())
        model[0] = layer
        return model.to("cpu")  # packs the weight

    return put


def partitioned(model: nn.Module) -> nn.Module:
    made = import_or_skip("deepspeed")
    sys.modules["deepspeed.comm.torch"].build_shm_op = lambda: None  # compiles for minutes
    with pytest.MonkeyPatch.context() as patched:
        for name in ("RANK", "LOCAL_RANK"):
            patched.setenv(name, "0")
        patched.setenv("WORLD_SIZE", "1")
        made.init_distributed(dist_backend="gloo")
        config = {"train_batch_size": 1, "zero_optimization": {"stage": 3}}
        with made.zero.Init(module=model, config_dict_or_path=config):
            return model


FSDP1 = r"is a flat parameter of FSDP1, with or without use_orig_params: use FSDP2 \(fully_shard\)"
PACKED: dict[str, tuple[Callable[[Any], nn.Module], str]] = {
    "FSDP1": (flattened, FSDP1),
    "FSDP1, use_orig_params": (flattened_as_it_was, FSDP1),
    "torchao NF4": (in_four_bits, r"0\.weight \(64, 64\) is quantized \(NF4Tensor.*before quantization"),
    "torchao int8": (in_eight_bits, r"0\.weight \(64, 64\) is quantized \(Int8Tensor"),
    "bitsandbytes NF4": (in_bits_and_bytes("Linear4bit"), r"is quantized \(Params4bit, torch\.uint8\)"),
    "bitsandbytes int8": (in_bits_and_bytes("Linear8bitLt"), r"is quantized \(Int8Params, torch\.int8\)"),
    "ZeRO-3": (partitioned, r"is partitioned by DeepSpeed ZeRO-3: use ZeRO up to stage 2"),
}


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize(("pack", "message"), PACKED.values(), ids=PACKED.keys())
def test_packed_weights_are_refused_with_the_cure(pack: Callable[[Any], nn.Module], message: str) -> None:
    model = net()
    found = decayfree.find_invariant(model, INPUTS)
    packed = pack(model)
    optimizer = torch.optim.SGD(packed.parameters(), lr=0.1)
    for refused in (
        lambda: decayfree.WeightRescaling(optimizer, found),
        lambda: decayfree.Recorder(optimizer, found, sink=print),
        lambda: decayfree.rescale_(packed, found),
        lambda: decayfree.split_params(packed, found),
    ):
        with pytest.raises(UnsupportedWeightError, match=message):
            refused()
    # Nothing in bits is called scale-invariant; where its package computes here, the rest is looked at.
    with contextlib.suppress(DecayFreeError):
        assert not decayfree.find_invariant(packed, INPUTS).holds("0.weight")


def searches_after(rank: int, folder: Path) -> None:
    """What a search says of models that are spread over two ranks or wrapped, and FSDP1 of its weights."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor, Partial
    from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module

    mesh = init_device_mesh("cpu", (2,))

    def after(change: Callable[[nn.Module], nn.Module], refused: bool = False) -> str:
        model = net()
        found = decayfree.find_invariant(model, INPUTS) if refused else None
        model = change(model)
        try:
            if found is None:
                return str([weight.name for weight in decayfree.find_invariant(model, INPUTS)])
            decayfree.WeightRescaling(torch.optim.SGD(model.parameters(), lr=0.1), found)
        except UnsupportedWeightError as error:
            return str(error)
        return "held"

    def summed(model: nn.Module) -> nn.Module:
        local = model[0].weight.detach()
        model[0].weight = nn.Parameter(DTensor.from_local(local, mesh, [Partial()]))
        return model

    said = {
        "fully_shard": after(lambda model: fully_shard(model) or model),
        "parallelize_module": after(lambda model: parallelize_module(model, mesh, {"0": ColwiseParallel()})),
        "DDP": after(nn.parallel.DistributedDataParallel),
        "compile": after(lambda model: torch.compile(model, backend="eager")),
        "FSDP1": after(flattened, True),
        "FSDP1, use_orig_params": after(flattened_as_it_was, True),
        "Partial": after(summed, True),
    }
    (folder / f"said {rank}.json").write_text(json.dumps(said), encoding="utf-8")


def test_on_two_ranks_a_search_finds_the_same_or_says_what_to_do(tmp_path: Path) -> None:
    in_processes(searches_after, 2, tmp_path)
    for rank in (0, 1):
        said = json.loads((tmp_path / f"said {rank}.json").read_text(encoding="utf-8"))
        assert said["DDP"] == said["compile"] == "['0.weight']"
        for kind in ("fully_shard", "parallelize_module"):
            assert "look for weights before fully_shard or parallelize_module" in said[kind]
        for kind in ("FSDP1", "FSDP1, use_orig_params"):
            assert "is a flat parameter of FSDP1" in said[kind]
        assert "0.weight (64, 64) is a sum that is still to be taken over ranks (Partial)" in said["Partial"]
