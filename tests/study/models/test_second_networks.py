"""DeepLab, CenterNet and MCNN: sizes and losses by hand, what is scale-invariant, four images by heart."""

import math

import pytest
import torch
from torch import Tensor, nn

from decayfree import find_invariant
from decayfree.study.models.centernet import CenterNet, centernet_losses, gaussian_radius
from decayfree.study.models.sizes import Sizes
from decayfree.study.run_settings import ModelSpec, Recipe
from decayfree.study.tasks.table import TASKS
from support.hand_made_scenes import N_CLASSES, scenes

NETWORKS = {"segmentation": "deeplab-bn", "detection": "centernet-bn", "counting": "mcnn-bn"}
LAST = {
    "segmentation": {"classifier.weight"},
    "detection": {f"head.{name}.3.weight" for name in ("classes", "offset", "size")},
    "counting": {"density.weight"},
}
REACHES = {"segmentation": 0.95, "detection": 0.8, "counting": 0.9}


def build(
    task: str, *, size: tuple[int, int] = (32, 32), width: float = 0.125, n_classes: int = 3
) -> nn.Module:
    sizes = Sizes(n_classes=n_classes, image_size=size, width_factor=width)
    return TASKS[task].build(ModelSpec(name=NETWORKS[task], width_factor=width), sizes, 0)


def images(n: int, height: int, width: int) -> Tensor:
    return torch.randn(n, 3, height, width, generator=torch.Generator().manual_seed(0))


def conv(n_in: int, n_out: int, size: int = 3) -> int:
    """A convolution without bias, and gain and bias of its BatchNorm."""
    return n_in * n_out * size**2 + 2 * n_out


def stage(n_in: int, n_out: int) -> int:
    return conv(n_in, n_out) + conv(n_in, n_out, 1) + 3 * conv(n_out, n_out)


def of_deeplab() -> int:
    backbone = conv(3, 64) + sum(stage(a, b) for a, b in ((64, 64), (64, 128), (128, 256), (256, 512)))
    pyramid = 2 * conv(512, 256, 1) + 2 * conv(512, 256) + conv(4 * 256, 256, 1)
    return backbone + pyramid + conv(128, 64, 1) + conv(64 + 256, 256) + 257 * 3


def of_centernet() -> int:
    body = conv(3, 64) + stage(64, 64) + stage(64, 128) + stage(128, 256)
    heads = sum(conv(64, 64) + 65 * n for n in (3, 2, 2))
    return body + conv(256, 128, 4) + conv(128, 64, 4) + heads


def of_mcnn() -> int:
    columns = [(9, 7, (16, 32, 16, 8)), (7, 5, (20, 40, 20, 10)), (5, 3, (24, 48, 24, 12))]
    of_columns = sum(
        conv(3, a, first) + conv(a, b, other) + conv(b, c, other) + conv(c, d, other)
        for first, other, (a, b, c, d) in columns
    )
    return of_columns + 31


@pytest.mark.parametrize(
    ("task", "expected"),
    [("segmentation", of_deeplab()), ("detection", of_centernet()), ("counting", of_mcnn())],
)
def test_the_number_of_parameters_is_that_of_the_layers(task: str, expected: int) -> None:
    assert sum(parameter.numel() for parameter in build(task, width=1.0).parameters()) == expected


