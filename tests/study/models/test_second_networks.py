"""DeepLab, TTFNet and MCNN: sizes by hand, what is scale-invariant, what TTFNet learns, that all learn.

The first network of each task is in `test_networks_of_tasks`.
"""

import copy
import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from decayfree import find_invariant
from decayfree.study.data.truth import Ragged, Truth
from decayfree.study.models.deeplab import DeepLab
from decayfree.study.models.detector import padded
from decayfree.study.models.sizes import Sizes
from decayfree.study.models.ttfnet import TTFNet
from decayfree.study.models.ttfnet_loss import boxes_of, class_maps, gaussians_of, ttfnet_losses
from decayfree.study.run_settings import MODELS_OF_TASK, ModelSpec, Recipe
from decayfree.study.tasks.table import TASKS
from support.available import import_or_skip

SECOND = {task: own[1] for task, (own, _) in MODELS_OF_TASK.items() if task != "classification"}
# What no norm follows.
LAST = {
    "segmentation": {"classifier.weight"},
    "detection": {"head.class_logits.3.weight", "head.sides.3.weight"},
    "counting": {"density.weight"},
}
N_CLASSES = 3


def build(task: str, *, size: tuple[int, int] = (32, 32), width: float = 0.125, seed: int = 0) -> nn.Module:
    sizes = Sizes(n_classes=N_CLASSES, image_size=size, width_factor=width)
    return TASKS[task].build(ModelSpec(name=SECOND[task], width_factor=width), sizes, seed)


def images(n: int, height: int, width: int) -> Tensor:
    return torch.randn(n, 3, height, width, generator=torch.Generator().manual_seed(0))


def squares(task: str, *, n: int = 4) -> tuple[Tensor, Truth]:
    """Images of 32×32 pixels with a bright square of each of two classes, and what is true of them."""
    inputs, masks, rows = 0.3 * images(n, 32, 32), torch.zeros(n, 32, 32, dtype=torch.uint8), []
    for image, (label, side) in itertools.product(range(n), enumerate((8, 10))):
        left, top = 3 + 15 * label + image % 3, 2 + 5 * (image % 4)
        inputs[image, label, top : top + side, left : left + side] += 2
        masks[image, top : top + side, left : left + side] = label + 1
        rows.append([left, top, left + side, top + side, label, 0])
    boxes = Ragged(torch.tensor(rows, dtype=torch.float32), torch.full((n,), 2))
    points = Ragged((boxes.rows[:, :2] + boxes.rows[:, 2:4]) / 2, boxes.counts)
    return inputs, {"segmentation": masks, "detection": boxes, "counting": points}[task]


def conv(n_in: int, n_out: int, size: int = 3) -> int:
    """A convolution without bias, and gain and bias of the BatchNorm of its output."""
    return n_in * n_out * size**2 + 2 * n_out


def last(n_in: int, n_out: int) -> int:
    return (n_in + 1) * n_out


def of_body() -> int:
    widths = [64, 64, 128, 256, 512]
    stages = sum(conv(a, b) + conv(a, b, 1) + 3 * conv(b, b) for a, b in itertools.pairwise(widths))
    return conv(3, 64) + stages


def of_deeplab() -> int:
    pooling = 2 * conv(512, 256, 1) + 3 * conv(512, 256) + conv(5 * 256, 256, 1)
    decoder = conv(64, 48, 1) + conv(256 + 48, 128) + conv(128, 128)
    return of_body() + pooling + decoder + last(128, N_CLASSES)


def of_ttfnet() -> int:
    upsampling = conv(512, 256, 4) + 2 * conv(256, 256, 4)
    return of_body() + upsampling + 2 * conv(256, 256) + sum(last(256, n) for n in (N_CLASSES, 4))


def of_mcnn() -> int:
    large = conv(3, 16, 9) + conv(16, 32, 7) + conv(32, 16, 7) + conv(16, 8, 7)
    middle = conv(3, 20, 7) + conv(20, 40, 5) + conv(40, 20, 5) + conv(20, 10, 5)
    small = conv(3, 24, 5) + conv(24, 48, 3) + conv(48, 24, 3) + conv(24, 12, 3)
    return large + middle + small + last(8 + 10 + 12, 1)


