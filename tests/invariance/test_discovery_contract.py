"""What does the search leave untouched, and how is its result kept and printed?

The findings themselves are held to account in test_discovery.py; what is refused is in
test_discovery_refusals.py.
"""

import json
import random
import re
from collections import OrderedDict
from typing import Any

import numpy
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import decayfree
from decayfree import (
    InvalidInputError,
    Invariance,
    MismatchError,
    find_invariant,
)
from support.zoo import BY_NAME, ZOO
from support.zoo_entry import ZooModel, net, tail
from support.zoo_modules import FusedAttention


def made(name: str) -> tuple[nn.Module, Any]:
    return BY_NAME[name].make()


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    parameters = dict(model.named_parameters())
    gradients = {f"{name}.grad": value.grad for name, value in parameters.items() if value.grad is not None}
    return parameters | dict(model.named_buffers()) | gradients


def snapshot(model: nn.Module) -> dict[str, Any]:
    """All that a search could change: tensors and their identities, modes, hooks, random states, switches."""
    hooks = (
        "_forward_hooks",
        "_forward_pre_hooks",
        "_backward_hooks",
        "_backward_pre_hooks",
        "_state_dict_hooks",
    )
    return {
        "values": {name: value.detach().clone() for name, value in tensors_of(model).items()},
        "identities": {
            name: (id(value), value.data_ptr(), value._version) for name, value in tensors_of(model).items()
        },
        "attributes": {
            name: {
                key: value
                for key, value in vars(module).items()
                if isinstance(value, int | float | str | bool)
            }
            for name, module in model.named_modules()
        },
        "requires_grad": {name: value.requires_grad for name, value in model.named_parameters()},
        "hooks": {
            name: [list(getattr(module, kind)) for kind in hooks] for name, module in model.named_modules()
        },
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": numpy.random.get_state(),
        "switches": (torch.is_grad_enabled(), torch.get_default_dtype(), torch.is_inference_mode_enabled()),
    }


def assert_same(before: Any, after: Any, path: str = "") -> None:
    if isinstance(before, dict):
        assert before.keys() == after.keys(), path
        for key in before:
            assert_same(before[key], after[key], f"{path}/{key}")
    elif isinstance(before, tuple | list):
        assert len(before) == len(after), path
        for index, (old, new) in enumerate(zip(before, after, strict=True)):
            assert_same(old, new, f"{path}/{index}")
    elif isinstance(before, Tensor):
        assert torch.equal(before, after), path
    elif isinstance(before, numpy.ndarray):
        assert (before == after).all(), path
    else:
        assert before == after, path


