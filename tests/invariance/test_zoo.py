"""Are the zoo's known answers true? Each is held against finite scaling in float64, without the package."""

import pytest
import torch
from torch import Tensor, nn

from support.oracle import (
    Bench,
    expand,
    finest_block_sizes,
    follow_running_statistics_,
    generic_copy,
    random_factors,
    scale_rows_,
)
from support.zoo import ZOO
from support.zoo_entry import ALONG, FROZEN, JOINT, LEFT_OUT, NOT, UNDECIDED, Scaled, ZooModel

EVERY_MODEL = pytest.mark.parametrize("entry", ZOO, ids=lambda entry: entry.name)
# By how much outputs may move under a scaling that has no effect: rounding alone.
STILL = {torch.float64: 1e-11, torch.float32: 3e-5}
MOVED = {torch.float64: 1e-6, torch.float32: 1e-3}
WITH_BLOCKS = pytest.mark.parametrize(
    "entry",
    [entry for entry in ZOO if any(isinstance(known, Scaled) for known in entry.known.values())],
    ids=lambda entry: entry.name,
)


@pytest.fixture
def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def bench_of(entry: ZooModel) -> Bench:
    model, inputs = entry.make()
    return Bench(generic_copy(model, dtype=entry.dtype), inputs, forward=entry.forward)


def scale_blocks(model: nn.Module, name: str, known: Scaled, block_factors: Tensor) -> None:
    parameter = model.get_parameter(name)
    factors = expand(block_factors, known.block_sizes, known.starts, len(parameter))
    scale_rows_(parameter, factors, axis=known.axis, groups=known.groups)
    if known.bias is not None:
        scale_rows_(model.get_parameter(known.bias), factors)


def sibling(name: str) -> str:
    return name.removesuffix("weight") + "bias"


@EVERY_MODEL
def test_every_parameter_has_an_answer(entry: ZooModel) -> None:
    model, _ = entry.make()
    assert set(entry.known) == {name for name, _ in model.named_parameters()}
    assert entry.reason


@WITH_BLOCKS
def test_known_blocks_can_be_scaled_at_will(entry: ZooModel, generator: torch.Generator) -> None:
    bench = bench_of(entry)

    def scale_all(model: nn.Module) -> None:
        for name, known in entry.known.items():
            if isinstance(known, Scaled):
                scale_blocks(model, name, known, random_factors(known.n_blocks, generator))

    assert bench.movement_after(scale_all) < STILL[entry.dtype]


@WITH_BLOCKS
def test_known_blocks_are_the_finest(entry: ZooModel) -> None:
    bench = bench_of(entry)
    for name, known in entry.known.items():
        if not isinstance(known, Scaled):
            continue
        parts = zip(known.starts, known.block_sizes, strict=False)
        rows = tuple(row for start, size in parts for row in range(start, start + size))
        ones = Scaled((1,) * sum(known.block_sizes), known.axis, known.groups, known.bias, starts=rows)

        def is_invariant(factors: Tensor, name: str = name, ones: Scaled = ones) -> bool:
            return (
                bench.movement_after(lambda model: scale_blocks(model, name, ones, factors))
                < STILL[entry.dtype]
            )

        assert finest_block_sizes(ones.n_blocks, is_invariant) == known.block_sizes, name


@EVERY_MODEL
def test_known_verdicts_are_true(entry: ZooModel) -> None:
    bench = bench_of(entry)
    parameters = dict(bench.model.named_parameters())
    for name, known in entry.known.items():
        alone = bench.movement_when_scaled(name, entry.factor)
        both = alone
        if name.endswith("weight") and sibling(name) in parameters:
            both = bench.movement_when_scaled(name, entry.factor, sibling(name))
        if known == NOT:
            assert min(alone, both) > MOVED[entry.dtype], (name, alone, both)
        elif known == JOINT:
            assert alone > MOVED[entry.dtype], (name, alone)
        elif known == LEFT_OUT:
            assert min(alone, both) < STILL[entry.dtype], (name, alone, both)
            assert parameters[name].numel() == parameters[name].shape[:1].numel()
        elif known == FROZEN:
            assert not parameters[name].requires_grad
        elif known in (UNDECIDED, ALONG):
            shifted = bench.movement_after(lambda model, name=name: model.get_parameter(name).add_(0.3))
            assert max(alone, shifted) < STILL[entry.dtype], (name, alone, shifted)
        elif known.bias is not None and entry.known[known.bias] == JOINT:
            assert alone > MOVED[entry.dtype], f"{name} needs no bias"


@WITH_BLOCKS
def test_known_running_statistics_follow(entry: ZooModel, generator: torch.Generator) -> None:
    bench = bench_of(entry).eval()

    def rescale(model: nn.Module) -> None:
        for name, known in entry.known.items():
            if not isinstance(known, Scaled):
                continue
            factors = random_factors(known.n_blocks, generator)
            scale_blocks(model, name, known, factors)
            for norm_name, follows in dict(known.norms).items():
                shift = None
                if follows.shift is not None:
                    shift = model.get_parameter(follows.shift)[list(follows.shift_rows)]
                norm = model.get_submodule(norm_name)
                follow_running_statistics_(norm, follows.channels, factors[list(follows.blocks)], shift)

    assert bench.movement_after(rescale) < STILL[entry.dtype]
