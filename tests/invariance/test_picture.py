"""A model as a picture: a bar a weight with its blocks, by verdict, readable also where there are many."""

from typing import Any

import pytest
import torch
from torch import nn

import decayfree
from decayfree.invariance.picture import MAX_IN_A_COLUMN, _ends, _near
from support.available import import_or_skip

import_or_skip("matplotlib")


def small() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 8, 3), nn.GroupNorm(2, 8)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)),
    )


def legend_of(figure: Any) -> list[str]:
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def names_of(figure: Any) -> list[str]:
    return [label.get_text() for panel in figure.axes for label in panel.get_yticklabels()]


def test_a_bar_a_weight_in_the_models_order_with_blocks_and_norms() -> None:
    found = decayfree.find_invariant(small(), torch.randn(4, 3, 8, 8))
    figure = found.plot()
    assert names_of(figure) == [name for name in found.verdicts if name != "3.bias"]  # held with its weight
    assert legend_of(figure) == ["scale-invariant: 2", "not scale-invariant: 6", "undecided: 1"]
    (panel,) = figure.axes
    said = [text.get_text() for text in panel.texts]
    assert said[0] == "4 kernels · 1 (BatchNorm2d)"
    assert said[4] == "2 blocks of 4 rows, with bias · 4 (GroupNorm)"
    assert said[-1] == "(2,)"
    blocks = [patch for patch in panel.patches if patch.get_facecolor()[:3] != (1.0, 1.0, 1.0)]
    assert [round(patch.get_width(), 3) for patch in blocks] == [0.25] * 4 + [0.5] * 2
    assert figure._suptitle.get_text() == repr(found).splitlines()[0]
    asked = found.by_request({"7.*": "row"}).plot(width=3.25)
    assert "by request: 1" in legend_of(asked)


def test_of_large_models_matrices_are_drawn_and_vectors_counted() -> None:
    layers = [part for _ in range(80) for part in (nn.Linear(6, 6), nn.BatchNorm1d(6))]
    model = nn.Sequential(*layers, nn.Linear(6, 2))
    for parameter in model[:140].parameters():
        parameter.requires_grad_(False)
    found = decayfree.find_invariant(model, torch.randn(16, 6))
    figure = found.plot()
    assert len(figure.axes) == 2
    assert len(names_of(figure)) == 81 > MAX_IN_A_COLUMN
    assert figure.get_figheight() < 8  # a page
    assert "Not drawn: 241 vectors" in figure._suptitle.get_text().replace("\n", " ")
    assert legend_of(figure)[-1] == "frozen: 70"


@pytest.mark.parametrize("model", [nn.Linear(3, 2), nn.BatchNorm1d(3)])
def test_a_model_without_such_weights_has_a_picture(model: nn.Module) -> None:
    found = decayfree.find_invariant(model, torch.randn(8, 3))
    assert names_of(found.plot()) == ["weight", "bias"]


def test_of_many_blocks_a_few_stand_for_them_and_held_rows_lie_where_they_are() -> None:
    from decayfree.blocks import Blocks

    assert _ends(Blocks(0, (1, 3)), (4, 2)) == [(0.0, 0.25), (0.25, 1.0)]
    assert len(_ends(Blocks(0, (1,) * 500), (500, 2))) == 24
    assert _ends(Blocks(0, (2,), starts=(4,)), (8, 2)) == [(0.5, 0.75)]
    assert _ends(Blocks(0, (1,) * 60, starts=tuple(range(20, 80))), (80, 2)) == [(0.25, 1.0)]


def test_a_module_of_the_same_block_is_called_by_what_is_its_own() -> None:
    assert _near("layer1.0.conv1.weight", "layer1.0.bn1 (BatchNorm2d)") == "bn1 (BatchNorm2d)"
    assert _near("0.weight", "1 (BatchNorm2d)") == "1 (BatchNorm2d)"
    assert _near("conv.weight", "conv_bn (BatchNorm2d)") == "conv_bn (BatchNorm2d)"
