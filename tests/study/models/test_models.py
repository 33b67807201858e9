"""The studies' own networks: sizes by hand, initial weights, what is scale-invariant, that they learn.

Models of timm and torchvision are in `test_models_of_libraries`.
"""

import pytest
import torch
from torch import Tensor, nn

from decayfree import find_invariant
from decayfree.errors import InvalidInputError
from decayfree.study.models import MODELS, Sizes, build_model
from decayfree.study.models.libraries import LIBRARIES
from decayfree.study.run_settings import LIBRARY_NAMES, MODEL_NAMES, ModelSpec
from decayfree.study.training.strides_first import take_strides_first

SLOW = {"vgg19-bn", "resnet34", "resnet50", "resnet56", "wrn-28-10", "densenet-bc-100-12"}
NAMES = [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in MODELS]


def build(name: str, *, width_factor: float = 0.125, size: int = 28, seed: int = 0) -> nn.Module:
    spec = ModelSpec(name=name, width_factor=width_factor)
    return build_model(spec, n_classes=10, image_size=(size, size), seed=seed)


def images(n: int, size: int) -> Tensor:
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(0))


def n_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def head(n_in: int, n_classes: int = 10) -> int:
    return (n_in + 1) * n_classes


def conv(n_in: int, n_out: int, size: int = 3) -> int:
    """A convolution without bias, and gain and bias of the BatchNorm of its output."""
    return n_in * n_out * size**2 + 2 * n_out


def of_vgg(published: int) -> int:
    """Torchvision's without biases of 3×3 convolutions, and our linear layer of 512 for its three."""
    n_outputs = {132_868_840: 2752, 133_053_736: 2944, 138_365_992: 4224, 143_678_248: 5504}[published]
    three_layers = head(512 * 49, 4096) + head(4096, 4096) + head(4096, 1000)
    return published - n_outputs - three_layers + head(512)


def of_resnet(published: int, n_features: int) -> int:
    """The network of torchvision with a 3×3 stem instead of 7×7, and 10 classes instead of 1000."""
    return published - 64 * 3 * 49 + 64 * 3 * 9 - head(n_features, 1000) + head(n_features)


