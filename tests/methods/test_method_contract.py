"""One table, every method with every optimizer: it trains, it resumes bitwise, or it says why it cannot.

The network has convolutions in channels_last, a GroupNorm block with its bias, and a last layer; steps are
few and in float32.
"""

import io
from dataclasses import dataclass
from functools import cache
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from decayfree import Invariance, find_invariant
from decayfree.blocks import block_norms
from decayfree.errors import InvalidInputError
from decayfree.methods import (
    METHODS,
    WRS,
    ExactReplay,
    Hyperball,
    LearningRateScaling,
    NoTreatment,
    Projection,
    RotationalEquilibrium,
    RunLength,
    TurningMethod,
    WeightDecay,
    WeightNormalization,
    WeightStandardization,
)
from decayfree.study.optimizers import build_optimizer, optimizer_faults
from decayfree.study.run_settings import OptimizerName, OptimizerSpec
from support.available import import_or_skip

OPTIMIZERS = get_args(OptimizerName)
PROJECTED = {"sgd", "adam", "adamw"}
ROTATED = {*PROJECTED, "lion"}


@dataclass(frozen=True)
class Row:
    """A method, the optimizers that it works with, and whether block norms stay, grow or do anything."""

    method: object
    optimizers: frozenset = frozenset(OPTIMIZERS)
    norms_stay: bool = False


ROWS = [
    Row(NoTreatment()),
    Row(WeightDecay(0.01)),
    Row(WeightDecay(0.01, "coupled")),
    Row(WeightDecay(0.01, "decoupled")),
    Row(LearningRateScaling(0.01)),
    Row(ExactReplay(0.01), frozenset({"sgd"}), norms_stay=True),
    Row(WRS(), norms_stay=True),
    Row(WRS("init"), norms_stay=True),
    Row(WRS(0.5, every=2, momentum="scale")),
    Row(WRS(schedule="follow"), norms_stay=True),
    Row(TurningMethod(), norms_stay=True),
    Row(TurningMethod(forgetting=0.3, schedule="cosine"), norms_stay=True),
    Row(Projection(weight_decay=0.01), frozenset(PROJECTED)),
    Row(WeightStandardization()),
    Row(WeightNormalization()),
    Row(Hyperball(), norms_stay=True),
    Row(RotationalEquilibrium(0.01), frozenset(ROTATED), norms_stay=True),
]
WORKING = [(row, name) for row in ROWS for name in OPTIMIZERS if name in row.optimizers]
IMPOSSIBLE = [(row, name) for row in ROWS for name in OPTIMIZERS if name not in row.optimizers]
PACKAGES = {"lion": "pytorch_optimizer", "muon": "pytorch_optimizer"}


def named(value):
    return value if isinstance(value, str) else value.method.label


def network():
    torch.manual_seed(6)
    return nn.Sequential(
        *(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU()),
        *(nn.Conv2d(4, 6, 3), nn.GroupNorm(2, 6), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(24, 3)),
    )


@cache
def found_record():
    return find_invariant(network(), torch.randn(8, 3, 6, 6)).to_dict()


class Training:
    """A network, its optimizer and its method, as a study makes them; equal whenever it is made."""

    def __init__(self, method, name):
        self.model = network()
        self.found = method.prepare(self.model, Invariance.from_dict(found_record(), self.model))
        self.model.to(memory_format=torch.channels_last)
        groups = method.param_groups(self.model, self.found, rest_weight_decay=0.1)
        spec = OptimizerSpec(name)
        self.optimizer = build_optimizer(spec, groups, learning_rate=0.01, method=method)
        replayed = {one.name: torch.full((20, one.blocks.n_blocks), 0.7) for one in self.found}
        self.attached = method.attach(
            self.optimizer,
            self.found,
            replayed=replayed if method.replays else None,
            length=RunLength(5, 20),
        )
        self.norms = self.norms_now()

    def steps(self, first, last):
        for step in range(first, last):
            generator = torch.Generator().manual_seed(step)
            images = torch.randn(8, 3, 6, 6, generator=generator)
            for group in self.optimizer.param_groups:
                group["lr"] = 0.01 / (1 + step)
            self.optimizer.zero_grad()
            F.cross_entropy(self.model(images), torch.arange(8) % 3).backward()
            self.optimizer.step()

    def norms_now(self):
        return {
            one.name: block_norms(
                self.model.get_parameter(one.name).detach(),
                one.blocks,
                None if one.bias is None else self.model.get_parameter(one.bias).detach(),
            )
            for one in self.found
        }

    def saved(self):
        file = io.BytesIO()
        parts = {"model": self.model, "optimizer": self.optimizer, "method": self.attached}
        torch.save({name: part.state_dict() for name, part in parts.items()}, file)
        return file.getvalue()

    def load(self, saved):
        state = torch.load(io.BytesIO(saved), weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.attached.load_state_dict(state["method"])


@pytest.mark.parametrize(("row", "name"), WORKING, ids=named)
def test_a_pair_trains_and_resumes_bitwise(row, name):
    if name in PACKAGES:
        import_or_skip(PACKAGES[name])
    if isinstance(row.method, Projection):
        import_or_skip("adamp")
    whole = Training(row.method, name)
    before = {key: value.clone() for key, value in whole.model.named_parameters()}
    whole.steps(0, 6)
    for key, value in whole.model.named_parameters():
        assert value.isfinite().all()
        assert torch.equal(value, before[key]) == (not value.requires_grad), key
    first, second = Training(row.method, name), Training(row.method, name)
    first.steps(0, 3)
    second.load(first.saved())
    second.steps(3, 6)
    for key, value in whole.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[key]), key
    for one in whole.found:
        theirs = second.attached.learning_rates(one, 0.01)
        assert torch.equal(whole.attached.learning_rates(one, 0.01), theirs)
        assert theirs.isfinite().all()
    if row.norms_stay:
        for key, norms in whole.norms_now().items():
            torch.testing.assert_close(norms, whole.norms[key])


@pytest.mark.parametrize(("row", "name"), IMPOSSIBLE, ids=named)
def test_an_impossible_pair_has_a_fault_that_says_why(row, name):
    (fault,) = optimizer_faults(OptimizerSpec(name), row.method)
    assert fault.startswith(f"optimizer.name: {row.method.label} works with sgd")
    assert f" only, not with {name}: " in fault
    with pytest.raises(InvalidInputError, match=f"only, not with {name}: "):
        build_optimizer(OptimizerSpec(name), [], learning_rate=0.1, method=row.method)


def test_every_method_is_in_the_table():
    assert {row.method.name for row in ROWS} == set(METHODS)
