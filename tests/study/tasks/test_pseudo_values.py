"""What each image adds to a score: against scoring all other images again, and against a bootstrap."""

from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn

from decayfree.study.data.truth import Ragged, Truth
from decayfree.study.tasks.average_precision import average_precision
from decayfree.study.tasks.jackknife import pseudo_values
from decayfree.study.tasks.table import TASKS

N_IMAGES = 12


class Fixed(nn.Module):
    """Says of the images with these numbers what it was told to; the numbers are the inputs."""

    def __init__(self, said: Any) -> None:
        super().__init__()
        self.said = said

    def forward(self, inputs: Any, targets: Any = None) -> Any:
        if targets is not None:
            return {"loss": torch.zeros(())}
        if isinstance(inputs, Tensor):
            return self.said[inputs[:, 0, 0, 0].long()]
        return [self.said[int(image[0, 0, 0])] for image in inputs]


def inputs(n: int) -> Tensor:
    """The number of each image in all of its 8×8 pixels."""
    return torch.arange(n).float()[:, None, None, None].expand(n, 3, 8, 8).contiguous()


def masks(n: int, generator: torch.Generator) -> tuple[nn.Module, Tensor]:
    """Four classes; images differ in how often they are right. A few pixels are not known."""
    draw = {"generator": generator}
    truth = torch.randint(0, 4, (n, 8, 8), **draw)
    is_right = torch.rand(n, 8, 8, **draw) < torch.rand(n, 1, 1, **draw)
    said = torch.where(is_right, truth, torch.randint(0, 4, (n, 8, 8), **draw))
    truth[torch.rand(n, 8, 8, **draw) < 0.1] = 255
    return Fixed(nn.functional.one_hot(said, 4).permute(0, 3, 1, 2).float()), truth.to(torch.uint8)


def boxes(n: int, generator: torch.Generator, *, n_classes: int = 3) -> tuple[nn.Module, Ragged]:
    """Up to five boxes an image, most of them found not quite where they are, and as many mistakes.

    Of few images the last class is in two alone. A tenth of all boxes is ignored.
    """
    truths, said = [], []
    for number in range(n):
        n_boxes = int(torch.randint(0, 6, (), generator=generator))
        corners = torch.rand(n_boxes, 2, generator=generator) * 50
        sides = 5 + torch.rand(n_boxes, 2, generator=generator) * 30
        classes = torch.randint(0, n_classes - (1 < number < 20), (n_boxes, 1), generator=generator).float()
        ignored = (torch.rand(n_boxes, 1, generator=generator) < 0.1).float()
        truth = torch.cat([corners, corners + sides, classes, ignored], dim=1)
        moved = truth[:, :4] + torch.randn(n_boxes, 4, generator=generator) * 2
        wrong = torch.rand(n_boxes, 4, generator=generator) * 40
        wrong[:, 2:] += wrong[:, :2] + 1
        scores = (torch.rand(2 * n_boxes, generator=generator) * 20).round() / 20  # some are equal
        labels = torch.cat([classes, torch.randint(0, n_classes, (n_boxes, 1), generator=generator)])
        kept = torch.rand(2 * n_boxes, generator=generator) < 0.8
        found = {"boxes": torch.cat([moved, wrong]), "labels": labels[:, 0].long() + 1, "scores": scores}
        truths.append(truth)
        said.append({name: values[kept] for name, values in found.items()})
    return Fixed(said), Ragged.of_lists(truths)


def points(n: int, generator: torch.Generator) -> tuple[nn.Module, Ragged]:
    """Up to nine points an image, and a map of one pixel that is wrong by a few."""
    truth = Ragged.of_lists(
        [torch.rand(int(torch.randint(0, 10, (), generator=generator)), 2) * 8 for _ in range(n)]
    )
    errors = torch.randn(n, generator=generator) * 2
    return Fixed((truth.counts + errors).view(n, 1, 1)), truth


MADE = {"segmentation": masks, "detection": boxes, "counting": points}


