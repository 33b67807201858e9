"""What does the search refuse, warn of and leave out on demand?

Patterns, wrong arguments, inputs and models that cannot be probed, and warnings; each message is matched.
"""

import functools
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from decayfree import DecayFreeError, InvalidInputError, UnsupportedWeightError, find_invariant
from decayfree.invariance import search
from decayfree.invariance.rounding import RoundingDecidesError
from support.zoo import BY_NAME
from support.zoo_entry import images, net, tail


def made(name: str) -> tuple[nn.Module, Any]:
    return BY_NAME[name].make()


# Patterns


def test_include_and_exclude_choose_by_pattern() -> None:
    model, inputs = made("post_activation_residual_network")
    names = functools.partial(find_names, model, inputs)
    assert names(include="conv*") == ["conv1.weight", "conv2.weight"]
    assert names(include=["conv1.*", "downsample.*"]) == ["conv1.weight", "downsample.0.weight"]
    assert names(exclude="downsample.*") == ["conv1.weight", "conv2.weight"]
    assert names(include=["conv*"], exclude=["*2.weight"]) == ["conv1.weight"]
    assert names(exclude=["*"]) == []


def find_names(model: nn.Module, inputs: Any, **patterns: Any) -> list[str]:
    return [weight.name for weight in find_invariant(model, inputs, **patterns)]


def test_a_parameter_that_was_left_out_keeps_its_verdict_and_says_why() -> None:
    model, inputs = made("conv2d_under_batchnorm2d")
    verdict = find_invariant(model, inputs, exclude="conv*").verdicts["conv.weight"]
    assert verdict.verdict == "invariant"
    assert "excluded by 'conv*'" in verdict.reason
    verdict = find_invariant(model, inputs, include="head*").verdicts["conv.weight"]
    assert verdict.verdict == "invariant"
    assert "include" in verdict.reason


def test_a_gain_is_left_out_unless_a_pattern_names_it() -> None:
    model, inputs = made("gain_between_two_norms")
    found = find_invariant(model, inputs)
    assert "first.weight" not in found
    assert "without a direction" in found.verdicts["first.weight"].reason
    found = find_invariant(model, inputs, include=["first.weight", "fc.weight"])
    assert [weight.name for weight in found] == ["first.weight", "fc.weight"]
    assert found["first.weight"].block_sizes == (8,)


def test_a_gain_that_a_pattern_names_comes_with_its_bias() -> None:
    model, inputs = made("post_activation_residual_network")
    gain = find_invariant(model, inputs, include="bn1.weight")["bn1.weight"]
    assert (gain.block_sizes, gain.bias) == ((4,), "bn1.bias")


def test_including_a_weight_that_is_not_invariant_does_not_make_it_so() -> None:
    model, inputs = made("conv2d_under_batchnorm2d")
    found = find_invariant(model, inputs, include=["head.weight"])
    assert len(found) == 0
    assert found.verdicts["head.weight"].verdict == "not_invariant"


def test_all_wrong_arguments_are_named_at_once() -> None:
    model, inputs = made("conv2d_under_batchnorm2d")
    with pytest.raises(InvalidInputError) as refused:
        find_invariant(model, inputs, include=["conv*", "backbone.*"], exclude="typo", probes=0)
    text = str(refused.value)
    assert "'backbone.*' matches no parameter" in text
    assert "'typo' matches no parameter" in text
    assert "probes must be a whole number of at least 1, got 0" in text
    assert "conv*" not in text


@pytest.mark.parametrize("probes", [0, -1, 1.5, "3", None])
def test_a_number_of_probes_that_is_none_is_refused(probes: Any) -> None:
    model, inputs = made("conv2d_under_batchnorm2d")
    with pytest.raises(InvalidInputError, match=f"at least 1, got {probes!r}"):
        find_invariant(model, inputs, probes=probes)


@pytest.mark.parametrize("seed", [1.5, "0", None])
def test_a_seed_that_is_no_whole_number_is_refused(seed: Any) -> None:
    model, inputs = made("conv2d_under_batchnorm2d")
    with pytest.raises(InvalidInputError, match=f"seed must be a whole number.*got {seed!r}"):
        find_invariant(model, inputs, seed=seed)


# Models and inputs that do not fit


def test_something_else_than_a_module_is_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"torch\.nn\.Module, got function"):
        find_invariant(made, torch.randn(2, 3))