def trained_a_little(model: nn.Module, inputs: Any, entry: ZooModel) -> None:
    """Gives every parameter a gradient and every module a hook, so that there is something to leave alone."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.randn_like(parameter)
    for module in model.modules():
        module.register_forward_hook(lambda module, args, output: None)
        module.register_forward_pre_hook(lambda module, args: None)


@pytest.mark.parametrize("entry", ZOO[::3], ids=lambda entry: entry.name)
@pytest.mark.filterwarnings("ignore:.*eval mode")
@pytest.mark.usefixtures("seed")
def test_the_model_and_all_random_states_stay_as_they_are(entry: ZooModel) -> None:
    model, inputs = entry.make()
    trained_a_little(model, inputs, entry)
    numpy.random.seed(11)
    inputs_before = json.dumps(describe(inputs))
    before = snapshot(model)
    find_invariant(model, inputs, forward=entry.forward)
    assert_same(before, snapshot(model))
    assert json.dumps(describe(inputs)) == inputs_before


def describe(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, dict):
        return {key: describe(item) for key, item in value.items()}
    return [describe(item) for item in value] if isinstance(value, tuple | list) else value


class Counting(nn.Module):
    """Changes its own Python state and draws from every random state in a forward, and raises if asked to."""

    def __init__(self, *, raises: bool = False) -> None:
        super().__init__()
        self.net = net(conv=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(4), **tail(4))
        self.n_calls = 0
        self.seen: list[Tensor] = []
        self.raises = raises

    def forward(self, x: Tensor) -> Tensor:
        self.n_calls += 1
        self.seen.append(x)
        x = x + random.random() * x.square() + numpy.random.rand() * x.abs()
        x = self.net(x + 0.1 * torch.randn_like(x))
        if self.raises:
            raise RuntimeError("out of luck")
        return x


@pytest.mark.usefixtures("seed")
def test_python_state_of_the_model_stays_as_it_is() -> None:
    model = Counting()
    find_invariant(model, torch.randn(4, 3, 6, 6))
    assert model.n_calls == 0
    assert model.seen == []


@pytest.mark.usefixtures("seed")
def test_everything_stays_as_it_is_when_the_forward_raises() -> None:
    model, inputs = Counting(raises=True), torch.randn(4, 3, 6, 6)
    numpy.random.seed(11)
    before = snapshot(model)
    with pytest.raises(InvalidInputError, match="RuntimeError: out of luck"):
        find_invariant(model, inputs)
    assert_same(before, snapshot(model))


@pytest.mark.usefixtures("seed")
def test_a_forward_that_calls_the_original_is_refused_and_leaves_it_alone() -> None:
    model, inputs = made("conv2d_under_batchnorm2d")
    before = snapshot(model)
    with pytest.raises(InvalidInputError, match="the model that it is given"):
        find_invariant(model, inputs, forward=lambda _, x: model(x))
    assert_same(before, snapshot(model))


@pytest.mark.usefixtures("seed")
def test_everything_stays_as_it_is_when_an_argument_is_wrong() -> None:
    model, inputs = Counting(), torch.randn(4, 3, 6, 6)
    before = snapshot(model)
    with pytest.raises(InvalidInputError, match="probes"):
        find_invariant(model, inputs, probes=0)
    assert_same(before, snapshot(model))


def test_the_same_seed_gives_the_same_result_whatever_the_global_random_state() -> None:
    torch.manual_seed(0)
    model, inputs = Counting(), torch.randn(4, 3, 6, 6)
    results = []
    for global_seed in (1, 2):
        torch.manual_seed(global_seed)
        random.seed(global_seed)
        numpy.random.seed(global_seed)
        results.append(find_invariant(model, inputs, seed=5).to_dict())
    assert results[0] == results[1]
    other = find_invariant(model, inputs, seed=6).to_dict()
    assert other != results[0], "the seed is not used"
    without_figures = [{**weight, "residual": 0} for weight in other["weights"]]
    assert without_figures == [{**weight, "residual": 0} for weight in results[0]["weights"]]


@pytest.mark.parametrize("probes", [1, 2, 5])
def test_more_or_fewer_probes_find_the_same(probes: int) -> None:
    model, inputs = made("grouped_transposed_convolution_under_groupnorm")
    found = find_invariant(model, inputs, probes=probes)
    assert found["conv.weight"].block_sizes == (4, 4, 4)


# A sequence, and JSON


def test_the_result_is_a_sequence_with_names() -> None:
    model, inputs = made("post_activation_residual_network")
    found = find_invariant(model, inputs)
    assert found.model is model
    assert [weight.name for weight in found] == ["conv1.weight", "conv2.weight", "downsample.0.weight"]
    assert len(found) == 3
    assert found[1] is found["conv2.weight"]
    assert found[-1].name == "downsample.0.weight"
    assert [weight.name for weight in found[:2]] == ["conv1.weight", "conv2.weight"]
    assert "conv1.weight" in found
    assert found[0] in found
    assert "head.weight" not in found
    assert found["conv1.weight"].blocks.n_blocks == 4
    with pytest.raises(IndexError):
        found[3]


def test_asking_for_another_parameter_says_what_it_is() -> None:
    model, inputs = made("conv2d_under_batchnorm2d")
    found = find_invariant(model, inputs)
    with pytest.raises(MismatchError, match=r"'head\.weight' is not_invariant: scaling it moves the outputs"):
        found["head.weight"]
    with pytest.raises(KeyError, match=r"no parameter 'tail\.weight'"):
        found["tail.weight"]


@pytest.mark.parametrize(
    "name",
    [
        "densely_connected_network",
        "grouped_transposed_convolution_under_groupnorm",
        "channel_shuffle_before_the_norm",
        "no_normalization",
        "no_float64_kernel",
    ],
)
def test_the_result_survives_json(name: str) -> None:
    model, inputs = made(name)
    found = find_invariant(model, inputs)
    restored = Invariance.from_dict(json.loads(json.dumps(found.to_dict())), model)
    assert list(restored) == list(found)
    assert restored.verdicts == found.verdicts
    assert restored.dtype == found.dtype
    assert repr(restored) == repr(found)
    assert restored.to_dict() == found.to_dict()


def test_a_result_of_another_model_is_refused_with_all_that_is_missing() -> None:
    model, inputs = made("post_activation_residual_network")
    kept = find_invariant(model, inputs).to_dict()
    model.conv1 = nn.Conv2d(3, 4, 5, padding=2, bias=False)
    model.downsample = nn.Sequential(nn.BatchNorm2d(6))
    with pytest.raises(MismatchError) as refused:
        Invariance.from_dict(kept, model)
    text = str(refused.value)
    assert re.search(r"conv1\.weight \(4, 3, 3, 3\).*\(4, 3, 5, 5\)", text)
    assert "downsample.0.weight" in text
    assert re.search(r"downsample\.1\b", text)
    assert "conv2.weight" not in text


# The table


class Mixed(nn.Module):
    """One parameter of each kind."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, bias=False)
        self.stem.requires_grad_(False)
        self.conv = nn.Conv2d(4, 6, 3)
        self.norm = nn.BatchNorm2d(6)
        self.mix = FusedAttention(6, 2, bias=True, norms="qkv")
        self.spare = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.conv(self.stem(x))))
        return self.mix(x.flatten(2).mT)


