"""Models of timm and torchvision in studies: classes, seeds, and one clear error for every bad name.

Skipped, each with its reason, where the library does not import.
"""

import sys
import types

import pytest
import torch
from torch import nn

from decayfree import find_invariant
from decayfree.errors import InvalidInputError, MissingExtraError
from decayfree.study.models import build_model
from decayfree.study.run_settings import ModelSpec
from support.available import import_or_skip


def build(name: str, *, n_classes: int = 7, size: int = 32, n_channels: int = 3, seed: int = 0) -> nn.Module:
    return build_model(
        ModelSpec(name=name, width_factor=1.0),
        n_classes=n_classes,
        image_size=(size, size),
        n_channels=n_channels,
        seed=seed,
    )


SMALL = [("timm", "test_resnet"), ("timm", "test_vit"), ("torchvision", "shufflenet_v2_x0_5")]


@pytest.mark.parametrize(("library", "name"), SMALL)
def test_a_model_of_a_library_has_the_classes_of_the_data_and_the_weights_of_the_seed(library, name):
    import_or_skip(library)
    before = torch.get_rng_state()
    first, again, other = (build(f"{library}:{name}", seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert first.training
    assert first(torch.randn(2, 3, 32, 32)).shape == (2, 7)
    pairs = list(zip(again.parameters(), other.parameters(), strict=True))
    build_again = build(f"{library}:{name}", seed=1)
    assert all(torch.equal(a, b) for a, b in zip(build_again.parameters(), again.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in pairs)


def test_trying_a_model_out_leaves_its_running_statistics_alone():
    import_or_skip("torchvision")
    model = build("torchvision:shufflenet_v2_x0_5")
    statistics = [value for key, value in model.state_dict().items() if key.endswith("num_batches_tracked")]
    assert statistics
    assert not any(statistics)


def test_a_model_of_one_image_size_is_made_for_that_of_the_data():
    import_or_skip("timm")
    assert build("timm:test_vit", size=48).patch_embed.img_size == (48, 48)


def test_the_convolutions_of_a_librarys_resnet_are_found():
    import_or_skip("timm")
    model = build("timm:test_resnet")
    found = find_invariant(model, torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    convolutions = {f"{key}.weight" for key, module in model.named_modules() if isinstance(module, nn.Conv2d)}
    assert {weight.name for weight in found} == convolutions


def test_nothing_is_downloaded(monkeypatch):
    import_or_skip("torchvision.models")

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("a download was tried")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    build("torchvision:shufflenet_v2_x0_5")


@pytest.mark.parametrize(("package", "library"), [("torchvision.models", "torchvision"), ("timm", "timm")])
def test_an_unknown_model_of_a_library_is_answered_with_its_likes(package, library):
    import_or_skip(package)
    with pytest.raises(
        InvalidInputError, match=rf"{library} has no model 'resnet19'; did you mean resnet\d+"
    ):
        build(f"{library}:resnet19")


@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_a_library_that_is_not_installed_is_named_with_its_extra(library, monkeypatch):
    for name in (library, f"{library}.models"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(
        MissingExtraError, match=rf"{library} cannot be imported.*pip install 'decayfree\[models\]'"
    ):
        build(f"{library}:resnet18")


def test_a_library_that_does_not_fit_this_torch_is_named_with_what_it_says(monkeypatch):
    def fails(name: str) -> types.ModuleType:
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr("decayfree.study.models.libraries.importlib.import_module", fails)
    with pytest.raises(
        MissingExtraError, match=r"timm is installed but cannot be imported: operator torchvision"
    ):
        build("timm:resnet18")


def fake_timm(make: object) -> types.ModuleType:
    """A library whose every model is what ``make`` returns."""
    timm = types.ModuleType("timm")
    timm.is_model = lambda name: True
    timm.create_model = lambda name, **options: make()
    timm.models = types.SimpleNamespace(get_pretrained_cfg=lambda name: None)
    return timm


class Returns(nn.Module):
    """A model whose output is what it was made with."""

    def __init__(self, output: object) -> None:
        super().__init__()
        self.output = output

    def forward(self, images: torch.Tensor) -> object:
        return self.output


@pytest.mark.parametrize(
    ("output", "said"),
    [
        (
            {"out": torch.zeros(2, 7)},
            r"timm:net is no classifier: expected logits of shape \(2, 7\), got dict",
        ),
        (torch.zeros(2, 5), r"timm:net is no classifier: expected logits of shape \(2, 7\), got \(2, 5\)"),
    ],
)
def test_a_model_that_is_no_classifier_is_refused(output, said, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", fake_timm(lambda: Returns(output)))
    with pytest.raises(InvalidInputError, match=said):
        build("timm:net")


def test_a_model_that_cannot_be_made_or_run_is_named_in_the_error(monkeypatch):
    def fails() -> nn.Module:
        raise TypeError("three things are missing")

    monkeypatch.setitem(sys.modules, "timm", fake_timm(fails))
    with pytest.raises(
        InvalidInputError, match=r"timm:net cannot be trained on images of 32×32 pixels: TypeError: three"
    ):
        build("timm:net")
    monkeypatch.setitem(sys.modules, "timm", fake_timm(lambda: nn.Conv2d(4, 7, 3)))
    with pytest.raises(
        InvalidInputError, match=r"timm:net cannot be trained on images of 32×32 pixels: RuntimeError"
    ):
        build("timm:net")


def test_a_library_that_draws_while_it_is_imported_does_not_change_the_weights(monkeypatch):
    def network() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 7))

    timm = fake_timm(network)
    monkeypatch.setitem(sys.modules, "timm", timm)
    quiet = build("timm:net", seed=3)
    timm.is_model = lambda name: bool(torch.rand(()) >= 0)
    drawing = build("timm:net", seed=3)
    assert torch.equal(quiet[1].weight, drawing[1].weight)


def test_gray_images_are_refused_for_a_model_of_a_library():
    with pytest.raises(InvalidInputError, match="timm:resnet18 takes images of 3 channels, got 1"):
        build("timm:resnet18", n_channels=1)
