"""Names are those of the model itself, whatever stands around it, so that results and states fit both."""

import json
from collections.abc import Callable

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper, offload_wrapper
from torch.optim.swa_utils import AveragedModel

import decayfree
from decayfree.arguments.wrappers import averages_of, plain
from decayfree.span.input_span import InputSpan
from support.available import import_or_skip

INPUTS = torch.randn(16, 4, generator=torch.Generator().manual_seed(1))


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8)), nn.ReLU(), nn.Linear(8, 6), nn.BatchNorm1d(6)
    )


@pytest.fixture
def one_process(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def inside(wrap: Callable[[nn.Module], nn.Module]) -> Callable[[nn.Module], nn.Module]:
    def wrapped(model: nn.Sequential) -> nn.Module:
        model[0] = wrap(model[0])
        return model

    return wrapped


def fabric(model: nn.Module) -> nn.Module:
    kind = import_or_skip("lightning.fabric").Fabric
    return kind(accelerator="cpu", devices=1).setup(model)


def accelerate(model: nn.Module) -> nn.Module:
    return import_or_skip("accelerate").Accelerator(cpu=True).prepare(model)


WRAPS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "DistributedDataParallel": nn.parallel.DistributedDataParallel,
    "DataParallel": nn.DataParallel,
    "compile": lambda model: torch.compile(model, backend="eager"),
    "compiled part": inside(lambda part: torch.compile(part, backend="eager")),
    "checkpointed": checkpoint_wrapper,
    "checkpointed part": inside(checkpoint_wrapper),
    "offloaded part": inside(offload_wrapper),
    "DDP of a compiled model with a checkpointed part": lambda model: nn.parallel.DistributedDataParallel(
        torch.compile(inside(checkpoint_wrapper)(model), backend="eager")
    ),
    "AveragedModel": AveragedModel,
    "Fabric": fabric,
    "Accelerate": accelerate,
    "ModelEmaV2": lambda model: import_or_skip("timm.utils").ModelEmaV2(model),
    "ModelEmaV3": lambda model: import_or_skip("timm.utils").ModelEmaV3(model),
    "EMA": lambda model: import_or_skip("ema_pytorch").EMA(model),
}


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS.keys())
def test_names_carry_no_wrapper(wrap):
    bare = net()
    of_bare = decayfree.find_invariant(bare, INPUTS)
    wrapped = wrap(net())
    inner = plain(wrapped).train().requires_grad_()  # averages are in eval mode, and frozen
    found = decayfree.find_invariant(wrapped, INPUTS)
    assert [weight.name for weight in found] == ["0.0.weight", "2.weight"]
    assert list(found.verdicts) == [name for name, _ in bare.named_parameters()]
    assert {layer.name for weight in found for layer in weight.norm_layers} == {"0.1", "3"}
    assert {id(one) for one in inner.parameters()} <= {id(one) for one in wrapped.parameters()}
    # A result of one fits the other, and so does a state.
    again = decayfree.Invariance.from_dict(json.loads(json.dumps(of_bare.to_dict())), wrapped)
    first = decayfree.WeightRescaling(torch.optim.SGD(bare.parameters(), 0.1), of_bare, radius=3.0)
    optimizer = torch.optim.SGD(inner.parameters(), 0.1)
    second = decayfree.WeightRescaling(optimizer, again)
    second.load_state_dict(first.state_dict())
    assert decayfree.split_params(wrapped, found, weight_decay=0.1)
    decayfree.rescale_(wrapped, found, radius=2.0)
    assert inner[0][0].weight.norm(dim=1).allclose(torch.tensor(2.0))


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS.keys())
def test_names_of_spans_carry_no_wrapper(wrap):
    wrapped = wrap(net())
    span, of_bare = InputSpan(wrapped, ["0.0.weight", "2.weight"]), InputSpan(net())
    for one, model in ((span, plain(wrapped)), (of_bare, of_bare.model)):
        with one:
            model.train()(INPUTS)
    assert list(span) == ["0.0.weight", "2.weight"] == [name for name in of_bare if "weight" in name]
    assert span["2.weight"].second_moment.equal(of_bare["2.weight"].second_moment)
    of_bare.merge_(span)


def test_a_part_that_went_into_eval_mode_is_seen_behind_a_wrapper():
    model = inside(checkpoint_wrapper)(net())
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    wrs = decayfree.WeightRescaling(optimizer, decayfree.find_invariant(model, INPUTS))
    model.eval()
    assert wrs.check().problems == ()
    model.train()
    plain(model)[0][1].eval()
    assert "0.1 went into eval mode" in wrs.check().problems[0]
    model.eval()
    assert wrs.check().problems == ()


def test_averages_are_found_where_they_are_of_the_same_model():
    model = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7))
    average = AveragedModel(model)
    other = AveragedModel(nn.Linear(2, 2))
    assert averages_of(model) == [average]
    assert averages_of(other.module) == [other]