def test_inputs_of_a_wrong_shape_are_refused_with_the_models_own_words() -> None:
    model, _ = made("conv2d_under_batchnorm2d")
    with pytest.raises(
        InvalidInputError, match=r"\(4, 5, 8, 8\).*do not fit Sequential.*RuntimeError"
    ) as refused:
        find_invariant(model, torch.randn(4, 5, 8, 8))
    assert "forward=" in str(refused.value)
    assert isinstance(refused.value.__cause__, RuntimeError)


def test_a_tuple_for_a_model_of_one_input_is_refused_and_says_how_it_was_called() -> None:
    model, inputs = made("conv2d_under_batchnorm2d")
    with pytest.raises(InvalidInputError, match=r"model\(\*inputs\)"):
        find_invariant(model, (inputs, inputs))


def test_one_value_per_channel_is_refused_with_the_models_own_words() -> None:
    model, _ = made("linear_under_batchnorm1d")
    with pytest.raises(InvalidInputError, match="Expected more than 1 value per channel"):
        find_invariant(model, torch.randn(1, 5))


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_constant_inputs_are_refused(value: float) -> None:
    model, inputs = made("conv2d_under_batchnorm2d")
    with pytest.raises(InvalidInputError, match="inputs are constant"):
        find_invariant(model, torch.full_like(inputs, value))


def test_inputs_that_are_not_finite_are_refused() -> None:
    model, inputs = made("conv2d_under_batchnorm2d")
    inputs[0, 0, 0, 0] = float("nan")
    with pytest.raises(InvalidInputError, match="NaN or infinity"):
        find_invariant(model, inputs)


class ReturnsClasses(nn.Module):
    """Returns whole numbers, or outputs without a graph."""

    def __init__(self, *, classes: bool) -> None:
        super().__init__()
        self.net = net(conv=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(4), **tail(4))
        self.classes = classes

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).argmax(-1) if self.classes else self.net(x).detach()


@pytest.mark.parametrize("classes", [True, False])
def test_outputs_that_depend_on_no_parameter_are_refused(classes: bool) -> None:
    with pytest.raises(InvalidInputError, match="no floating output of the model depends on its parameters"):
        find_invariant(ReturnsClasses(classes=classes), images(torch.Generator().manual_seed(0)))


class FlatParameter(nn.Parameter):
    """What FSDP1 makes of a module's parameters; torch's own class has this name."""


def with_parameter(parameter: nn.Parameter) -> nn.Module:
    model = net(conv=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(4), **tail(4))
    model.conv.weight = parameter
    return model


UNSUPPORTED = {
    "meta": (
        lambda: net(conv=nn.Conv2d(3, 4, 3, device="meta")),
        r"conv\.weight \(4, 3, 3, 3\) .*meta device",
    ),
    "lazy": (lambda: net(conv=nn.LazyConv2d(4, 3)), r"conv\.weight is lazy and has no shape yet"),
    "flat": (
        lambda: with_parameter(FlatParameter(torch.zeros(108))),
        r"conv\.weight \(108,\) is a flat .*FSDP1",
    ),
    "quantized": (
        lambda: with_parameter(
            nn.Parameter(torch.quantize_per_tensor(torch.eye(3), 0.1, 0, torch.qint8), False)
        ),
        r"conv\.weight \(3, 3\) is quantized",
    ),
    "sparse": (
        lambda: with_parameter(nn.Parameter(torch.eye(3).to_sparse())),
        r"conv\.weight \(3, 3\) is sparse",
    ),
}


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize("kind", UNSUPPORTED)
def test_parameters_without_values_or_rows_are_refused(kind: str) -> None:
    build, message = UNSUPPORTED[kind]
    with pytest.raises(UnsupportedWeightError, match=message):
        find_invariant(build(), images(torch.Generator().manual_seed(0)))


def test_buffers_and_inputs_without_values_are_refused() -> None:
    model, inputs = net(conv=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(4), **tail(4)), torch.randn(4, 3, 7, 6)
    with pytest.raises(InvalidInputError, match="an input is on the meta device"):
        find_invariant(model, inputs.to("meta"))
    model.register_buffer("table", torch.empty(3, device="meta"))
    with pytest.raises(InvalidInputError, match="table is on the meta device"):
        find_invariant(model, inputs)