@pytest.mark.parametrize(
    ("task", "expected"),
    [("segmentation", of_deeplab()), ("detection", of_ttfnet()), ("counting", of_mcnn())],
)
def test_the_number_of_parameters_is_that_of_the_layers(task: str, expected: int) -> None:
    assert sum(parameter.numel() for parameter in build(task, width=1.0).parameters()) == expected


@pytest.mark.parametrize("task", SECOND)
@pytest.mark.parametrize("width", [1 / 64, 1 / 16, 0.25])
@pytest.mark.parametrize("size", [(32, 32), (64, 64), (96, 96), (45, 70)])
def test_images_from_32_pixels_are_taken_at_any_width(task: str, width: float, size: tuple[int, int]) -> None:
    model, (height, columns) = build(task, size=size, width=width), size
    seen = model.eval()(images(2, height, columns))
    if task == "segmentation":
        assert seen.shape == (2, N_CLASSES, height, columns)
    elif task == "counting":
        assert seen.shape == (2, height // 4, columns // 4)
    else:
        limit = torch.tensor([columns, height, columns, height])
        for one in seen:
            assert ((one["boxes"] >= 0) & (one["boxes"] <= limit)).all()
            assert len(one["boxes"]) == len(one["labels"]) == len(one["scores"])
            assert 0 < len(one["boxes"]) <= 100
            assert set(one["labels"].tolist()) <= {1, 2, 3}
            assert torch.equal(one["scores"], one["scores"].sort(descending=True).values)


@pytest.mark.parametrize("task", SECOND)
def test_equal_seeds_give_equal_weights(task: str) -> None:
    first, again, other = (build(task, seed=seed) for seed in (1, 1, 2))
    assert first.training
    assert all(map(torch.equal, first.parameters(), again.parameters()))
    assert not all(map(torch.equal, first.parameters(), other.parameters()))


@pytest.mark.parametrize("task", SECOND)
def test_a_batch_of_one_image_is_trained_on(task: str, seed: int) -> None:
    inputs, truth = squares(task)
    model = build(task)
    TASKS[task].loss(model, inputs[:1], truth[:1], Recipe()).backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("task", SECOND)
@pytest.mark.parametrize("side", [32, 64])
def test_what_is_found_scale_invariant_is_what_can_be_scaled(task: str, side: int) -> None:
    model, inputs = build(task, size=(side, side)), images(8, side, side)
    found = find_invariant(model, inputs, forward=TASKS[task].outputs)
    assert {weight.name for weight in found} == {
        name for name, kernels in model.named_parameters() if kernels.ndim == 4 and name not in LAST[task]
    }
    assert all(set(weight.block_sizes) == {1} for weight in found)
    assert {weight.name for weight in found} == kernels_that_can_be_scaled(task, model, inputs)


def kernels_that_can_be_scaled(task: str, model: nn.Module, inputs: Tensor) -> set[str]:
    """Those that double, one of their outputs alone, without moving what the network says."""
    exact = copy.deepcopy(model).double()
    for module in exact.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-300  # else it takes away the scale of large inputs only
    still = set()
    for name, module in exact.named_modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            of_output = module.weight.movedim(1 if isinstance(module, nn.ConvTranspose2d) else 0, 0)[-1]
            with torch.no_grad():
                before = said(task, exact, inputs)
                of_output.mul_(2)
                moved = (said(task, exact, inputs) - before).abs().max() / before.abs().max()
                of_output.div_(2)
            assert moved < 1e-9 or moved > 1e-5, f"{name} moves outputs by {moved:.1e}"
            still |= {f"{name}.weight"} if moved < 1e-9 else set()
    return still


def said(task: str, model: nn.Module, inputs: Tensor) -> Tensor:
    outputs = TASKS[task].outputs(model, inputs.double())
    return torch.cat([one.flatten() for one in (outputs.values() if task == "detection" else [outputs])])


# The task, and the score to reach.
@pytest.mark.parametrize(("task", "reached"), [("segmentation", 0.95), ("detection", 0.8), ("counting", 0.9)])
def test_a_network_learns_a_few_images_by_heart(task: str, reached: float, seed: int) -> None:
    if task == "detection":
        import_or_skip("pycocotools")
    model, (inputs, truth) = build(task), squares(task)
    before = TASKS[task].evaluate(model, [(inputs, truth)])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(80):
        loss = TASKS[task].loss(model, inputs, truth, Recipe())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    after = TASKS[task].evaluate(model, [(inputs, truth)])
    assert before.score < reached / 2
    assert after.score > reached
    assert after.loss < before.loss


def test_the_body_of_deeplab_ends_at_a_stride_of_8() -> None:
    model = DeepLab(Sizes(n_classes=2, image_size=(64, 64), width_factor=0.125))
    assert [level.shape[-1] for level in model.backbone(images(2, 64, 64))] == [32, 16, 8, 8, 8]


def test_deeplab_is_dilated_where_it_does_not_halve() -> None:
    model = DeepLab(Sizes(n_classes=2, image_size=(64, 64), width_factor=0.125))

    def dilations(part: nn.Module) -> list[int]:
        kernels = (module for module in part.modules() if isinstance(module, nn.Conv2d))
        return [one.dilation[0] for one in kernels if one.kernel_size == (3, 3)]

    assert [dilations(stage) for stage in model.backbone.stages] == [[1] * 4, [1] * 4, [2] * 4, [2] * 4]
    assert dilations(model.pooling) == [1, 2, 3]


@pytest.mark.parametrize("task", ["segmentation", "detection"])
def test_no_kernel_of_one_pixel_has_a_stride(task: str) -> None:
    kernels = [module for module in build(task).modules() if isinstance(module, nn.Conv2d)]
    assert {one.stride for one in kernels if one.kernel_size == (1, 1)} == {(1, 1)}


def test_the_branch_of_the_whole_image_has_the_norm_of_a_number_for_each_image(seed: int) -> None:
    pooling = DeepLab(Sizes(n_classes=2, image_size=(32, 32), width_factor=0.125)).pooling
    inputs = torch.randn(4, 64, 5, 6)
    pooled = pooling.of_image(inputs.mean(dim=(2, 3), keepdim=True))
    spread = pooling.norm_of_image(pooled.expand(-1, -1, 5, 6))
    torch.testing.assert_close(spread[:, :, :1, :1], pooling.norm_of_image(pooled))


@pytest.mark.parametrize(("side", "stride"), [(32, 2), (64, 2), (95, 2), (96, 4), (128, 4)])
def test_small_images_have_a_finer_map_of_objects(side: int, stride: int) -> None:
    model = TTFNet(Sizes(n_classes=2, image_size=(side, side), width_factor=1 / 64))
    assert model.stride == stride
    whole_doublings = math.ceil(side / stride / 8) * 8
    assert model.backbone(images(2, side, side)).shape[-1] == whole_doublings


def target(
    boxes: list[list[float]], labels: list[int], ignored: list[list[float]] | None = None
) -> dict[str, Tensor]:
    return {
        "boxes": torch.tensor(boxes).reshape(-1, 4),
        "labels": torch.tensor(labels, dtype=torch.long),
        "ignored": torch.tensor(ignored or []).reshape(-1, 4),
    }


def maps_of(
    targets: list[dict[str, Tensor]], *, n_classes: int, map_size: tuple[int, int], stride: int = 2
) -> Tensor:
    boxes, labels = padded(targets)
    return class_maps(gaussians_of(boxes, stride, map_size), labels, n_classes=n_classes)


def test_a_class_map_has_a_peak_of_1_where_a_box_has_its_middle() -> None:
    two = target([[-12.0, 0.0, 16.0, 8.0], [9.0, 0.0, 11.0, 2.0]], [2, 1])
    maps = maps_of([two, target([], [])], n_classes=2, map_size=(4, 6))
    assert (maps == 1).nonzero().tolist() == [[0, 0, 0, 5], [0, 1, 2, 1]]
    # Of 14×4 strides: deviations of 0.54 / 6 of that.
    across, down = (-0.5 / (0.09 * side) ** 2 for side in (14, 4))
    assert maps[0, 1, 2, 2].item() == pytest.approx(math.exp(across), rel=1e-5)
    assert maps[0, 1, 3, 3].item() == pytest.approx(math.exp(4 * across + down), rel=1e-5)
    assert not maps[1].any()


def test_of_two_boxes_of_a_class_the_nearer_middle_counts() -> None:
    boxes = [[0.0, 0.0, 8.0, 8.0], [6.0, 0.0, 14.0, 8.0]]
    alone = [maps_of([target([box], [1])], n_classes=1, map_size=(4, 8)) for box in boxes]
    both = maps_of([target(boxes, [1, 1])], n_classes=1, map_size=(4, 8))
    assert torch.equal(both, torch.maximum(*alone))


def losses(
    targets: list[dict[str, Tensor]], *, logits: Tensor | None = None, **others: Tensor
) -> dict[str, float]:
    """On maps of 4×4 locations, 2 pixels apart, and two classes; nothing is seen but what is given."""
    n = len(targets)
    outputs = {
        "class_logits": torch.full((n, 2, 4, 4), -50.0) if logits is None else logits,
        "sides": torch.zeros(n, 4, 4, 4),
        **others,
    }
    return {name: loss.item() for name, loss in ttfnet_losses(outputs, 2, targets).items()}


def test_the_loss_of_a_middle_that_is_not_seen_is_the_focal_loss() -> None:
    logits = torch.full((1, 2, 4, 4), -50.0)
    box = [target([[1.0, 2.0, 5.0, 6.0]], [2])]  # its middle, (3, 4), is in row 2 and column 1
    assert losses(box, logits=logits)["classification"] == pytest.approx(50)
    logits[0, 1, 2, 1] = 0.0  # a probability of 1/2: (1/2)² ln 2
    assert losses(box, logits=logits)["classification"] == pytest.approx(math.log(2) / 4)


def test_a_wrong_middle_costs_less_near_to_a_right_one() -> None:
    box = [target([[-11.0, -10.0, 17.0, 18.0]], [2])]
    near = maps_of(box, n_classes=2, map_size=(4, 4))[0, 1, 2, 2].item()
    logits = torch.full((1, 2, 4, 4), -50.0)
    logits[0, 1, 2, 1], logits[0, 1, 2, 2] = 50.0, 0.0
    expected = (1 - near) ** 4 / 4 * math.log(2)
    assert 0 < near < 1
    assert losses(box, logits=logits)["classification"] == pytest.approx(expected, rel=1e-5)
    logits[0, 1, 2, 2], logits[0, 0, 0, 3] = -50.0, 0.0  # far, and of another class
    assert losses(box, logits=logits)["classification"] == pytest.approx(math.log(2) / 4)


def distances_to(box: list[float]) -> Tensor:
    """Logarithms of the distances in strides of 4×4 locations, 2 pixels apart, to the sides of a box."""
    at = torch.arange(1.0, 8.0, 2.0)
    left, right = (at - box[0]).expand(4, 4), (box[2] - at).expand(4, 4)
    top, bottom = (at - box[1])[:, None].expand(4, 4), (box[3] - at)[:, None].expand(4, 4)
    return (torch.stack([left, top, right, bottom]) / 2).clamp(min=1e-9).log()


def test_the_distances_of_all_locations_to_a_box_are_that_box() -> None:
    box = [-3.0, -2.0, 9.0, 11.0]
    torch.testing.assert_close(boxes_of(distances_to(box), 2), torch.tensor(box).expand(4, 4, 4))


def test_sides_are_learned_around_middles_by_the_gaussian_and_the_logarithm_of_the_area() -> None:
    large, small = [-12.0, -12.0, 16.0, 16.0], [5.0, 5.0, 7.0, 7.0]
    two = [target([large], [2]), target([small], [1])]
    right = torch.stack([distances_to(large), distances_to(small)])
    assert losses(two, sides=right)["boxes"] == pytest.approx(0, abs=1e-6)
    # The small box's one location is wrong: 1×1 for 2×2, in its middle, so that IoU and GIoU are 1/4.
    wrong = right.clone()
    wrong[1, :, 3, 3] = math.log(0.5) + right[1, :, 3, 3]
    of_small, of_large = math.log(1 + 4), math.log(1 + 28**2)
    expected = 5 * 0.75 * of_small / (of_small + of_large)
    assert losses(two, sides=wrong)["boxes"] == pytest.approx(expected, rel=1e-5)
    # One location of the large box: by its share of the box's Gaussian.
    wrong = right.clone()
    wrong[0, :, 0, 0] = math.log(0.5) + right[0, :, 0, 0]
    gaussian = gaussians_of(torch.tensor([[large]]), 2, (4, 4))[0, 0]
    share = float(gaussian[0, 0] / gaussian.sum())
    said, true = (boxes_of(one[0], 2)[0, 0] for one in (wrong, right))
    covered = (said[2:] - said[:2]).prod() / (true[2:] - true[:2]).prod()  # said lies within true
    expected = 5 * (1 - float(covered)) * share * of_large / (of_small + of_large)
    assert losses(two, sides=wrong)["boxes"] == pytest.approx(expected, rel=1e-4)


def test_where_gaussians_meet_a_location_learns_the_smaller_box() -> None:
    large, small = [-12.0, -12.0, 16.0, 16.0], [5.0, 1.0, 7.0, 3.0]
    sides = distances_to(large)
    sides[:, 1, 3] = distances_to(small)[:, 1, 3]
    both = [target([large, small], [1, 2])]
    assert losses(both, sides=sides[None])["boxes"] == pytest.approx(0, abs=1e-6)
    assert losses(both, sides=distances_to(large)[None])["boxes"] > 0.1


def test_inside_an_ignored_box_no_class_is_learned() -> None:
    logits = torch.full((1, 2, 4, 4), -50.0)
    logits[0, :, 1:3, 2] = 50.0
    assert losses([target([], [])], logits=logits)["classification"] == pytest.approx(4 * 50)
    around_both = [target([], [], ignored=[[4.0, 2.0, 6.0, 6.0]])]
    assert losses(around_both, logits=logits)["classification"] < 1e-9
    around_one = [target([], [], ignored=[[4.0, 2.0, 6.0, 4.0]])]
    assert losses(around_one, logits=logits)["classification"] == pytest.approx(2 * 50)


def test_a_box_in_an_ignored_one_is_learned() -> None:
    one = [target([[1.0, 2.0, 5.0, 6.0]], [2], ignored=[[0.0, 0.0, 8.0, 8.0]])]
    assert losses(one)["classification"] == pytest.approx(50)


def test_a_batch_without_boxes_has_losses_and_gradients() -> None:
    shapes = {"class_logits": (1, 2, 4, 4), "sides": (1, 4, 4, 4)}
    outputs = {name: torch.zeros(shape, requires_grad=True) for name, shape in shapes.items()}
    found = ttfnet_losses(outputs, 2, [target([], [])])
    torch.stack(list(found.values())).sum().backward()
    assert found["boxes"] == 0
    assert all(values.grad is not None and values.grad.isfinite().all() for values in outputs.values())


def test_a_middle_outside_of_the_image_is_at_the_nearest_location() -> None:
    maps = maps_of([target([[6.0, -6.0, 14.0, 2.0]], [1])], n_classes=1, map_size=(4, 4))
    assert (maps == 1).nonzero().tolist() == [[0, 0, 0, 3]]


def test_a_middle_is_improbable_before_training() -> None:
    model = TTFNet(Sizes(n_classes=2, image_size=(32, 32), width_factor=0.125))
    probability = model.head(model.backbone(images(4, 32, 32)))["class_logits"].sigmoid()
    assert probability.mean().item() == pytest.approx(0.1, abs=0.05)


class SaidByHand(nn.Module):
    """Two neighbours of one class, of which one is a peak, and one that is hardly seen."""

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        logits = torch.full((1, 2, 8, 8), -50.0)
        logits[0, 1, 3, 2], logits[0, 1, 3, 3], logits[0, 0, 7, 7] = 90.0, 80.0, -4.0
        sides = torch.full((1, 4, 8, 8), -9.0)
        sides[0, :, 3, 2] = torch.tensor([5.0, 1.0, 5.0, 1.0]).log()
        return {"class_logits": logits, "sides": sides}


def test_boxes_are_those_of_peaks_within_the_image() -> None:
    model = TTFNet(Sizes(n_classes=2, image_size=(16, 16), width_factor=1 / 64)).eval()
    model.head = SaidByHand()
    (seen,) = model(images(1, 32, 32)[:, :, :16, :16])
    # In the middle of row 3 and column 2, at (5, 7): 10 pixels to the left and the right, 2 up and down.
    torch.testing.assert_close(seen["boxes"], torch.tensor([[0.0, 5.0, 15.0, 9.0]]))
    assert seen["labels"].tolist() == [2]
    assert seen["scores"].tolist() == [1.0]
