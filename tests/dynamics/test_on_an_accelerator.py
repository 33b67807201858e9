"""What the instruments do on an accelerator and nowhere else, on a stand-in for one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from decayfree.blocks import Blocks
from decayfree.dynamics import row_sums
from decayfree.dynamics.measures import motion, slope
from decayfree.dynamics.readings import as_scalar, motion_readings, summary
from support.elsewhere import Elsewhere, elsewhere

BLOCKS = Blocks(0, (1,) * 6)


@pytest.mark.parametrize(("kind", "dtype"), [("cuda", torch.float64), ("mps", torch.float32)])
@pytest.mark.parametrize("blocks", [BLOCKS, Blocks(1, (1,) * 6, groups=2)], ids=["rows", "in groups"])
def test_float64_is_taken_where_the_device_has_it(
    kind: str, dtype: torch.dtype, blocks: Blocks, seed: int
) -> None:
    shape = (6, 3) if blocks.groups == 1 else (4, 3)
    before, after = (torch.randn(shape).as_subclass(Elsewhere) for _ in range(2))
    with elsewhere(kind) as waits:
        moved, seen = motion(before, after, blocks), slope(before, after, blocks)
        scalar = as_scalar(0.5, before.device)
        told = summary([moved.relative, seen.radial_share], (0.5,))
        assert waits == []
    for values in (moved.norms, moved.angle_rad, seen.dots, scalar, told):
        assert values.dtype == dtype


def test_pieces_are_larger_there(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_sums, "_PIECE_ON_CPU", 6)
    monkeypatch.setattr(row_sums, "_PIECE", 9)
    weight = torch.randn(6, 3)
    sizes = [
        [tuple(pair.shape) for pair in row_sums._pieces(one, one, BLOCKS)]
        for one in (weight, weight.as_subclass(Elsewhere))
    ]
    assert sizes == [[(2, 2, 3)] * 3, [(2, 3, 3)] * 2]
    there = motion(weight.as_subclass(Elsewhere), (2 * weight).as_subclass(Elsewhere), BLOCKS)
    assert there.radial.as_subclass(Tensor).tolist() == motion(weight, 2 * weight, BLOCKS).radial.tolist()


def test_weights_on_several_devices_are_each_read_on_their_own() -> None:
    # One weight of one block, one elsewhere, and one of two; all as long as they were.
    squares = {"a": torch.tensor([4.0]), "b": torch.ones(3, device="meta"), "c": torch.tensor([9.0, 25.0])}
    sums = {name: torch.stack((one, 0 * one, 0 * one, one)) for name, one in squares.items()}
    rates = {"a": torch.tensor(0.5), "b": torch.tensor(0.5, device="meta"), "c": torch.tensor(0.75)}
    found = motion_readings(sums, rates, "adam")
    assert list(found) == ["a", "b", "c"]
    assert [found[name]["norm"].tolist() for name in ("a", "c")] == [[2.0], [3.0, 5.0]]
    assert [found[name]["effective_learning_rate"][0].item() for name in ("a", "c")] == [0.25, 0.25]
    assert (found["b"]["norm"].shape, found["b"]["norm"].device.type) == ((3,), "meta")
