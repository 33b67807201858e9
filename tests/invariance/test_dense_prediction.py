"""Networks with several heads and levels: verdicts against really scaling weights, and the losses against it.

Detectors and segmenters of torchvision and segmentation-models-pytorch, with small backbones; what they are
asked for is what studies ask.
"""

import contextlib
import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from decayfree import Invariance, WeightRescaling, find_invariant
from decayfree.study.models.backbone import freeze_
from decayfree.study.run_settings import Recipe
from decayfree.study.tasks.detection import Detection
from decayfree.study.tasks.segmentation import Segmentation
from support.available import import_or_skip
from support.hand_made_scenes import scenes
from support.oracle import Bench, expand, generic_copy, outputs, random_factors, scale_rows_

STILL, MOVED = 1e-9, 1e-4
N_IMAGES = 4


def resnet() -> nn.Module:
    """A residual network of four blocks."""
    torchvision = import_or_skip("torchvision")
    return torchvision.models.resnet.ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1])


def pyramid() -> nn.Module:
    """Its stem and three of its blocks, with a pyramid of five levels and 64 channels."""
    detection = import_or_skip("torchvision.models.detection.backbone_utils")
    layers = ("relu", "layer1", "layer2", "layer3")
    return detection.BackboneWithFPN(
        resnet(),
        return_layers={layer: str(number) for number, layer in enumerate(layers)},
        in_channels_list=[64, 64, 128, 256],
        out_channels=64,
    )


def of_torchvision(name: str) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        detection = import_or_skip("torchvision.models.detection")
        plain = {"min_size": 32, "max_size": 32, "image_mean": [0.0] * 3, "image_std": [1.0] * 3}
        if name == "FasterRCNN":
            align = import_or_skip("torchvision.ops").MultiScaleRoIAlign
            pool = align(["0", "1", "2", "3"], output_size=3, sampling_ratio=2)
            head = detection.faster_rcnn.TwoMLPHead(64 * 3**2, 32)
            says = detection.faster_rcnn.FastRCNNPredictor(32, 3)
            return detection.FasterRCNN(
                pyramid(), box_roi_pool=pool, box_head=head, box_predictor=says, **plain
            )
        return getattr(detection, name)(pyramid(), 3, **plain)

    return make


def deeplab() -> nn.Module:
    segmentation = import_or_skip("torchvision.models.segmentation")
    getter = import_or_skip("torchvision").models._utils.IntermediateLayerGetter
    body = getter(resnet(), return_layers={"layer3": "out", "layer2": "aux"})
    head = segmentation.deeplabv3.DeepLabHead(256, 3)
    return segmentation.DeepLabV3(body, head, segmentation.fcn.FCNHead(128, 3))


def unet() -> nn.Module:
    smp = import_or_skip("segmentation_models_pytorch")
    return smp.Unet("resnet18", encoder_weights=None, classes=3, decoder_channels=(64, 32, 16, 16, 8))


DETECTORS = {name: of_torchvision(name) for name in ("FasterRCNN", "RetinaNet", "FCOS")}
MODELS = {**DETECTORS, "DeepLabV3": deeplab, "Unet": unet}
# Beside the convolutions of the body: what each network normalizes, by the beginning of its name.
NORMALIZED = {
    "FasterRCNN": (),
    "RetinaNet": (),
    "FCOS": ("head.classification_head.conv", "head.regression_head.conv"),
    "DeepLabV3": ("classifier.0", "classifier.1", "aux_classifier.0"),
    "Unet": ("decoder.",),
}
EVERY_MODEL = pytest.mark.parametrize("name", MODELS)


def task_of(name: str) -> Detection | Segmentation:
    return Detection() if name in DETECTORS else Segmentation()


def inputs() -> Tensor:
    return scenes("detection", n=N_IMAGES)[0]


def losses_of(name: str) -> Callable[[nn.Module, Tensor], Tensor]:
    """What a step of training computes."""
    task = task_of(name)
    _, truth = scenes("detection" if name in DETECTORS else "segmentation", n=N_IMAGES)
    return lambda model, images: task.loss(model, images, truth, Recipe())


def in_double(name: str, forward: Callable[[nn.Module, Tensor], Tensor]) -> Callable[..., Tensor]:
    if name not in DETECTORS:
        return forward

    def run(model: nn.Module, images: Tensor) -> Tensor:
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        try:
            return forward(model, images)
        finally:
            torch.set_default_dtype(before)

    return run


@pytest.fixture(scope="module")
def known() -> Callable[[str], tuple[nn.Module, Invariance]]:
    kept: dict[str, tuple[nn.Module, Invariance]] = {}

    def look(name: str) -> tuple[nn.Module, Invariance]:
        if name not in kept:
            torch.manual_seed(0)
            model = MODELS[name]()
            kept[name] = model, find_invariant(model, inputs(), forward=task_of(name).outputs)
        return kept[name]

    return look


def kernels(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.ndim > 1}


@EVERY_MODEL
def test_what_a_norm_follows_is_found_and_nothing_else(name: str, known: Callable) -> None:
    model, found = known(name)
    body = ("backbone.body.", "backbone.conv1", "backbone.layer", "encoder.")
    expected = {one for one in kernels(model) if one.startswith((*body, *NORMALIZED[name]))}
    assert {weight.name for weight in found} == expected
    assert not [one for one in kernels(model) if found.verdicts[one].verdict == "undecided"]


