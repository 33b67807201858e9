"""Detection: what is trained on and scored, with our own network and torchvision's."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from decayfree.errors import InvalidInputError
from decayfree.study.data.truth import Ragged
from decayfree.study.models.sizes import Sizes
from decayfree.study.run_settings import ModelSpec, Recipe
from decayfree.study.tasks.detection import Detection
from support.available import import_or_skip
from support.hand_made_scenes import scenes

TASK = Detection()
OURS = "fcos-bn"
SMALL = "torchvision:ssdlite320_mobilenet_v3_large"


@pytest.fixture(autouse=True)
def _torchvision() -> None:
    import_or_skip("torchvision.ops")


def build(name: str, size: int = 32, seed: int = 0) -> nn.Module:
    width = 1.0 if ":" in name else 0.125
    sizes = Sizes(n_classes=2, image_size=(size, size), width_factor=width)
    return TASK.build(ModelSpec(name=name, width_factor=width), sizes, seed)


def loss_of(model: nn.Module, inputs: Tensor, truth: Ragged) -> float:
    return TASK.loss(copy.deepcopy(model), inputs, truth, Recipe()).item()


def rows(*boxes: list[float]) -> Ragged:
    return Ragged.of_lists([torch.tensor(boxes), torch.zeros(0, 6)])


class Says(nn.Module):
    """A detector that sees the same in every image."""

    def __init__(self, **seen: Tensor) -> None:
        super().__init__()
        self.seen = seen

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None) -> object:
        return {"loss": torch.tensor(2.0)} if self.training else [self.seen for _ in images]


def test_a_detector_without_heads_is_told_what_it_needs():
    with pytest.raises(InvalidInputError, match=r"Says is asked .*: expected a backbone, and a head or rpn"):
        TASK.outputs(Says(), torch.zeros(2, 3, 8, 8))


def test_the_ground_is_no_box_and_at_most_100_are_kept():
    boxes = torch.tensor([[0.0, 0.0, 5.0, 5.0]]).repeat(300, 1)
    labels = torch.cat([torch.zeros(100), torch.full((200,), 2)]).long()
    says = Says(boxes=boxes, labels=labels, scores=torch.linspace(1, 0, 300))
    truth = Ragged.of_lists([torch.zeros(0, 6), torch.tensor([[0.0, 0.0, 5.0, 5.0, 1.0, 0.0]])])
    score = TASK.evaluate(says, [(torch.zeros(2, 3, 8, 8), truth)], each=True)
    assert score.predictions.counts.tolist() == [100, 100]
    assert set(score.predictions.rows[:, 4].tolist()) == {1.0}
    assert score.predictions.rows[0, 5] == pytest.approx(1 - 100 / 299)
    # In the first image it is a mistake, with the same score.
    assert score.score == pytest.approx(0.5)
    assert dict(score.metrics) == {"mAP": score.score, "mAP50": score.score}
    assert score.loss == 2.0


@pytest.mark.parametrize("name", [OURS, SMALL])
def test_images_without_boxes_can_be_trained_on_and_scored(name):
    model = build(name)
    nothing = Ragged.of_lists([torch.zeros(0, 6)] * 2)
    inputs = torch.randn(2, 3, 32, 32)
    assert math.isfinite(loss_of(model, inputs, nothing))
    assert math.isnan(TASK.evaluate(model, [(inputs, nothing)]).score)


@pytest.mark.parametrize("name", [OURS, SMALL])
def test_scoring_changes_nothing_and_says_the_same_again(name):
    model = build(name)
    inputs, truth = scenes("detection")
    TASK.loss(model, inputs, truth, Recipe())  # statistics that are not the initial ones
    state, random_state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    model.backbone.eval()
    first, again = (TASK.evaluate(model, [(inputs, truth)], each=True) for _ in range(2))
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert (model.training, model.backbone.training) == (True, False)
    assert first.loss == again.loss
    assert torch.equal(first.predictions.rows, again.predictions.rows)


def test_the_loss_in_a_score_is_that_of_running_statistics():
    model = build(OURS)
    inputs, truth = scenes("detection")
    fixed = copy.deepcopy(model).eval()
    fixed.training = True
    assert TASK.evaluate(model, [(inputs, truth)]).loss == pytest.approx(loss_of(fixed, inputs, truth))
    assert loss_of(model, inputs, truth) != pytest.approx(loss_of(fixed, inputs, truth), rel=0.01)


@pytest.mark.parametrize("name", [OURS, SMALL])
def test_an_ignored_box_is_not_trained_on(name):
    model, inputs = build(name), torch.randn(2, 3, 32, 32)
    box, other = [2.0, 2.0, 12.0, 12.0, 0.0, 0.0], [16.0, 16.0, 28.0, 28.0, 1.0, 0.0]
    ignored = [*other[:5], 1.0]
    with_both, without, with_one = (
        loss_of(model, inputs, rows(*boxes)) for boxes in ([box, other], [box, ignored], [box])
    )
    assert with_both != without
    if name == OURS:  # what it says inside is no mistake
        assert without < with_one
    else:
        assert without == with_one


def test_torchvisions_images_are_taken_as_they_are():
    model = build(SMALL, size=96)
    inputs = torch.randn(2, 3, 96, 96)
    images, _ = model.transform(list(inputs))
    assert torch.equal(images.tensors, inputs)


def test_a_network_for_masks_of_things_is_refused():
    with pytest.raises(InvalidInputError, match=r"torchvision:resnet18 cannot be trained on images of 32×32"):
        build("torchvision:resnet18")
