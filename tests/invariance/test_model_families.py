"""Does the probe know the weights of real architectures? The families of timm, and torchvision's models.

Which weights are scale-invariant is written down from the architectures; that they are, and that the others
are not, is shown by finite scaling. Skipped where timm or torchvision do not import. With -s the measured
figures are printed.
"""

import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from decayfree import Invariance, find_invariant
from support.available import import_or_skip
from support.claims import UNKNOWN, at_random, movement_in_eval_mode, movement_of_found
from support.oracle import Bench, generic_copy

# Relative movement of the outputs, float64. Measured on the models below: see the printed table.
STILL, MOVED, STILL_IN_EVAL_MODE = 2e-12, 1e-6, 1e-10


@dataclass(frozen=True)
class Family:
    """A model and its scale-invariant weights.

    Attributes:
        family: What the architecture is called.
        model: Its name in the library.
        found: Patterns of the weights that are scale-invariant ...
        but: ... except for these.
        are_kernels: Whether all of them are divided into kernels, or all of them are one block.
        size: Height and width of the images.
        library: Where it is from.
        is_slow: Whether it is left to the slow tests.
        options: For the function that makes the model.
        is_detector: Whether it takes images with their boxes, and returns losses.
    """

    family: str
    model: str
    found: tuple[str, ...] = ("*",)
    but: tuple[str, ...] = ()
    are_kernels: bool = True
    size: int = 64
    library: str = "timm"
    is_slow: bool = False
    options: tuple[tuple[str, object], ...] = ()
    is_detector: bool = False

    def expected(self, model: nn.Module) -> set[str]:
        names = [name for name, parameter in model.named_parameters() if parameter.ndim > 1]
        chosen = (name for name in names if any(fnmatchcase(name, pattern) for pattern in self.found))
        return {name for name in chosen if not any(fnmatchcase(name, pattern) for pattern in self.but)}

    def build(self) -> nn.Module:
        library = import_or_skip(self.library)
        make = library.create_model if self.library == "timm" else library.models.get_model
        with torch.random.fork_rng(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.manual_seed(0)
            return make(self.model, **dict(self.options)).train()

    def inputs(self, seed: int) -> Any:
        generator = torch.Generator().manual_seed(seed)
        if not self.is_detector:
            return torch.randn(4, 3, self.size, self.size, generator=generator)
        corners = torch.rand(2, 3, 2, generator=generator) * self.size / 2
        boxes = torch.cat([corners, corners + self.size / 3], dim=-1)
        targets = [{"boxes": box, "labels": torch.tensor([1, 2, 1])} for box in boxes]
        return list(torch.rand(2, 3, self.size, self.size, generator=generator)), targets


SE = ("*.se.*",)
TORCHVISION_SE = ("*.block.2.fc?.*",)
SMALL_IMAGES = (("img_size", 64),)
FROM_SCRATCH = (("weights", None), ("weights_backbone", None), ("num_classes", 5))
FAMILIES = (
    # Every convolution has a norm behind it; the classifier has none.
    Family("ResNet", "resnet10t", but=("fc.*",)),
    Family("VGG-BN", "vgg11_bn", found=("features.*",), is_slow=True),
    Family("DenseNet", "densenet121", but=("classifier.*",), is_slow=True),
    Family("MobileNetV2", "mobilenetv2_035", but=("classifier.*",)),
    Family("RepVGG", "repvgg_a0", but=("head.*",), is_slow=True),
    Family("DLA", "dla46_c", but=("fc.*",), is_slow=True),
    # The gates of squeeze and excitation end in sigmoids.
    Family("EfficientNet", "efficientnet_b0", but=("classifier.*", *SE), is_slow=True),
    Family("RegNetY", "regnety_002", but=("head.*", *SE)),
    Family("GhostNet", "ghostnet_050", but=("classifier.*", "conv_head.*", *SE)),
    Family("SE-ResNet", "seresnet18", but=("fc.*", *SE), is_slow=True),
    # What is added to the stream is not normalized: neither the last convolution of a block, nor shortcut and
    # stem.
    Family("pre-activation ResNet", "resnetv2_18", found=("stages.*.conv1.weight",)),
    # The weights are standardized kernel by kernel; their gains are numbers and have an effect.
    Family("NF-ResNet", "nf_resnet26", found=("*.weight",), but=("head.*",), is_slow=True),
    # LayerNorm follows the depthwise convolutions and the stem; the rest is added to the stream.
    Family("ConvNeXt", "convnext_atto", found=("stem.0.*", "*.conv_dw.*"), are_kernels=False),
    Family(
        "Swin",
        "swin_tiny_patch4_window7_224",
        found=("patch_embed.*",),
        are_kernels=False,
        is_slow=True,
        options=SMALL_IMAGES,
    ),
    # Norms come first and nothing behind a weight is normalized before it is added.
    Family("ViT", "vit_tiny_patch16_224", found=(), options=(*SMALL_IMAGES, ("depth", 3))),
    Family("Mixer", "mixer_s32_224", found=(), options=SMALL_IMAGES, is_slow=True),
    Family("ResNet", "resnet18", but=("fc.*",), library="torchvision", is_slow=True),
    Family("DenseNet", "densenet121", but=("classifier.*",), library="torchvision", is_slow=True),
    Family("MobileNetV2", "mobilenet_v2", but=("classifier.*",), library="torchvision"),
    Family("VGG-BN", "vgg11_bn", found=("features.*",), library="torchvision", is_slow=True),
    # A segmentation model returns a dict; its classifiers and the gate beside them have no norm.
    Family(
        "LR-ASPP",
        "lraspp_mobilenet_v3_large",
        but=("classifier.scale.*", "classifier.*_classifier.*", *TORCHVISION_SE),
        library="torchvision",
        options=FROM_SCRATCH,
    ),
    # A detection model takes lists and returns losses; only its backbone is normalized.
    Family(
        "Faster R-CNN",
        "fasterrcnn_mobilenet_v3_large_320_fpn",
        found=("backbone.body.*",),
        but=TORCHVISION_SE,
        size=96,
        library="torchvision",
        options=(*FROM_SCRATCH, ("min_size", 96), ("max_size", 96)),
        is_detector=True,
        is_slow=True,
    ),
)


HEADER = f"{'model':67} found others  moved by blocks  in eval mode  by others  discovery"


@dataclass(frozen=True)
class Row:
    """One line of the printed table."""

    family: Family
    n_found: int
    n_others: int
    still: float
    in_eval_mode: float | None
    moved: float
    elapsed_s: float

    def line(self) -> str:
        name = f"{self.family.family}, {self.family.library}'s {self.family.model}"
        in_eval_mode = "-" if self.in_eval_mode is None else f"{self.in_eval_mode:.1e}"
        figures = f"{self.still:15.1e} {in_eval_mode:>13} {self.moved:10.1e} {self.elapsed_s:8.1f} s"
        return f"{name:67} {self.n_found:5} {self.n_others:6} {figures}"


@pytest.fixture(scope="module")
def table() -> Iterator[list[Row]]:
    rows: list[Row] = []
    yield rows
    if rows:
        ordered = sorted(rows, key=lambda row: (row.family.library, row.family.family))
        sys.stdout.write("\n" + "\n".join([HEADER, *(row.line() for row in ordered)]) + "\n")


def cases() -> list:
    return [
        pytest.param(
            family,
            id=f"{family.family} {family.library} {family.model}",
            marks=[pytest.mark.slow] if family.is_slow else [],
        )
        for family in FAMILIES
    ]


@pytest.mark.parametrize("family", cases())
def test_weights_of_real_models(family: Family, table: list[Row], seed: int) -> None:
    model = family.build()
    inputs = family.inputs(seed)
    started = time.perf_counter()
    found = find_invariant(model, inputs)
    elapsed_s = time.perf_counter() - started
    assert found.dtype == torch.float64
    assert {weight.name for weight in found} == family.expected(model)
    assert not any(layer.shift == UNKNOWN for weight in found for layer in weight.norm_layers)
    for weight in found:
        n_rows = sum(weight.block_sizes)
        assert weight.block_sizes == ((1,) * n_rows if family.are_kernels else (n_rows,)), weight.name

    generator = torch.Generator().manual_seed(seed)
    bench = Bench(generic_copy(model), inputs)
    still = movement_of_found(bench, found, half_of_them(generator))
    others = movements_of_weights(bench, found)
    # A detector in eval mode returns boxes and no losses.
    in_eval_mode = None if family.is_detector else movement_in_eval_mode(bench, found, at_random(generator))
    smallest = min(others.values())
    table.append(Row(family, len(found), len(others), still, in_eval_mode, smallest, elapsed_s))
    assert still <= STILL, f"blocks found moved the outputs by {still:.1e} when scaled by 1.7"
    assert smallest >= MOVED, f"weights called not invariant moved the outputs by {others} when scaled by 1.7"
    assert in_eval_mode is None or in_eval_mode <= STILL_IN_EVAL_MODE, (
        f"eval mode moved by {in_eval_mode:.1e}"
    )


def half_of_them(generator: torch.Generator) -> Callable[[int], Tensor]:
    """Scales a random half of the blocks (one always) by 1.7, so that blocks that are too fine would show."""
    return lambda n: 1.0 + 0.7 * (torch.rand(n, generator=generator) < (0.5 if n > 1 else 2.0)).double()


def movements_of_weights(bench: Bench, found: Invariance) -> dict[str, float]:
    """How far outputs move when each weight (no gain, no bias) called not invariant is scaled by 1.7."""
    return {
        name: bench.movement_when_scaled(name, 1.7)
        for name, verdict in found.verdicts.items()
        if verdict.verdict == "not_invariant" and len(verdict.shape) > 1
    }