@EVERY_MODEL
def test_losses_stay_when_blocks_are_scaled_up_and_down(name: str, known: Callable, seed: int) -> None:
    model, found = known(name)
    bench = Bench(generic_copy(model), inputs(), forward=in_double(name, losses_of(name)))
    generator = torch.Generator().manual_seed(seed)

    def scale_all(model: nn.Module) -> None:
        for weight in found:
            factors = random_factors(len(weight.block_sizes), generator)
            parameter = model.get_parameter(weight.name)
            rows = expand(factors, weight.block_sizes, weight.starts, len(parameter))
            scale_rows_(parameter, rows, axis=weight.axis, groups=weight.groups)
            if weight.bias is not None:
                scale_rows_(model.get_parameter(weight.bias), rows)

    for _ in range(3):
        assert bench.movement_after(scale_all) < STILL


@EVERY_MODEL
def test_heads_say_something_else_when_anything_else_is_scaled(name: str, known: Callable) -> None:
    model, found = known(name)
    # Not of losses: a focal loss of what is unlikely hardly knows what it is of.
    bench = Bench(generic_copy(model), inputs(), forward=task_of(name).outputs)
    others = kernels(model) - {weight.name for weight in found}
    assert others
    for one in sorted(others):
        for factor in (0.5, 2.0):
            assert bench.movement_when_scaled(one, factor) > MOVED, one


@EVERY_MODEL
def test_under_frozen_norms_of_the_backbone_nothing_there_has_no_scale(name: str) -> None:
    model = MODELS[name]()
    body = next(
        part for key, part in model.named_modules() if key in ("backbone.body", "backbone", "encoder")
    )
    body = getattr(body, "body", body)
    freeze_(body)
    are_all = not any(module.training for module in model.modules() if hasattr(module, "running_var"))
    with pytest.warns(UserWarning, match="in eval mode") if are_all else contextlib.nullcontext():
        found = find_invariant(model, inputs(), forward=task_of(name).outputs)
    inside = {id(parameter) for parameter in body.parameters()}
    of_body = [key for key, parameter in model.named_parameters() if id(parameter) in inside]
    assert not [key for key in of_body if found.holds(key)]
    convolutions = [key for key in of_body if key in kernels(model)]
    assert {found.verdicts[key].verdict for key in convolutions} == {"not_invariant"}
    norms = {key for key in of_body if key not in convolutions}
    assert {found.verdicts[key].verdict for key in norms} == {"frozen"}
    said = " ".join(str(found).split())
    assert "(in eval mode, " in said
    assert "divide by fixed numbers)" in said
    assert bool(len(found)) is bool(NORMALIZED[name])


@EVERY_MODEL
def test_rescaling_a_network_with_a_trained_backbone_changes_nothing_it_computes(name: str) -> None:
    torch.manual_seed(0)
    model, forward = MODELS[name](), losses_of(name)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    for _ in range(3):
        optimizer.zero_grad()
        forward(model, inputs()).backward()
        optimizer.step()
    asked = task_of(name).outputs
    found = find_invariant(model, inputs(), forward=asked)
    before = [each(copy.deepcopy(model)) for each in (nn.Module.train, nn.Module.eval)]
    WeightRescaling(optimizer, found, radius=3.0)
    for old, mode in zip(before, (nn.Module.train, nn.Module.eval), strict=True):
        new = mode(copy.deepcopy(model))
        expected = outputs(old, inputs(), forward=asked, dtype=torch.float32)
        for seen, wanted in zip(
            outputs(new, inputs(), forward=asked, dtype=torch.float32), expected, strict=True
        ):
            assert float((seen - wanted).abs().max() / wanted.abs().max()) < 1e-3
    for weight, part in zip(found, found.parts().values(), strict=True):
        radius = 3.0 * torch.tensor(weight.block_sizes).sqrt()  # a row's, of as many rows as a block has
        torch.testing.assert_close(part.norms().flatten().detach(), radius)


class TwoHeads(nn.Module):
    """A convolution for two heads: the first normalizes all of it, the second, maybe, its half of it."""

    def __init__(self, *, both: bool) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, bias=False)
        self.first_norm, self.first = nn.BatchNorm2d(6), nn.Conv2d(6, 2, 1)
        self.second_norm = nn.BatchNorm2d(6) if both else nn.Identity()
        self.second = nn.Conv2d(3, 2, 1)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        features = self.stem(images)
        return {
            "first": self.first(self.first_norm(features)),
            "second": self.second(self.second_norm(features)[:, 3:]),
        }


def test_only_what_every_head_normalizes_is_held() -> None:
    torch.manual_seed(0)
    images = torch.randn(8, 3, 8, 8)
    by_both = find_invariant(TwoHeads(both=True), images)
    assert [weight.name for weight in by_both] == ["stem.weight"]
    assert by_both["stem.weight"].block_sizes == (1,) * 6
    assert len(by_both["stem.weight"].norm_layers) == 2
    by_one = find_invariant(TwoHeads(both=False), images)
    # The second head sees the last three channels as they are; the first three are for the first head alone.
    assert by_one["stem.weight"].starts == (0, 1, 2)
    assert by_one["stem.weight"].block_sizes == (1, 1, 1)
