"""Counting: density maps, loss and score by hand."""

import math

import pytest
import torch
from torch import Tensor, nn

from decayfree.errors import InvalidInputError
from decayfree.study.data.truth import Ragged
from decayfree.study.models.sizes import Sizes
from decayfree.study.run_settings import ModelSpec, Recipe
from decayfree.study.tasks.counting import Counting, density_maps

TASK = Counting()


class Fixed(nn.Module):
    """Gives out the first channel, an eighth of the size."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs[:, 0, ::8, ::8]


def points(*each: list[list[float]]) -> Ragged:
    return Ragged.of_lists([torch.tensor(one).reshape(-1, 2) for one in each])


@pytest.mark.parametrize("at", [(32.0, 32.0), (0.0, 0.0), (63.9, 12.0), (-500.0, 9000.0)])
def test_a_point_adds_one_wherever_it_is(at):
    maps = density_maps(points([list(at)], []), image_size=(64, 64), map_size=(8, 8))
    assert maps.sum(dim=(1, 2)).tolist() == pytest.approx([1, 0], abs=1e-6)
    assert maps.dtype == torch.float32


def test_a_point_is_where_it_is_and_as_wide_as_a_pixel_of_the_map():
    # In the middle of pixel (row 5, column 20) of a map of 40 by 60 pixels, each of 8 by 8.
    maps = density_maps(points([[20.5 * 8, 5.5 * 8]]), image_size=(320, 480), map_size=(40, 60))
    assert divmod(int(maps[0].argmax()), 60) == (5, 20)
    assert float(maps[0, 5, 21] / maps[0, 5, 20]) == pytest.approx(math.exp(-0.5))
    assert float(maps[0, 5, 20]) == pytest.approx(1 / (2 * math.pi), rel=1e-3)


def test_the_loss_is_half_the_squared_error_of_a_map_and_a_mean_over_images():
    inputs = torch.zeros(2, 3, 8, 8)
    inputs[0, 0] = 3.0  # a map of one pixel: 3 items where there is 1; in the other image 0 of 2
    truth = points([[4.0, 4.0]], [[1.0, 1.0], [2.0, 2.0]])
    assert TASK.loss(Fixed(), inputs, truth, Recipe()).item() == pytest.approx((2.0 + 2.0) / 2)
    score = TASK.evaluate(Fixed(), [(inputs, truth)], each=True)
    assert score.loss == pytest.approx(2.0)
    assert score.score == pytest.approx(1 - (2 + 2) / 3)
    assert score.metrics == {"MAE, items": pytest.approx(2.0), "RMSE, items": pytest.approx(2.0)}
    assert torch.equal(score.predictions, torch.tensor([3.0, 0.0]).view(2, 1, 1))


def test_without_anything_to_count_there_is_no_score():
    assert math.isnan(TASK.evaluate(Fixed(), [(torch.zeros(2, 3, 8, 8), points([], []))]).score)


def test_a_library_has_no_network_for_it():
    with pytest.raises(
        InvalidInputError, match=r"torchvision:resnet18 is no network of this task, as csrnet"
    ):
        TASK.build(ModelSpec(name="torchvision:resnet18"), Sizes(n_classes=1, image_size=(64, 64)), 0)
