"""Models whose weights have a scale are looked at as well, in the blocks that somebody says."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import decayfree
from decayfree import equilibrium
from decayfree.dynamics.samples import Sample
from decayfree.errors import InvalidInputError, MismatchError

OF_ALL = {"norm", "angular_update_rad", "relative_update", "radial_share"}
OF_WEIGHTS_WITHOUT_SCALE = {"effective_learning_rate", "gradient_norm_at_unit_radius"}


class Block(nn.Module):
    """A transformer's block with QK-norm: queries and keys have no scale, all else has."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(8), nn.Linear(8, 24), nn.Linear(8, 8)
        self.mlp = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, 2, 4)).transpose(1, 3).unbind(2)
        heads = F.scaled_dot_product_attention(F.rms_norm(q, (4,)), F.rms_norm(k, (4,)), v)
        x = x + self.out(heads.transpose(1, 2).flatten(-2))
        return x + self.mlp(x)


def tokens() -> Tensor:
    return torch.randn(4, 6, 8, generator=torch.Generator().manual_seed(1))


def sample_of(model: nn.Module, watched: decayfree.Watched | decayfree.Invariance) -> Sample:
    samples: list[Sample] = []
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.0)
    decayfree.Recorder(optimizer, watched, every=1, sink=samples.append, quantiles=())
    model(tokens()).square().mean().backward()
    optimizer.step()
    return samples[0]


def test_every_matrix_of_a_model_without_a_scale_free_weight_has_its_readings() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 6), nn.GELU(), nn.Linear(6, 3, bias=False))
    before = [one.detach().double() for one in (model[0].weight, model[2].weight)]
    sample = sample_of(model, decayfree.watch(model, by={"2.*": "whole"}))
    assert list(sample.weights) == ["0.weight", "2.weight"]
    assert all(set(seen) == OF_ALL for seen in sample.weights.values())
    rows, whole = model[0].weight.detach().double(), model[2].weight.detach().double()
    angles = torch.rad2deg(torch.acos(F.cosine_similarity(before[0], rows, dim=1)))
    seen = sample.weights["0.weight"]["angular_update_rad"]
    torch.testing.assert_close(seen["mean"], float(angles.deg2rad().mean()), rtol=1e-5, atol=0.0)
    assert sample.weights["2.weight"]["norm"]["mean"] == pytest.approx(float(whole.norm()), rel=1e-6)
    moved = float((whole - before[1]).norm() / before[1].norm())
    assert sample.weights["2.weight"]["relative_update"]["mean"] == pytest.approx(moved, rel=1e-5)


def test_what_was_found_keeps_its_blocks_and_its_effective_learning_rate() -> None:
    torch.manual_seed(0)
    model = Block()
    found = decayfree.find_invariant(model, tokens())
    watched = decayfree.watch(model, found, by={"out.weight": 2, "mlp.*": "whole"})
    blocks = {one.name: one.blocks.n_blocks for one in watched.weights}
    assert blocks == {
        "qkv.weight": found["qkv.weight"].blocks.n_blocks,
        "out.weight": 2,
        "mlp.1.weight": 1,
        "mlp.3.weight": 1,
    }
    assert repr(watched) == f"Watched(4 weights, 1 without a scale, {sum(blocks.values())} blocks)"
    twin = copy.deepcopy(model)
    sample = sample_of(model, watched)
    alone = sample_of(twin, decayfree.Invariance.from_dict(found.to_dict(), twin))
    assert sample.weights["qkv.weight"] == alone.weights["qkv.weight"]
    for name, seen in sample.weights.items():
        assert set(seen) == (OF_ALL | OF_WEIGHTS_WITHOUT_SCALE if name == "qkv.weight" else OF_ALL)


def test_a_prediction_stands_beside_the_angle_of_a_weight_with_a_scale() -> None:
    torch.manual_seed(0)
    model, samples = nn.Sequential(nn.Linear(8, 6), nn.GELU(), nn.Linear(6, 3)), []
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.5)
    decayfree.Recorder(
        optimizer,
        decayfree.watch(model),
        every=1,
        sink=samples.append,
        predicted_angles=lambda name, group: equilibrium.adamw(group["lr"], group["weight_decay"]).angle_rad,
    )
    model(tokens()).square().mean().backward()
    optimizer.step()
    seen = samples[0].weights["0.weight"]
    goal = equilibrium.adamw(0.01, 0.5).angle_rad
    assert seen["distance_to_equilibrium"]["max"] == pytest.approx(
        seen["angular_update_rad"]["max"] / goal - 1, rel=1e-5
    )


def test_what_is_watched_is_not_held() -> None:
    model = nn.Sequential(nn.Linear(8, 6), nn.Linear(6, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(InvalidInputError, match="find_invariant, got Watched"):
        decayfree.WeightRescaling(optimizer, decayfree.watch(model))  # type: ignore[arg-type]


def test_a_result_of_a_copy_and_a_wrapped_model_are_taken() -> None:
    model = nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.Linear(6, 3))
    found = decayfree.find_invariant(model, torch.randn(4, 8))
    twin = nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.Linear(6, 3))
    watched = decayfree.watch(nn.DataParallel(twin), found)
    assert watched.weights.model is twin
    assert [(one.name, one.by_request) for one in watched.weights] == [
        ("0.weight", False),
        ("2.weight", True),
    ]


def test_bad_input_is_refused_in_words() -> None:
    model = nn.Sequential(nn.Linear(8, 6), nn.Linear(6, 3))
    with pytest.raises(InvalidInputError, match="model"):
        decayfree.watch("model")  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match=r"found must come from decayfree\.find_invariant, got list"):
        decayfree.watch(model, [])  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match=r"0\.weight has 6 rows, which are no 4 equal blocks"):
        decayfree.watch(model, by={"0.*": 4})
    with pytest.raises(InvalidInputError, match=r"by must map patterns over names"):
        decayfree.watch(model, by=4)  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match=r"'\*' matches none of the 0 trained matrices"):
        decayfree.watch(nn.BatchNorm1d(3))
    found = decayfree.find_invariant(nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6)), torch.randn(4, 4))
    with pytest.raises(MismatchError, match="belong to another model"):
        decayfree.watch(model, found)