def score_by_hand(task: str, truth: Truth, predicted: Any) -> float:
    """In float64, image by image and class by class, from the definitions."""
    if task == "counting":
        counts = truth.counts.numpy().astype(float)
        seen = predicted.double().sum(dim=(1, 2)).numpy()
        return 1 - numpy.abs(seen - counts).sum() / counts.sum()
    if task == "detection":
        return average_precision(truth, predicted).of_all  # held against pycocotools elsewhere
    ious = []
    for number in range(4):
        intersection = union = 0
        for mask, right in zip(predicted.numpy(), truth.numpy(), strict=True):
            known = right != 255
            intersection += int(((mask == number) & (right == number) & known).sum())
            union += int((((mask == number) | (right == number)) & known).sum())
        if union:
            ious.append(intersection / union)
    return float(numpy.mean(ious))


def batches(n: int, truth: Truth, size: int = 5) -> list[tuple[Tensor, Truth]]:
    images = inputs(n)
    return [(images[i : i + size], truth[slice(i, i + size)]) for i in range(0, n, size)]


@pytest.mark.parametrize("task", MADE)
def test_each_image_adds_what_the_score_loses_without_it(task: str, seed: int) -> None:
    model, truth = MADE[task](N_IMAGES, torch.Generator().manual_seed(seed))
    score = TASKS[task].evaluate(model, batches(N_IMAGES, truth), each=True)
    assert score.score == pytest.approx(score_by_hand(task, truth, score.predictions), abs=1e-12)
    everyone = torch.arange(N_IMAGES)
    for image in range(N_IMAGES):
        others = everyone[everyone != image]
        without = score_by_hand(task, truth[others], score.predictions[others])
        expected = N_IMAGES * score.score - (N_IMAGES - 1) * without
        assert float(score.of_images[image]) == pytest.approx(expected, abs=1e-10)
    assert score.of_images.dtype == torch.float64


@pytest.mark.parametrize("task", MADE)
def test_the_standard_error_of_pseudo_values_is_that_of_a_bootstrap_to_a_fifth(task: str, seed: int) -> None:
    n = 60
    generator = torch.Generator().manual_seed(seed)
    model, truth = MADE[task](n, generator)
    score = TASKS[task].evaluate(model, batches(n, truth), each=True)
    drawn = []
    for _ in range(200):
        images = torch.randint(0, n, (n,), generator=generator)
        drawn.append(score_by_hand(task, truth[images], score.predictions[images]))
    by_bootstrap = torch.tensor(drawn).std()
    by_jackknife = score.of_images.std() / n**0.5
    # 200 draws know a standard deviation to 5 %; the rest is how far the score is from linear. It is far from
    # it for a class that is in a few images alone, which here none is.
    assert float(by_jackknife / by_bootstrap) == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize("task", MADE)
def test_nothing_is_said_of_images_unless_asked(task: str, seed: int) -> None:
    model, truth = MADE[task](N_IMAGES, torch.Generator().manual_seed(seed))
    brief = TASKS[task].evaluate(model, batches(N_IMAGES, truth))
    whole = TASKS[task].evaluate(model, batches(N_IMAGES, truth, size=N_IMAGES), each=True)
    assert not len(brief.of_images)
    assert brief.predictions is None
    assert (brief.score, brief.metrics) == (whole.score, whole.metrics)
    assert len(whole.predictions) == N_IMAGES


@pytest.mark.parametrize("task", MADE)
@pytest.mark.parametrize("is_training", [True, False])
def test_a_model_is_scored_in_eval_mode_and_left_in_its_own(task: str, is_training: bool, seed: int) -> None:
    model, truth = MADE[task](3, torch.Generator().manual_seed(seed))
    model.train(is_training)
    TASKS[task].evaluate(model, batches(3, truth))
    assert model.training is is_training


def of_counts(counts: list[int]) -> tuple[nn.Module, Ragged]:
    truth = Ragged.of_lists([torch.zeros(count, 2) for count in counts])
    return Fixed(torch.zeros(len(counts), 1, 1)), truth


def test_of_a_single_image_it_is_its_score() -> None:
    model, truth = of_counts([2])
    assert TASKS["counting"].evaluate(model, batches(1, truth), each=True).of_images.tolist() == [0.0]


def test_an_image_without_which_nothing_is_left_has_none() -> None:
    model, truth = of_counts([2, 0])
    of_images = TASKS["counting"].evaluate(model, batches(2, truth), each=True).of_images
    assert of_images.isnan().tolist() == [True, False]


def test_pseudo_values_of_a_mean_are_the_images_own(seed: int) -> None:
    values = torch.randn(9, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    left_out = (values.sum() - values) / 8
    torch.testing.assert_close(pseudo_values(float(values.mean()), left_out), values)