def test_an_empty_vector_is_nobodys_bias() -> None:
    model = net(conv=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(4), **tail(4))
    model.register_parameter("empty", nn.Parameter(torch.empty(0)))
    found = find_invariant(model, torch.randn(4, 3, 7, 6))
    assert found["conv.weight"].norm_layers[0].shift == "conv.bias"


def test_all_unsupported_parameters_are_named_at_once() -> None:
    model = net(conv=nn.Conv2d(3, 4, 3, device="meta"), lazy=nn.LazyConv2d(4, 3))
    with pytest.raises(UnsupportedWeightError) as refused:
        find_invariant(model, images(torch.Generator().manual_seed(0)))
    for name in ("conv.weight", "conv.bias", "lazy.weight", "lazy.bias"):
        assert name in str(refused.value)


class NotCopied(nn.Module):
    """Cannot be deep-copied."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(5, 3)

    def __deepcopy__(self, memo: dict) -> None:
        raise TypeError("one of a kind")

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x)


def test_a_model_that_cannot_be_copied_is_refused() -> None:
    with pytest.raises(DecayFreeError, match=r"NotCopied cannot be deep-copied.*one of a kind"):
        find_invariant(NotCopied(), torch.randn(4, 5))


# Warnings


@pytest.mark.parametrize("name", ["whole_model_in_eval_mode", "frozen_batchnorm_in_a_training_model"])
def test_a_model_in_eval_mode_gets_a_warning(name: str) -> None:
    model, inputs = made(name)
    with pytest.warns(UserWarning, match=r"1 normalization.* in eval mode.*model\.train\(\)") as caught:
        found = find_invariant(model, inputs)
    assert len(found) == 0
    assert caught[0].filename == __file__


def test_a_model_in_training_mode_gets_no_warning() -> None:
    model, inputs = made("conv2d_under_batchnorm2d")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        find_invariant(model, inputs)


def test_a_model_without_normalization_is_no_error() -> None:
    model, inputs = made("no_normalization")
    found = find_invariant(model, inputs)
    assert list(found) == []
    assert repr(found).startswith("No scale-invariant weight among 4 parameters.")
    assert "nothing after it takes the scale away" in repr(found)


def test_inputs_without_variance_before_a_normalization_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def result(self: search._Search) -> None:  # as deep networks do on a few maps of one pixel
        raise RoundingDecidesError

    monkeypatch.setattr(search._Search, "result", result)
    with pytest.raises(InvalidInputError, match="with these inputs a normalization sees almost no variance"):
        find_invariant(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), torch.randn(8, 3))


def plain(depth: int) -> nn.Module:
    """Linear, BatchNorm and ReLU without shortcuts; gradients grow 1.2 to 1.3 times a layer."""
    layers = [
        layer
        for _ in range(depth)
        for layer in (nn.Linear(16, 16, bias=False), nn.BatchNorm1d(16), nn.ReLU())
    ]
    return nn.Sequential(*layers, nn.Linear(16, 2))


@pytest.mark.parametrize("depth", [80, 120])
def test_a_deep_network_whose_gradients_explode_is_searched(depth: int) -> None:
    torch.manual_seed(0)
    found = find_invariant(plain(depth), torch.randn(64, 16))
    assert [weight.name for weight in found] == [f"{3 * index}.weight" for index in range(depth)]
    assert all(weight.residual < 1e-12 for weight in found)


def test_a_network_whose_outputs_are_rounding_is_told_so() -> None:
    torch.manual_seed(0)
    with pytest.raises(InvalidInputError, match="rounding at the normalizations moves the model's outputs"):
        find_invariant(plain(160), torch.randn(64, 16))


def test_identical_samples_are_told_whatever_their_gradients_are() -> None:
    """Rounding, divided by nothing, gives large gradients or small ones."""
    for seed in range(8):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))
        with pytest.raises(InvalidInputError, match="a normalization sees almost no variance"):
            find_invariant(model, torch.arange(5.0).repeat(6, 1))


def test_a_channel_that_stands_still_does_no_harm() -> None:
    """A dead channel with a bias after it is the same number everywhere; the other seven are not."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(8, 8, 3, groups=8), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 2, 3))
    inputs = torch.randn(4, 8, 7, 7)
    inputs[:, 3] = 0.0
    assert "0.weight" in find_invariant(model, inputs)
