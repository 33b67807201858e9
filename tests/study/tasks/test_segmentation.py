"""Segmentation: loss and score by hand, and the networks of libraries."""

import math

import pytest
import torch
from torch import Tensor, nn

from decayfree.errors import InvalidInputError
from decayfree.study.models.sizes import Sizes
from decayfree.study.run_settings import ModelSpec, Recipe
from decayfree.study.tasks.segmentation import Segmentation
from support.available import import_or_skip

TASK = Segmentation()
SIZES = Sizes(n_classes=3, image_size=(64, 64))


class Fixed(nn.Module):
    """Gives out what it is given."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs


def logits_of(masks: Tensor, n_classes: int) -> Tensor:
    return 100.0 * nn.functional.one_hot(masks, n_classes).permute(0, 3, 1, 2)


def test_the_loss_of_equal_logits_is_the_logarithm_of_the_classes_whatever_is_ignored():
    truth = torch.tensor([[[0, 1], [255, 255]]], dtype=torch.uint8)
    assert TASK.loss(Fixed(), torch.zeros(1, 3, 2, 2), truth, Recipe()).item() == pytest.approx(math.log(3))


def test_an_image_of_ignored_pixels_costs_nothing():
    truth = torch.full((1, 2, 2), 255, dtype=torch.uint8)
    assert TASK.loss(Fixed(), torch.randn(1, 3, 2, 2), truth, Recipe()).item() == 0


def test_torchvisions_auxiliary_head_counts_half():
    truth = torch.zeros(1, 2, 2, dtype=torch.uint8)
    outputs = {"out": torch.zeros(1, 2, 2, 2), "aux": torch.zeros(1, 2, 2, 2)}
    loss = TASK.loss(lambda inputs: outputs, torch.zeros(1, 3, 2, 2), truth, Recipe())
    assert loss.item() == pytest.approx(1.5 * math.log(2))


def test_the_score_of_a_mask_by_hand():
    said = torch.tensor([[[0, 0, 1, 1]], [[0, 0, 0, 2]]])
    truth = torch.tensor([[[0, 1, 1, 255]], [[0, 0, 0, 0]]], dtype=torch.uint8)
    score = TASK.evaluate(Fixed(), [(logits_of(said, 4), truth)], each=True)
    # Class 0: 4 of 6 pixels, one taken for it and one not seen; class 1: 1 of 2; class 2: 0 of 1, never true.
    assert score.metrics["IoU, class 0"] == pytest.approx(4 / 6)
    assert score.metrics["IoU, class 1"] == pytest.approx(1 / 2)
    assert score.metrics["IoU, class 2"] == 0
    assert math.isnan(score.metrics["IoU, class 3"])
    assert score.score == pytest.approx((4 / 6 + 1 / 2 + 0) / 3)
    assert score.metrics["pixel accuracy"] == pytest.approx(5 / 7)
    assert torch.equal(score.predictions, said.to(torch.uint8))


def test_batches_count_by_their_pixels():
    half_ignored = torch.tensor([[[0, 255]]], dtype=torch.uint8)
    right = logits_of(torch.tensor([[[0, 0]]]), 2)
    batches = [(right, half_ignored), (torch.zeros(1, 2, 1, 2), torch.zeros(1, 1, 2, dtype=torch.uint8))]
    assert TASK.evaluate(Fixed(), batches).loss == pytest.approx(2 * math.log(2) / 3)


@pytest.mark.parametrize(
    ("name", "has_auxiliary"),
    [
        ("torchvision:deeplabv3_mobilenet_v3_large", True),
        ("torchvision:lraspp_mobilenet_v3_large", False),
        ("smp:Unet/resnet18", False),
        ("smp:unet", False),
    ],
)
def test_a_network_of_a_library_has_the_classes_of_the_data(name, has_auxiliary):
    import_or_skip({"smp": "segmentation_models_pytorch"}.get(name.partition(":")[0], "torchvision"))
    model = TASK.build(ModelSpec(name=name), SIZES, seed=0)
    assert model.training
    outputs = TASK.outputs(model, torch.randn(2, 3, 64, 64))
    heads = list(outputs.values()) if isinstance(outputs, dict) else [outputs]
    assert len(heads) == 1 + has_auxiliary
    assert all(head.shape == (2, 3, 64, 64) for head in heads)
    again = TASK.build(ModelSpec(name=name), SIZES, seed=0)
    assert all(map(torch.equal, model.parameters(), again.parameters()))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("torchvision:squeezenet1_1", r"squeezenet1_1 is no network for segmentation: expected logits of "),
        ("smp:Unnet", r"segmentation-models-pytorch has no 'Unnet'; did you mean Unet"),
        ("smp:Unet/resnet19", r"smp:Unet/resnet19 cannot be trained on images of 64×64 pixels: .*resnet19"),
    ],
)
def test_what_is_no_network_for_masks_is_refused(name, said):
    import_or_skip({"smp": "segmentation_models_pytorch"}.get(name.partition(":")[0], "torchvision"))
    with pytest.raises(InvalidInputError, match=said):
        TASK.build(ModelSpec(name=name), SIZES, seed=0)
