"""What a recorder writes down under every optimizer in torch.optim, with and without weight rescaling.

Recomputed in float64 from weights and gradients that the test itself kept before and after each step. When it
looks is test_recorder.py's question.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn, optim

import decayfree
from decayfree.dynamics.recorder import Recorder
from decayfree.dynamics.samples import Sample
from support import reference
from support.networks import MixedNet, SmallNet, digit_losses, find, mixed_net, small_net
from support.optimizer_rows import ROWS, Row
from support.reference import BlockSpec

# By what the effective learning rate is the learning rate divided: a power of the norm. None where there is
# no such rate.
NORM_POWER: dict[type[optim.Optimizer], int | None] = {
    **dict.fromkeys((optim.SGD, optim.ASGD), 2),
    **dict.fromkeys((optim.Adam, optim.AdamW, optim.NAdam, optim.RAdam, optim.Adamax), 1),
    **dict.fromkeys((optim.Adagrad, optim.Adadelta, optim.RMSprop, optim.Rprop, optim.Muon), 1),
    **dict.fromkeys((optim.Adafactor, optim.LBFGS), None),
}
QUANTILES = (0.1, 0.5, 0.75)
ATTACHED = ["alone", "after weight rescaling", "before weight rescaling"]


@dataclass
class Kept:
    """What the test itself saw of one step."""

    before: dict[str, Tensor]
    after: dict[str, Tensor]
    gradients: dict[str, Tensor]


@cache
def found_in(kind: type[nn.Module]) -> dict[str, Any]:
    return find(small_net() if kind is SmallNet else mixed_net()).to_dict()


def attach(
    optimizer: optim.Optimizer, model: nn.Module, how: str, **settings: Any
) -> tuple[Recorder, list[Sample]]:
    """A recorder of every second step, alone or beside a rescaling in one of the two orders."""
    found = decayfree.Invariance.from_dict(found_in(type(model)), model)
    samples: list[Sample] = []
    if how == "after weight rescaling":
        decayfree.WeightRescaling(optimizer, found)
    recorder = Recorder(optimizer, found, every=2, sink=samples.append, quantiles=QUANTILES, **settings)
    if how == "before weight rescaling":
        decayfree.WeightRescaling(optimizer, found)
    return recorder, samples


def take_steps(model: nn.Module, optimizer: optim.Optimizer, n_steps: int, dtype: torch.dtype) -> list[Kept]:
    kept = []
    for loss in digit_losses(n_steps, dtype):
        gradients: dict[str, Tensor] = {}

        def closure(loss: Any = loss, gradients: dict[str, Tensor] = gradients) -> Tensor:
            optimizer.zero_grad()
            value = loss(model)
            value.backward()
            if not gradients:  # the first that the step asks for is the one at the weights before it
                gradients.update({name: p.grad.clone() for name, p in model.named_parameters()})
            return value

        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        optimizer.step(closure)
        after = {name: p.detach().clone() for name, p in model.named_parameters()}
        kept.append(Kept(before, after, gradients))
    return kept


def expected_readings(spec: BlockSpec, kept: Kept, lr: float, power: int | None) -> dict[str, list[float]]:
    """Every instrument's value for every block, from the definitions, in float64."""
    numbers = [
        [
            numpy.array(block)
            for block in reference.numbers_of(state[spec.weight], spec, state.get(spec.bias or ""))
        ]
        for state in (kept.before, kept.after, kept.gradients)
    ]
    result: dict[str, list[float]] = {}
    for (w, v, g), n_rows in zip(zip(*numbers, strict=True), spec.sizes, strict=True):
        norm, slope = numpy.linalg.norm(w), numpy.linalg.norm(g)
        u, along = w / norm, v / numpy.linalg.norm(v)
        values = {
            "norm": numpy.linalg.norm(v),
            "angular_update_rad": 2 * math.atan2(numpy.linalg.norm(u - along), numpy.linalg.norm(u + along)),
            "relative_update": numpy.linalg.norm(v - w) / norm,
            "radial_share": abs(w @ g) / (norm * slope),
            "gradient_norm_at_unit_radius": slope * norm / math.sqrt(n_rows),
        }
        if power is not None:
            values["effective_learning_rate"] = lr / norm**power
        for name, value in values.items():
            result.setdefault(name, []).append(float(value))
    return result


