"""Networks for masks, boxes and counts: sizes by hand, what is scale-invariant, on which images they run."""

import itertools
import sys

import pytest
import torch
from torch import Tensor, nn

from decayfree import find_invariant
from decayfree.errors import InvalidInputError, MissingExtraError
from decayfree.study.models.detector import Locations
from decayfree.study.models.fcos import FCOS
from decayfree.study.models.fcos_loss import fcos_losses
from decayfree.study.models.networks import COUNTERS, DETECTORS, MODELS, SEGMENTERS
from decayfree.study.models.sizes import Sizes
from decayfree.study.run_settings import MODELS_OF_TASK, OWN_MODELS, ModelSpec
from decayfree.study.tasks.table import TASKS
from support.available import import_or_skip

OURS = {task: own[0] for task, (own, _) in MODELS_OF_TASK.items() if task != "classification"}
LAST = {
    "segmentation": {"classifier.weight"},
    "detection": {"head.class_logits.weight", "head.boxes.weight", "head.centerness.weight"},
    "counting": {"density.weight"},
}


def build(task: str, *, size: tuple[int, int] = (32, 32), width: float = 0.125, seed: int = 0) -> nn.Module:
    sizes = Sizes(n_classes=3, image_size=size, width_factor=width)
    return TASKS[task].build(ModelSpec(name=OURS[task], width_factor=width), sizes, seed)


def images(n: int, height: int, width: int) -> Tensor:
    return torch.randn(n, 3, height, width, generator=torch.Generator().manual_seed(0))


def conv(n_in: int, n_out: int, size: int = 3) -> int:
    """A convolution without bias, and gain and bias of the BatchNorm of its output."""
    return n_in * n_out * size**2 + 2 * n_out


def last(n_in: int, n_out: int, size: int) -> int:
    return (n_in * size**2 + 1) * n_out


def of_unet() -> int:
    widths = [64, 128, 256, 512, 1024]
    encoder = sum(conv(a, b) + conv(b, b) for a, b in zip([3, *widths], widths, strict=False))
    decoder = sum(conv(2 * w, w, 2) + conv(2 * w, w) + conv(w, w) for w in widths[:-1])
    return encoder + decoder + last(64, 3, 1)


def of_fcos() -> int:
    widths = [64, 128, 256, 512]
    stages = sum(
        conv(a, b) + conv(a, b, 1) + 3 * conv(b, b) for a, b in zip([64, *widths], widths, strict=False)
    )
    pyramid = sum(conv(width, 128, 1) + conv(128, 128) for width in widths)
    towers = 2 * 2 * (9 * 128 * 128 + 4 * 2 * 128)  # a norm for each of four levels
    return conv(3, 64) + stages + pyramid + towers + last(128, 3, 3) + last(128, 4, 3) + last(128, 1, 3)


def of_csrnet() -> int:
    widths = [3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512, 256, 128, 64]
    return sum(conv(a, b) for a, b in itertools.pairwise(widths)) + last(64, 1, 1)


@pytest.mark.parametrize(
    ("task", "expected"), [("segmentation", of_unet()), ("detection", of_fcos()), ("counting", of_csrnet())]
)
def test_the_number_of_parameters_is_that_of_the_layers(task: str, expected: int) -> None:
    assert sum(parameter.numel() for parameter in build(task, width=1.0).parameters()) == expected


def test_the_names_that_a_spec_may_hold_are_those_of_the_networks() -> None:
    assert (*MODELS, *SEGMENTERS, *DETECTORS, *COUNTERS) == OWN_MODELS