@pytest.mark.parametrize("task", NETWORKS)
@pytest.mark.parametrize("size", [(32, 32), (45, 70)])
def test_images_of_32_pixels_and_of_odd_sizes_are_taken(task: str, size: tuple[int, int]) -> None:
    height, width = size
    seen = build(task, size=size).eval()(images(2, height, width))
    if task == "segmentation":
        assert seen.shape == (2, 3, height, width)
    elif task == "counting":
        assert seen.shape == (2, height // 4, width // 4)
    else:
        for one in seen:
            assert (one["boxes"] >= 0).all()
            assert (one["boxes"] <= torch.tensor([width, height, width, height])).all()
            assert (one["boxes"][:, :2] < one["boxes"][:, 2:]).all()
            assert len(one["scores"]) <= 100
            assert {1, 2, 3} >= set(one["labels"].tolist())


@pytest.mark.parametrize("task", NETWORKS)
def test_all_kernels_but_the_last_are_scale_invariant(task: str) -> None:
    model = build(task)
    found = find_invariant(model, images(16, 32, 32), forward=TASKS[task].outputs)
    kernels = {name for name, parameter in model.named_parameters() if parameter.ndim == 4}
    assert {weight.name for weight in found} == kernels - LAST[task]
    assert all(set(weight.block_sizes) == {1} for weight in found)


@pytest.mark.parametrize("task", NETWORKS)
def test_a_network_learns_a_few_images_by_heart(task: str, seed: int) -> None:
    model = build(task, n_classes=N_CLASSES[task])
    inputs, truth = scenes(task)
    before = TASKS[task].evaluate(model, [(inputs, truth)])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(120):
        loss = TASKS[task].loss(model, inputs, truth, Recipe())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    after = TASKS[task].evaluate(model, [(inputs, truth)])
    assert before.score < REACHES[task] / 2
    assert after.score > REACHES[task]
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("overlap", [0.3, 0.5, 0.7])
def test_within_the_radius_boxes_overlap_by_no_less(overlap: float) -> None:
    sizes = torch.tensor([[10.0, 10.0], [30.0, 8.0], [4.0, 17.0]], dtype=torch.float64)
    for (width, height), radius in zip(sizes.tolist(), gaussian_radius(sizes, overlap).tolist(), strict=True):
        area = width * height
        found = []
        for first, second in ((-1, 1), (1, -1), (1, 1)):  # of both corners along both axes
            moved = (width + (second - first) * radius) * (height + (second - first) * radius)
            shared = (width - max(first, 0) * radius - max(-second, 0) * radius) * (
                height - max(first, 0) * radius - max(-second, 0) * radius
            )
            found.append(shared / (area + moved - shared))
        assert min(found) == pytest.approx(overlap, rel=1e-9)


def said(*, classes: float = -50.0) -> dict[str, Tensor]:
    return {
        "classes": torch.full((1, 2, 4, 4), classes),
        "offset": torch.zeros(1, 2, 4, 4),
        "size": torch.zeros(1, 2, 4, 4),
    }


def target(
    boxes: list[list[float]], labels: list[int], ignored: list[list[float]] | None = None
) -> dict[str, Tensor]:
    return {
        "boxes": torch.tensor(boxes).reshape(-1, 4),
        "labels": torch.tensor(labels, dtype=torch.long),
        "ignored": torch.tensor(ignored or []).reshape(-1, 4),
    }


def test_losses_of_one_box_by_hand() -> None:
    # Its center, (7, 10), is pixel (1, 2) of the map, 0.75 and 0.5 further; it has 1.5 × 2 pixels of the map.
    one = target([[4.0, 6.0, 10.0, 14.0]], [2])
    guess = said()
    guess["classes"][0, 1, 2, 1] = 0.0
    found = centernet_losses(guess, [one])
    assert found["classes"].item() == pytest.approx(0.25 * math.log(2), rel=1e-5)
    assert found["offset"].item() == pytest.approx(0.75 + 0.5)
    assert found["size"].item() == pytest.approx(0.1 * (1.5 + 2.0))
    guess["offset"][0, :, 2, 1], guess["size"][0, :, 2, 1] = (
        torch.tensor([0.75, 0.5]),
        torch.tensor([1.5, 2.0]),
    )
    found = centernet_losses(guess, [one])
    assert (found["offset"].item(), found["size"].item()) == pytest.approx((0, 0), abs=1e-6)


def test_near_a_center_less_is_wrong_and_in_an_ignored_box_nothing() -> None:
    one = target([[4.0, 6.0, 10.0, 14.0]], [2])
    near, far = said(), said()
    near["classes"][0, 1, 2, 1] = far["classes"][0, 1, 2, 1] = 50.0
    near["classes"][0, 1, 2, 2] = far["classes"][0, 1, 0, 3] = 5.0
    losses = [centernet_losses(guess, [one])["classes"].item() for guess in (near, far)]
    assert 0 < losses[0] < losses[1]
    beside = target([[4.0, 6.0, 10.0, 14.0]], [2], [[12.0, 0.0, 16.0, 4.0]])
    assert centernet_losses(far, [beside])["classes"].item() == pytest.approx(0, abs=1e-6)
    assert centernet_losses(said(), [target([], [])])["classes"].item() == pytest.approx(0, abs=1e-6)


def test_what_is_said_is_read_as_it_is_learned() -> None:
    model = CenterNet(Sizes(n_classes=2, image_size=(16, 16), width_factor=0.125)).eval()
    guess = said()
    guess["classes"][0, 1, 2, 1] = 3.0
    guess["offset"][0, :, 2, 1], guess["size"][0, :, 2, 1] = (
        torch.tensor([0.75, 0.5]),
        torch.tensor([1.5, 2.0]),
    )
    model.head.forward = lambda levels: guess  # type: ignore[method-assign,assignment]
    best = {name: values[0].tolist() for name, values in model(images(1, 16, 16))[0].items()}
    assert best == {
        "boxes": [4.0, 6.0, 10.0, 14.0],
        "labels": 2,
        "scores": pytest.approx(torch.tensor(3.0).sigmoid().item()),
    }