def expected_statistics(values: list[float]) -> dict[str, float]:
    quantiles = {f"q{100 * q:g}": float(numpy.quantile(values, q)) for q in QUANTILES}
    mean = math.fsum(values) / len(values)
    return {"mean": mean, "min": min(values), "max": max(values), **quantiles, "undefined": 0.0}


def assert_as_expected(
    sample: Sample, specs: list[BlockSpec], kept: Kept, lr: float, power: int | None, precision: float = 1e-9
) -> None:
    assert list(sample.weights) == [spec.weight for spec in specs]
    for spec in specs:
        assert sample.learning_rates[spec.weight] == pytest.approx(lr, rel=1e-7)
        expected = expected_readings(spec, kept, sample.learning_rates[spec.weight], power)
        measured = sample.weights[spec.weight]
        assert measured.keys() == expected.keys()
        for instrument, values in expected.items():
            statistics = expected_statistics(values)
            told = measured[instrument]
            assert told == pytest.approx(statistics, rel=precision, abs=1e-15), (spec, instrument)


@pytest.mark.parametrize("how", ATTACHED)
@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_what_is_recorded_is_what_happened(row: Row, how: str) -> None:
    model = small_net()
    optimizer = row.optimizer(model)
    power = NORM_POWER[type(optimizer)]
    recorder, samples = attach(optimizer, model, how, family="none" if power is None else None)
    lr = float(optimizer.param_groups[0]["lr"])
    kept = take_steps(model, optimizer, 5, torch.float32)
    specs = [spec for spec in model.specs if row.names is None or spec.weight in row.names]
    assert [sample.step for sample in samples] == [2, 4]
    for sample in samples:
        assert_as_expected(sample, specs, kept[sample.step - 1], lr, power)
        if how != "alone":
            assert all(
                weight["norm"]["max"] == pytest.approx(1.0, abs=1e-6) for weight in sample.weights.values()
            )
    assert recorder.n_steps == 5


@pytest.mark.parametrize("how", ATTACHED)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_every_kind_of_block_is_recorded(dtype: torch.dtype, how: str) -> None:
    """Kernels, grouped and transposed ones, a layer with its bias; large steps, so that all differs."""
    model = mixed_net(dtype)
    assert isinstance(model, MixedNet)
    optimizer = optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    _, samples = attach(optimizer, model, how)
    kept = take_steps(model, optimizer, 4, dtype)
    for sample in samples:
        # A radial share of 1e-16 is rounding of whoever computes it.
        assert_as_expected(sample, list(model.specs), kept[sample.step - 1], 0.5, 2)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_held_rows_alone_are_recorded(dtype: torch.dtype) -> None:
    rows = {
        "conv.weight": ((1, 1), (1, 3)),
        "grouped.weight": ((2, 1), (0, 4)),
        "transposed.weight": ((2,), (1,)),
        "hidden.weight": ((3, 2), (1, 6)),
    }
    model = mixed_net(dtype)
    known = find(model).to_dict()
    for weight in known["weights"]:
        weight["block_sizes"], weight["starts"] = rows[weight["name"]]
    samples: list[Sample] = []
    optimizer = optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    found = decayfree.Invariance.from_dict(known, model)
    Recorder(optimizer, found, every=2, sink=samples.append, quantiles=QUANTILES)
    kept = take_steps(model, optimizer, 4, dtype)
    specs = [replace(spec, sizes=rows[spec.weight][0], starts=rows[spec.weight][1]) for spec in model.specs]
    for sample in samples:
        assert_as_expected(sample, specs, kept[sample.step - 1], 0.5, 2)