@pytest.mark.parametrize("task", OURS)
def test_equal_seeds_give_equal_weights_and_move_no_random_state(task: str) -> None:
    before = torch.get_rng_state()
    first, again, other = (build(task, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert first.training
    assert all(map(torch.equal, first.parameters(), again.parameters()))
    assert not all(map(torch.equal, first.parameters(), other.parameters()))


@pytest.mark.parametrize("task", OURS)
@pytest.mark.parametrize("size", [(32, 32), (45, 70)])
def test_images_of_32_pixels_and_of_odd_sizes_are_taken(task: str, size: tuple[int, int]) -> None:
    if task == "detection":
        import_or_skip("torchvision.ops")
    model, (height, width) = build(task, size=size), size
    seen = model.eval()(images(2, height, width))
    if task == "segmentation":
        assert seen.shape == (2, 3, height, width)
    elif task == "counting":
        assert seen.shape == (2, height // 8, width // 8)
    else:
        limit = torch.tensor([width, height, width, height])
        for one in seen:
            assert ((one["boxes"] >= 0) & (one["boxes"] <= limit)).all()
            assert len(one["boxes"]) == len(one["labels"]) == len(one["scores"]) <= 100
            assert not len(one["labels"]) or (one["labels"].min() >= 1 and one["labels"].max() <= 3)


@pytest.mark.parametrize("task", OURS)
def test_all_kernels_but_the_last_are_scale_invariant(task: str) -> None:
    model = build(task)
    found = find_invariant(model, images(16, 32, 32), forward=TASKS[task].outputs)
    kernels = {name for name, parameter in model.named_parameters() if parameter.ndim == 4}
    assert {weight.name for weight in found} == kernels - LAST[task]
    # A transposed convolution has its outputs in columns: its kernels are found, too.
    assert all(set(weight.block_sizes) == {1} for weight in found)


def test_a_network_that_is_not_of_the_task_is_refused() -> None:
    with pytest.raises(
        InvalidInputError, match="vgg4-bn is no network of this task, as unet-bn and deeplab-bn are"
    ):
        TASKS["segmentation"].build(ModelSpec(), Sizes(n_classes=3, image_size=(32, 32)), 0)


def test_torchvision_is_asked_for_where_it_is_needed_only(monkeypatch: pytest.MonkeyPatch) -> None:
    head = FCOS(Sizes(n_classes=2, image_size=(32, 32), width_factor=0.125))
    assert head.head(head.backbone(images(2, 32, 32)))["boxes"].shape == (2, 64 + 16 + 4 + 1, 4)
    monkeypatch.setitem(sys.modules, "torchvision.ops", None)
    with pytest.raises(MissingExtraError, match=r"torchvision cannot be imported.*'decayfree\[models\]'"):
        head.eval()(images(2, 32, 32))


# What each location should say, by hand: four locations of stride 4, 4 pixels apart, and one of stride 8.
LOCATIONS = Locations(
    torch.tensor([[2.0, 2.0], [6.0, 2.0], [2.0, 6.0], [6.0, 6.0], [4.0, 4.0]]),
    torch.tensor([4.0, 4.0, 4.0, 4.0, 8.0]),
)


def losses(
    boxes: list[list[float]],
    labels: list[int],
    *,
    logits: Tensor | None = None,
    said: Tensor | None = None,
    ignored: list[list[float]] | None = None,
) -> dict[str, float]:
    target = {"boxes": torch.tensor(boxes).reshape(-1, 4), "labels": torch.tensor(labels, dtype=torch.long)}
    target["ignored"] = torch.tensor(ignored or []).reshape(-1, 4)
    outputs = {
        "class_logits": torch.full((1, 5, 2), -50.0) if logits is None else logits,
        "boxes": torch.zeros(1, 5, 4) if said is None else said,
        "centerness": torch.zeros(1, 5, 1),
    }
    return {name: loss.item() for name, loss in fcos_losses(outputs, LOCATIONS, [target]).items()}


def test_a_box_belongs_to_the_locations_near_its_middle() -> None:
    import_or_skip("torchvision.ops")
    # Of 6×6 pixels: three strides around its middle hold all four; the first alone says that it is there.
    logits = torch.full((1, 5, 2), -50.0)
    logits[0, :4, 1] = 50.0
    assert losses([[1.0, 1.0, 7.0, 7.0]], [2], logits=logits)["classification"] == pytest.approx(0, abs=1e-9)
    logits[0, 0, 1] = -50.0
    # 0.25·(1 − 0)²·50 nats, over four locations.
    assert losses([[1.0, 1.0, 7.0, 7.0]], [2], logits=logits)["classification"] == pytest.approx(
        0.25 * 50 / 4
    )


def test_the_smallest_of_two_boxes_is_learned() -> None:
    import_or_skip("torchvision.ops")
    small, large = [0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 8.0, 8.0]
    logits = torch.full((1, 5, 2), -50.0)
    logits[0, 0, 0] = logits[0, 1:4, 1] = 50.0
    assert losses([large, small], [2, 1], logits=logits)["classification"] == pytest.approx(0, abs=1e-9)


def test_boxes_that_are_right_cost_nothing_and_centers_count_more() -> None:
    import_or_skip("torchvision.ops")
    box = [[0.0, 0.0, 8.0, 8.0]]
    right = torch.zeros(1, 5, 4)
    for location, (x, y) in enumerate(LOCATIONS.centers[:4].tolist()):
        right[0, location] = (torch.tensor([x, y, 8 - x, 8 - y]) / 4).log()
    of_right = losses(box, [1], said=right)
    assert of_right["boxes"] == pytest.approx(0, abs=1e-6)
    # √(2/6 · 2/6) = 1/3 at each; what it says of centerness is 1/2.
    assert of_right["centerness"] == pytest.approx(-torch.tensor(0.5).log().item(), rel=1e-6)


def test_a_location_in_the_middle_of_its_box_counts_more() -> None:
    import_or_skip("torchvision.ops")
    said = torch.zeros(1, 5, 4)
    said[0, 0] = (torch.tensor([2.0, 2.0, 5.0, 3.0]) / 4).log()  # the first location is right
    # The second, at (6, 2), says the box from (2, -2) to (10, 6): 25 of 74 pixels in common, of 80 around.
    wrong = 1 - (25 / 74 - 6 / 80)
    first, second = (2 / 5 * 2 / 3) ** 0.5, (1 / 6 * 2 / 3) ** 0.5
    expected = wrong * second / (first + second)
    assert losses([[0.0, 0.0, 7.0, 5.0]], [1], said=said)["boxes"] == pytest.approx(expected, rel=1e-5)


def test_large_boxes_are_for_the_coarse_level() -> None:
    import_or_skip("torchvision.ops")
    logits = torch.full((1, 5, 2), -50.0)
    logits[0, 4, 0] = 50.0
    # Its sides are 40 to 44 pixels away: more than the 32 of stride 4.
    large = [[-36.0, -36.0, 48.0, 48.0]]
    assert losses(large, [1], logits=logits)["classification"] == pytest.approx(0, abs=1e-9)


def test_far_from_the_middle_of_a_box_is_none() -> None:
    import_or_skip("torchvision.ops")
    # The nearest location in it is 9 pixels away: more than 1.5 strides.
    assert losses([[0.0, 0.0, 30.0, 8.0]], [1]) == pytest.approx(
        {"classification": 0, "boxes": 0, "centerness": 0}, abs=1e-9
    )


def test_inside_an_ignored_box_no_class_is_learned() -> None:
    import_or_skip("torchvision.ops")
    logits = torch.full((1, 5, 2), -50.0)
    logits[0, 3] = 50.0
    assert losses([], [], logits=logits)["classification"] > 1
    assert losses([], [], logits=logits, ignored=[[5.0, 5.0, 8.0, 8.0]])["classification"] < 1e-9


def test_a_batch_without_boxes_has_losses_and_gradients() -> None:
    import_or_skip("torchvision.ops")
    said = {"class_logits": torch.zeros(1, 5, 2), "boxes": torch.zeros(1, 5, 4)}
    said = {name: values.requires_grad_() for name, values in said.items()}
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long)}
    centerness = torch.zeros(1, 5, 1, requires_grad=True)
    found = fcos_losses({**said, "centerness": centerness}, LOCATIONS, [nothing])
    sum(found.values()).backward()
    assert found["boxes"] == found["centerness"] == 0
    assert all(values.grad.isfinite().all() for values in (*said.values(), centerness))