def of_cifar_resnet(n: int) -> int:
    """He et al.: 6n+2 layers, 2n at each of 16, 32 and 64 channels; shortcuts without weights."""
    stages = sum(conv(w // 2, w) + (2 * n - 1) * conv(w, w) for w in (32, 64))
    return conv(3, 16) + 2 * n * conv(16, 16) + stages + head(64)


def of_pre_activation(stem: int, widths: tuple[int, ...], n: int) -> int:
    """Stages of n blocks; a norm belongs to what it reads, and the last one to the classifier."""
    total, n_in = 27 * stem, stem
    for width in widths:
        projection = 0 if n_in == width else n_in * width
        first = 2 * n_in + conv(n_in, width) + 9 * width**2 + projection
        total += first + (n - 1) * (2 * width + conv(width, width) + 9 * width**2)
        n_in = width
    return total + 2 * n_in + head(n_in)


def of_densenet(n: int, growth: int = 12) -> int:
    """Huang et al.: three stages of n layers, 1×1 to 4·growth and 3×3 to growth, each behind a norm."""
    n_in = 2 * growth
    total = 27 * n_in
    for stage in range(3):
        if stage > 0:
            total += 2 * n_in + n_in * (n_in // 2)
            n_in //= 2
        for _ in range(n):
            total += 2 * n_in + conv(n_in, 4 * growth, 1) + 9 * 4 * growth * growth
            n_in += growth
    return total + 2 * n_in + head(n_in)


def of_mobilenet(published: int) -> int:
    """The network of torchvision with 10 classes instead of 1000; strides have no weights."""
    return published - head(1280, 1000) + head(1280)


# By hand; torchvision's totals are in its documentation (num_params). In the comments: what the papers'
# tables say.
N_PARAMETERS = {
    "vgg4-bn": conv(3, 64) + conv(64, 64) + conv(64, 128) + conv(128, 128) + head(128),
    "vgg6-bn": conv(3, 64)
    + conv(64, 64)
    + conv(64, 128)
    + conv(128, 128)
    + conv(128, 256)
    + conv(256, 256)
    + head(256),
    "vgg11-bn": of_vgg(132_868_840),
    "vgg13-bn": of_vgg(133_053_736),
    "vgg16-bn": of_vgg(138_365_992),
    "vgg19-bn": of_vgg(143_678_248),
    "resnet18": of_resnet(11_689_512, 512),
    "resnet34": of_resnet(21_797_672, 512),
    "resnet50": of_resnet(25_557_032, 2048),
    "resnet20": of_cifar_resnet(3),  # 0.27 million
    "resnet32": of_cifar_resnet(5),  # 0.46
    "resnet56": of_cifar_resnet(9),  # 0.85
    "preact-resnet18": of_pre_activation(64, (64, 128, 256, 512), 2),
    "preact-resnet20": of_pre_activation(16, (16, 32, 64), 3),
    "wrn-16-4": of_pre_activation(16, (64, 128, 256), 2),  # 2.7
    "wrn-28-10": of_pre_activation(16, (160, 320, 640), 4),  # 36.5
    "densenet-bc-40-12": of_densenet(6),
    "densenet-bc-100-12": of_densenet(16),  # 0.8
    "mobilenetv2": of_mobilenet(3_504_872),
    "mlp-bn": 3 * 32 * 32 * 512 + 2 * 512 * 512 + 3 * 2 * 512 + head(512),
}
IN_MILLIONS = {
    "resnet20": 0.27,
    "resnet32": 0.46,
    "resnet56": 0.85,
    "wrn-16-4": 2.75,
    "wrn-28-10": 36.5,
    "densenet-bc-100-12": 0.8,
}


@pytest.mark.parametrize("name", MODELS)
def test_at_width_1_the_parameters_are_those_of_the_published_network(name):
    with torch.device("meta"):
        model = build(name, width_factor=1.0, size=32)
    assert n_parameters(model) == N_PARAMETERS[name]
    if name in IN_MILLIONS:
        digits = len(str(IN_MILLIONS[name]).partition(".")[2])
        assert round(n_parameters(model) / 1e6, digits) == IN_MILLIONS[name]


@pytest.mark.parametrize("name", NAMES)
def test_images_of_any_of_the_usual_sizes_become_logits(name):
    for size in (8, 28, 32):
        model = build(name, width_factor=0.07, size=size)
        assert model.training
        logits = model(images(2, size))
        assert logits.shape == (2, 10)
        assert logits.isfinite().all()


def test_images_need_not_be_square_nor_colored_and_classes_are_not_always_ten():
    for name in ("vgg11-bn", "resnet20", "wrn-16-4", "densenet-bc-40-12", "mobilenetv2", "mlp-bn"):
        spec = ModelSpec(name=name, width_factor=0.125)
        model = build_model(spec, n_classes=7, image_size=(12, 20), n_channels=1, seed=0)
        assert model(torch.randn(2, 1, 12, 20)).shape == (2, 7)


@pytest.mark.parametrize("name", MODELS)
def test_half_the_width_has_half_the_channels_in_every_layer(name):
    with torch.device("meta"):
        narrow, wide = build(name, width_factor=0.5), build(name, width_factor=1.0)
    data_side = {"stem.weight", "stem.0.weight", "features.0.weight", "features.1.weight"}
    for (key, small), (other_key, large) in zip(
        narrow.named_parameters(), wide.named_parameters(), strict=True
    ):
        assert key == other_key
        if key == "classifier.bias":
            assert small.shape == large.shape
        elif key == "classifier.weight":
            assert large.shape == (10, 2 * small.shape[1])
        else:
            assert large.shape[0] == 2 * small.shape[0], key
            if small.ndim > 1 and key not in data_side and small.shape[1] > 1:
                assert large.shape[1] == 2 * small.shape[1], key


def test_a_layer_has_at_least_one_channel():
    assert Sizes(n_classes=2, image_size=(8, 8), width_factor=1e-6).scaled(64) == 1
    for name in ("vgg16-bn", "resnet20", "wrn-16-4", "densenet-bc-40-12", "mobilenetv2", "mlp-bn"):
        assert build(name, width_factor=1e-6, size=8)(images(2, 8)).shape == (2, 10)


def test_names_of_weights_do_not_depend_on_the_images():
    for name in ("vgg16-bn", "mobilenetv2"):
        assert len({tuple(build(name, size=size).state_dict()) for size in (8, 28, 64)}) == 1


def test_poolings_and_strides_that_would_leave_too_little_are_left_out():
    def n_poolings(size: int) -> int:
        return sum(isinstance(module, nn.MaxPool2d) for module in build("vgg11-bn", size=size).modules())

    assert [n_poolings(size) for size in (8, 28, 32)] == [3, 4, 5]
    for size, n_pixels in ((8, 2), (28, 4), (32, 4)):
        assert build("mobilenetv2", size=size).features(images(2, size)).shape[2:] == (n_pixels, n_pixels)


# Height and width on which the last convolution works, for images of 32×32.
N_LAST_PIXELS = {
    "vgg4-bn": 16,
    "vgg6-bn": 8,
    **dict.fromkeys(("vgg11-bn", "vgg13-bn", "vgg16-bn", "vgg19-bn"), 2),
    **dict.fromkeys(("resnet18", "resnet34", "resnet50", "preact-resnet18", "mobilenetv2"), 4),
    **dict.fromkeys(("resnet20", "resnet32", "resnet56", "preact-resnet20"), 8),
    **dict.fromkeys(("wrn-16-4", "wrn-28-10", "densenet-bc-40-12", "densenet-bc-100-12"), 8),
}


@pytest.mark.parametrize("name", [name for name in NAMES if name.values[0] in N_LAST_PIXELS])
def test_stages_halve_height_and_width_as_published(name):
    model = build(name, width_factor=0.07, size=32)
    shapes: list[torch.Size] = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda module, inputs, output: shapes.append(output.shape))
    model(images(2, 32))
    assert shapes[0][2:] == (32, 32)
    assert shapes[-1][2:] == (N_LAST_PIXELS[name], N_LAST_PIXELS[name])


def test_a_shortcut_without_weights_takes_every_other_pixel_and_adds_zero_channels():
    first_of_second_stage = build("resnet20", width_factor=1.0).blocks[3]
    features = torch.randn(2, 16, 6, 6)
    shortcut = first_of_second_stage.shortcut(features)
    assert torch.equal(shortcut[:, :16], features[:, :, ::2, ::2])
    assert torch.equal(shortcut[:, 16:], torch.zeros(2, 16, 3, 3))


def test_a_projection_sees_what_the_convolution_beside_it_sees():
    """The first norm undoes the stem's scale: a projection behind it does not see it, one before would."""
    block = build("wrn-16-4", width_factor=0.25).double().blocks[0]
    features = torch.randn(2, 4, 6, 6, dtype=torch.float64)
    block.norm1.eps = 1e-30
    torch.testing.assert_close(block(features), block(3 * features))


@pytest.mark.parametrize("name", NAMES)
def test_equal_seeds_give_equal_weights_and_leave_the_global_random_state_alone(name):
    before = torch.get_rng_state()
    first, again, other = (build(name, size=8, seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not any(torch.equal(first[key], other[key]) for key in first if first[key].ndim > 1)


def test_accelerators_are_not_seeded(monkeypatch):
    def refuse(seed: int) -> None:
        raise AssertionError("the accelerator's generator was seeded")

    monkeypatch.setattr(torch.cuda, "manual_seed_all", refuse)
    build("mlp-bn")


@pytest.mark.parametrize(
    ("name", "widths"), [("vgg4-bn", (8, 8, 16, 16)), ("vgg6-bn", (8, 8, 16, 16, 32, 32))]
)
def test_weights_are_drawn_layer_by_layer_as_torch_draws_them(name, widths):
    """Results of earlier studies stay reproducible: their networks begin with these very weights."""
    model = build(name, width_factor=0.125, seed=5)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        layers = [
            nn.Conv2d(n_in, n_out, 3, padding=1, bias=False)
            for n_in, n_out in zip((3, *widths), widths, strict=False)
        ]
        layers.append(nn.Linear(widths[-1], 10))
    drawn = [parameter for layer in layers for parameter in layer.parameters()]
    built = [
        parameter
        for key, parameter in model.named_parameters()
        if parameter.ndim > 1 or key == "classifier.bias"
    ]
    assert all(torch.equal(a, b) for a, b in zip(drawn, built, strict=True))


def not_invariant(name: str, model: nn.Module) -> set[str]:
    """Weights that no norm follows: by the architecture, not by measurement."""
    keys = {key for key, parameter in model.named_parameters() if parameter.ndim > 1}
    if not name.startswith(("preact", "wrn")):
        return {"classifier.weight"}
    into_the_sum = {key for key in keys if key.endswith(("conv2.weight", "projection.weight"))}
    # A Wide ResNet's first block projects what its norm has made of the stem.
    stem = set() if name.startswith("wrn") else {"stem.weight"}
    return {"classifier.weight"} | into_the_sum | stem


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [8, 28])
def test_every_kernel_in_front_of_a_batchnorm_is_a_block_and_nothing_else_is(name, size):
    model = build(name, size=size)
    found = find_invariant(model, images(8 if size > 8 else 32, size))
    weights = {key: parameter for key, parameter in model.named_parameters() if parameter.ndim > 1}
    assert {weight.name for weight in found} == weights.keys() - not_invariant(name, model)
    for weight in found:
        assert weight.block_sizes == (1,) * len(weights[weight.name])
    assert {found.verdicts[key].verdict for key in not_invariant(name, model)} == {"not_invariant"}


def test_what_a_stage_adds_up_is_scale_invariant_together():
    model = build("preact-resnet20", width_factor=0.25).double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-30
    inputs = images(4, 28).double()
    logits = model(inputs)
    first_stage = ["stem.weight", *(f"blocks.{index}.conv2.weight" for index in range(3))]
    weights = dict(model.named_parameters())
    with torch.no_grad():
        for key in first_stage[:-1]:
            weights[key] *= 3
        assert not torch.allclose(model(inputs), logits, rtol=1e-2)
        weights[first_stage[-1]] *= 3
    torch.testing.assert_close(model(inputs), logits)


@pytest.mark.parametrize("name", NAMES)
def test_a_few_steps_of_gradient_descent_lower_the_loss(name):
    model = build(name, size=8).to(memory_format=torch.channels_last)
    take_strides_first(model)
    inputs, labels = images(32, 8), torch.arange(32) % 10
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    losses = []
    # Deep networks on maps of one pixel go up and down at first, each processor's rounding another way.
    for _ in range(15):
        loss = nn.functional.cross_entropy(model(inputs), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert min(losses[-3:]) < losses[0] - 0.05
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_the_names_that_a_spec_may_hold_are_those_of_the_networks():
    assert tuple(MODELS) == MODEL_NAMES
    assert sorted(LIBRARIES) == sorted(LIBRARY_NAMES)


@pytest.mark.parametrize("name", [*MODELS, "timm:resnet18", "torchvision:vgg11_bn"])
def test_a_known_name_has_no_faults(name):
    assert ModelSpec(name=name, width_factor=1.0).faults() == []


@pytest.mark.parametrize("name", ["vgg11", "", "timm:", "torchvision:", "timm", ":resnet18"])
def test_an_unknown_name_is_answered_with_the_known_ones(name):
    spec = ModelSpec(name=name, width_factor=1.0)
    [fault] = spec.faults()
    assert fault.startswith("name: expected one of vgg4-bn, vgg6-bn, vgg11-bn")
    assert (
        f"mcnn-bn, timm:NAME, torchvision:NAME, smp:NAME, package.module:NAME or ./file.py:NAME; got {name!r}"
        in fault
    )
    with pytest.raises(
        InvalidInputError, match=r"name: expected one of .*smp:NAME, package.module:NAME or .*; got"
    ):
        build_model(spec, n_classes=10, image_size=(8, 8), seed=0)


def test_a_name_with_a_slip_is_answered_with_the_nearest():
    [fault] = ModelSpec(name="vgg11_bn").faults()
    assert "; did you mean vgg11-bn" in fault