TABLE = """\
2 scale-invariant weights with 11 blocks: 324 of 537 parameters.
Scaled at random all at once, they moved the outputs by #e-## (relative).

weight          shape         blocks                              normalized by                      residual
conv.weight     (6, 4, 3, 3)  6 kernels                           norm (BatchNorm2d)                 #e-##
mix.qkv.weight  (18, 6)       5 blocks of 3 to 6 rows, with bias  mix.v_norm (LayerNorm) and 2 more  #e-##

Not scale-invariant: 8
  mix.out.weight (6, 6): scaling it moves the outputs, by # of its growth: nothing after it takes the scale
    away
  and 7 vectors (gains and biases)

Undecided: 4
  spare.weight (2, 2): no output depends on it in this forward pass
  and 3 vectors (gains and biases)

Frozen: 1
  stem.weight (4, 3, 3, 3): requires_grad is False, so nothing moves it; if it were trained: the whole weight
    without a scale: norm (BatchNorm2d) takes it away"""


def test_where_names_are_long_the_table_has_the_ends_of_what_normalizes() -> None:
    deep = nn.Sequential(OrderedDict(transformer=nn.Sequential(OrderedDict(encoder=Mixed()))))
    table = str(find_invariant(deep, torch.randn(4, 3, 8, 8)))
    (row,) = [line for line in table.splitlines() if ".qkv.weight" in line]
    assert re.search(r" …v_norm, …k_nor…  ", row)
    assert max(map(len, table.splitlines())) <= 120


def test_the_table_shows_every_kind_of_verdict() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, inputs = Mixed(), torch.randn(4, 3, 7, 6)
    table = repr(find_invariant(model, inputs))
    assert without_figures(table) == TABLE


@pytest.mark.parametrize("everything", [False, True])
def test_a_reason_is_said_once_and_lists_end_unless_everything_is_asked_for(everything: bool) -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(20))

        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([layer(x) for layer in self.layers]).sum(dim=0)

    model = Sum()
    found = find_invariant(model, torch.randn(8, 6, generator=torch.Generator().manual_seed(0)))
    table = found.table(everything=everything)
    assert table.count("takes the scale") == 1
    named = [name for name, _ in model.named_parameters() if re.search(rf"(^|\s){re.escape(name)}\s", table)]
    assert (len(named) == len(list(model.parameters()))) is everything
    assert max(map(len, table.splitlines())) <= 110
    assert ("more" in table) is not everything


def test_reasons_name_what_is_beside_a_parameter_and_keep_their_numbers() -> None:
    model = nn.Sequential(nn.Linear(6, 4), nn.GroupNorm(2, 4), nn.Linear(4, 2))
    table = repr(find_invariant(model, torch.randn(8, 6, generator=torch.Generator().manual_seed(0))))
    assert re.search(r"2\.weight \(2, 4\): scaling it moves the outputs, by \d\.?\d* of its growth", table)


def test_long_names_of_normalizations_are_cut_in_the_table_and_whole_on_request() -> None:
    inner = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    model: nn.Module = inner
    for _ in range(8):
        model = nn.Sequential(OrderedDict(deep_in_the_network=model))
    found = find_invariant(model, torch.randn(8, 4, generator=torch.Generator().manual_seed(0)))
    name = found[0].norm_layers[0].name
    assert f"{name} (BatchNorm1d)" not in repr(found)
    assert f"{found[0].name} " in repr(found)
    assert f"{name} (BatchNorm1d)" in found.table(everything=True)


def without_figures(table: str) -> str:
    """The table with its measured figures hidden: they are rounding, or differ between processors."""
    table = re.sub(r"\b\de[+-]\d\d\b", "#e-##", table)
    return re.sub(r"by \d[\d.e-]* of", "by # of", table)


def test_the_package_offers_what_the_search_returns() -> None:
    for name in ("find_invariant", "Invariance", "ScaleInvariantWeight", "Verdict", "NormLayer"):
        assert name in decayfree.__all__
        assert hasattr(decayfree, name)
