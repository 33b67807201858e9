"""What people really pass in place of a batch gets a sentence of its own."""

import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import decayfree
from decayfree import DecayFreeError

IMAGES = torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(1))
LOADER = DataLoader(TensorDataset(IMAGES, torch.arange(8)), batch_size=8)
TAKE_ONE = "take one with x, y = next(iter(loader)) and pass x"

WRONG = {
    "a batch of a loader": (lambda: next(iter(LOADER)), "Of a batch (x, y) of a loader pass x alone"),
    "a pair": (lambda: (IMAGES, torch.arange(8)), "Of a batch (x, y) of a loader pass x alone"),
    "a loader": (lambda: LOADER, f"got a DataLoader: {TAKE_ONE}"),
    "an iterator": (lambda: iter(LOADER), TAKE_ONE),
    "a data set": (lambda: LOADER.dataset, f"got a TensorDataset: {TAKE_ONE}"),
    "an array": (IMAGES.numpy, "inputs are numpy arrays: pass tensors, torch.from_numpy(array).float()"),
    "arrays by name": (lambda: {"input": np.ones((8, 3, 6, 6))}, "inputs are numpy arrays"),
    "samples": (lambda: list(IMAGES), "a list of samples wants torch.stack"),
    "bytes of pixels": (lambda: (IMAGES * 9).byte(), "The inputs are torch.uint8: pass inputs.float()"),
    "meta": (lambda: IMAGES.to("meta"), "an input is on the meta device and has no values"),
    "nothing": (lambda: None, "inputs must be what the model is called with, a batch of tensors, got None"),
    "a number": (lambda: 5, "a batch of tensors, got 5"),
    "a path": (lambda: "images.pt", "a batch of tensors, got 'images.pt'"),
}


def net() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))


@pytest.mark.parametrize(("make", "message"), WRONG.values(), ids=WRONG.keys())
def test_it_is_told_what_to_pass(seed, make, message):
    with pytest.raises(decayfree.InvalidInputError, match=re.escape(message)) as error:
        decayfree.find_invariant(net(), make())
    assert len(str(error.value)) < 400
    assert "\n" not in str(error.value)


def test_a_model_without_parameters_is_told_so():
    with pytest.raises(decayfree.InvalidInputError, match=r"^Sequential has no parameters, so"):
        decayfree.find_invariant(nn.Sequential(), IMAGES)


class Graph(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm, self.head = nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)

    def forward(self, nodes: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(torch.sparse.mm(edges, self.linear(nodes))).relu())


@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr], ids=str)
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta state")
def test_a_sparse_input_is_taken_where_the_model_takes_it(seed, layout):
    edges = torch.rand(16, 16).round().to_sparse(layout=layout)
    found = decayfree.find_invariant(Graph(), (torch.randn(16, 4), edges))
    assert [weight.name for weight in found] == ["linear.weight"]


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage")
def test_a_nested_input_is_taken_where_it_knows_its_sizes(seed):
    model, parts = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8)), [torch.randn(2, 4), torch.randn(3, 4)]
    jagged = torch.nested.nested_tensor(parts, layout=torch.jagged)
    found = decayfree.find_invariant(model, jagged, forward=lambda model, given: model(given).values())
    assert [weight.name for weight in found] == ["0.weight"]
    with pytest.raises(decayfree.InvalidInputError, match=r"make it with layout=torch\.jagged"):
        decayfree.find_invariant(model, torch.nested.nested_tensor(parts))


def test_a_model_without_values_is_told_once():
    with torch.device("meta"):
        model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(50)))
    with pytest.raises(decayfree.UnsupportedWeightError, match="materialize the model first") as error:
        decayfree.find_invariant(model, torch.randn(2, 4))
    assert "and 96 more" in str(error.value)


@pytest.mark.gpu
def test_inputs_on_another_device_are_told_where_to_go():
    with pytest.raises(DecayFreeError, match=r"on cpu and the model on cuda:0: pass inputs.to\('cuda:0'\)"):
        decayfree.find_invariant(net().cuda(), IMAGES)


def test_with_a_forward_of_ones_own_inputs_may_be_anything(seed):
    found = decayfree.find_invariant(
        net(), LOADER, forward=lambda model, loader: model(next(iter(loader))[0])
    )
    assert "0.weight" in found


@pytest.mark.parametrize(
    ("name", "value"),
    [("include", 5), ("include", [5]), ("exclude", 5), ("exclude", [None]), ("seed", 2**70)],
)
def test_other_arguments_are_named(seed, name, value):
    with pytest.raises(decayfree.InvalidInputError, match=f"^{name} must be"):
        decayfree.find_invariant(net(), IMAGES, **{name: value})
