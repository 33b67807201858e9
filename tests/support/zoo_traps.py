"""Where does matching names, layer types or dimensions go wrong? One small model for each such trap.

Statistics that are not the batch's, second consumers, shared weights, weights that are normalized themselves,
zeros, and gradients that do not tell the truth. Unusual layouts are in zoo_layouts.py.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from support.zoo_entry import (
    ALONG,
    FROZEN,
    HEAD,
    JOINT,
    LEFT_OUT,
    NORM,
    NORM_AND_HEAD,
    NOT,
    UNDECIDED,
    ZooModel,
    blocks,
    each,
    images,
    images4,
    kernels,
    net,
    rows,
    tail,
)
from support.zoo_modules import (
    FrozenBatchNorm2d,
    FusedBatchNormAct,
    StandardizedConv2d,
)


def with_frozen_norm() -> nn.Module:
    model = net(conv=nn.Conv2d(3, 6, 3), norm=nn.BatchNorm2d(6), **tail(6))
    model.norm.eval().requires_grad_(False)
    return model


def with_eval_norm() -> nn.Module:
    model = net(
        stem=nn.Conv2d(3, 4, 3, bias=False),
        first=nn.BatchNorm2d(4),
        conv=nn.Conv2d(4, 6, 3, bias=False),
        norm=nn.BatchNorm2d(6),
        **tail(6),
    )
    model.norm.eval()
    return model


def frozen_stem() -> nn.Module:
    model = net(
        stem=nn.Conv2d(3, 4, 3, bias=False),
        first=nn.BatchNorm2d(4),
        conv=nn.Conv2d(4, 6, 3, bias=False),
        norm=nn.BatchNorm2d(6),
        **tail(6),
    )
    model.stem.requires_grad_(False)
    return model


STATISTICS = [
    ZooModel(
        "frozen_batchnorm_in_a_training_model",
        "it divides by stored numbers, which a scaled weight does not change",
        with_frozen_norm,
        images,
        {"conv.weight": NOT, "conv.bias": NOT, "norm.weight": FROZEN, "norm.bias": FROZEN} | HEAD,
    ),
    ZooModel(
        "one_batchnorm_in_eval_mode",
        "the first norm takes the batch's statistics, the second one stored ones",
        with_eval_norm,
        images,
        {
            "stem.weight": kernels(4, first=each(4)),
            "first.weight": NOT,
            "first.bias": NOT,
            "conv.weight": NOT,
        }
        | NORM_AND_HEAD,
    ),
    ZooModel(
        "own_frozen_batchnorm_class",
        "it is an affine map with a name that says otherwise",
        lambda: net(conv=nn.Conv2d(3, 6, 3, bias=False), norm=FrozenBatchNorm2d(6), **tail(6)),
        images,
        {"conv.weight": NOT} | HEAD,
    ),
    ZooModel(
        "whole_model_in_eval_mode",
        "all statistics are stored ones",
        lambda: net(conv=nn.Conv2d(3, 6, 3, bias=False), norm=nn.BatchNorm2d(6), **tail(6)).eval(),
        images,
        {"conv.weight": NOT} | NORM_AND_HEAD,
    ),
    ZooModel(
        "frozen_weight",
        "a weight that is not trained has no scale to control; "
        "the first norm's bias is removed by the second norm",
        frozen_stem,
        images,
        {
            "stem.weight": FROZEN,
            "first.weight": LEFT_OUT,
            "first.bias": ALONG,
            "conv.weight": kernels(6, norm=each(6)),
        }
        | NORM_AND_HEAD,
    ),
    ZooModel(
        "fused_norm_and_activation",
        "the activation comes after the normalization though both are in one module",
        lambda: net(conv=nn.Conv2d(3, 6, 3), norm=FusedBatchNormAct(6), **tail(6)),
        images,
        {"conv.weight": kernels(6, norm=each(6, shift="conv.bias")), "conv.bias": UNDECIDED} | NORM_AND_HEAD,
    ),
]


class SecondConsumer(nn.Module):
    """The convolution's output is normalized and also used as it is."""

    def __init__(self, *, detached: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.detached = detached

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return F.relu(self.norm(x)) + (x.detach() if self.detached else 0.1 * x)


class UsedTwice(nn.Module):
    """One convolution at two resolutions, each with its own normalization, as detection heads have it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.fine = nn.BatchNorm2d(6)
        self.coarse = nn.BatchNorm2d(6)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return F.relu(self.fine(self.conv(x))), F.relu(self.coarse(self.conv(F.avg_pool2d(x, 2))))


class Recurrent(nn.Module):
    """One convolution and one normalization, three times in a row."""

    def __init__(self, *, bias: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1, bias=bias)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = F.relu(self.norm(self.conv(x)))
        return self.head(x.mean((2, 3)))


class StackedAlongBatch(nn.Module):
    """Two convolutions whose outputs are one batch for the normalization."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, bias=False), nn.Conv2d(3, 4, 3, bias=False)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(torch.cat([self.first(x), self.second(x)])))


def tied_convolutions() -> nn.Module:
    model = net(
        first=nn.Conv2d(4, 4, 3, padding=1, bias=False),
        norm1=nn.BatchNorm2d(4),
        act=nn.ReLU(),
        second=nn.Conv2d(4, 4, 3, bias=False),
        norm2=nn.BatchNorm2d(4),
        relu=nn.ReLU(),
    )
    model.second.weight = model.first.weight
    return model


def half_tied_convolutions() -> nn.Module:
    model = net(
        first=nn.Conv2d(4, 4, 3, padding=1, bias=False),
        norm=nn.BatchNorm2d(4),
        act=nn.ReLU(),
        second=nn.Conv2d(4, 4, 3, bias=False),
    )
    model.second.weight = model.first.weight
    return model


def tied_embedding() -> nn.Module:
    model = net(words=nn.Embedding(7, 6), norm=nn.LayerNorm(6), head=nn.Linear(6, 7, bias=False))
    model.head.weight = model.words.weight
    return model


CONSUMERS = [
    ZooModel(
        "second_consumer_without_a_norm",
        "half of what reads the convolution's output sees its scale",
        lambda: SecondConsumer(detached=False),
        images,
        {"conv.weight": NOT} | NORM,
    ),
    ZooModel(
        "second_consumer_behind_a_detach",
        "the gradient sees only the normalized consumer, the output shows both",
        lambda: SecondConsumer(detached=True),
        images,
        {"conv.weight": NOT} | NORM,
    ),
    ZooModel(
        "convolution_used_twice_with_two_norms",
        "both uses are normalized; the statistics of both norms follow",
        UsedTwice,
        images,
        {
            "conv.weight": kernels(6, fine=each(6, shift="conv.bias"), coarse=each(6, shift="conv.bias")),
            "conv.bias": UNDECIDED,
            "fine.weight": NOT,
            "fine.bias": NOT,
            "coarse.weight": NOT,
            "coarse.bias": NOT,
        },
    ),
    ZooModel(
        "convolution_and_norm_used_three_times",
        "every use is normalized; the statistics follow once",
        lambda: Recurrent(bias=False),
        images4,
        {"conv.weight": kernels(4, norm=each(4))} | NORM_AND_HEAD,
    ),
    ZooModel(
        "convolution_with_bias_and_norm_used_three_times",
        "the running mean has taken in the same bias at every use",
        lambda: Recurrent(bias=True),
        images4,
        {"conv.weight": kernels(4, norm=each(4, shift="conv.bias")), "conv.bias": UNDECIDED} | NORM_AND_HEAD,
    ),
    ZooModel(
        "one_norm_over_the_outputs_of_two_convolutions",
        "stacked along the batch they share statistics, which see the scale of one against the other",
        StackedAlongBatch,
        images,
        {"first.weight": NOT, "second.weight": NOT} | NORM,
    ),
    ZooModel(
        "tied_convolutions_both_normalized",
        "one parameter, two norms that follow it",
        tied_convolutions,
        images4,
        {
            "first.weight": kernels(4, norm1=each(4), norm2=each(4)),
            "norm1.weight": LEFT_OUT,
            "norm1.bias": JOINT,
            "norm2.weight": NOT,
            "norm2.bias": NOT,
        },
    ),
    ZooModel(
        "tied_convolutions_one_of_them_normalized",
        "the second use scales the output",
        half_tied_convolutions,
        images4,
        {"first.weight": NOT} | NORM,
    ),
    ZooModel(
        "embedding_tied_with_the_head",
        "normalized where it is read, not where it classifies",
        tied_embedding,
        lambda g: torch.arange(7).reshape(1, 7),
        {"words.weight": NOT} | NORM,
    ),
]


def parametrized(layer: nn.Module, *following: nn.Module) -> nn.Module:
    return net(conv=layer, **{f"next{i}": module for i, module in enumerate(following)})


ORIGINAL = "conv.parametrizations.weight.original"
NORMALIZED_WEIGHTS = [
    ZooModel(
        "standardized_convolution_under_groupnorm",
        "the weight is normalized kernel by kernel, finer than the groups behind it; "
        "nothing behind it sees its scale",
        lambda: net(conv=StandardizedConv2d(3, 6, 3), norm=nn.GroupNorm(2, 6), **tail(6)),
        images,
        {"conv.weight": kernels(6), "conv.bias": NOT} | NORM_AND_HEAD,
    ),
    ZooModel(
        "standardized_convolution_under_batchnorm",
        "the batch normalization behind it never sees the weight's scale, so its statistics must not follow",
        lambda: net(conv=StandardizedConv2d(3, 6, 3, bias=False), norm=nn.BatchNorm2d(6), **tail(6)),
        images,
        {"conv.weight": kernels(6)} | NORM_AND_HEAD,
    ),
    ZooModel(
        "standardized_convolution_without_a_norm",
        "the normalization of the weight suffices",
        lambda: net(conv=StandardizedConv2d(3, 6, 3), **tail(6)),
        images,
        {"conv.weight": kernels(6), "conv.bias": NOT} | HEAD,
    ),
    ZooModel(
        "weight_norm_without_a_norm",
        "the direction is divided by its norm kernel by kernel; the magnitude is the scale itself",
        lambda: parametrized(parametrizations.weight_norm(nn.Conv2d(3, 6, 3)), nn.ReLU()),
        images,
        {f"{ORIGINAL}0": NOT, f"{ORIGINAL}1": kernels(6), "conv.bias": NOT},
    ),
    ZooModel(
        "weight_norm_under_batchnorm",
        "each magnitude is a single number before a norm: only its sign has an effect",
        lambda: parametrized(parametrizations.weight_norm(nn.Conv2d(3, 6, 3)), nn.BatchNorm2d(6), nn.ReLU()),
        images,
        {
            f"{ORIGINAL}0": LEFT_OUT,
            f"{ORIGINAL}1": kernels(6),
            "conv.bias": UNDECIDED,
            "next0.weight": NOT,
            "next0.bias": NOT,
        },
    ),
    ZooModel(
        "spectral_norm_without_a_norm",
        "the weight is divided by its largest singular value as a whole",
        lambda: parametrized(parametrizations.spectral_norm(nn.Linear(5, 6)), nn.ReLU()),
        rows,
        {f"{ORIGINAL}": blocks(6), "conv.bias": NOT},
    ),
]


ZOO_TRAPS = [*STATISTICS, *CONSUMERS, *NORMALIZED_WEIGHTS]
