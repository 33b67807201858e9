"""Which rows and blocks do unusual layouts have? One small model for each.

Transposed, grouped and depthwise convolutions, shuffles, weights with rows along other dimensions, and
several weights before one norm. The known answers of usual layers are in zoo_norms.py.
"""

import torch
from torch import nn

from support.zoo_entry import (
    ALONG,
    HEAD,
    JOINT,
    LEFT_OUT,
    NORM_AND_HEAD,
    NOT,
    UNDECIDED,
    Follows,
    ZooModel,
    all_with_one,
    blocks,
    each,
    images,
    images4,
    kernels,
    net,
    rows,
    tail,
    tokens,
)
from support.zoo_modules import (
    AddedProduct,
    ChannelShuffle,
    Experts,
    Functional,
    TransposedLinear,
)


def under_batchnorm(conv: nn.Module, n: int) -> nn.Sequential:
    return net(conv=conv, norm=nn.BatchNorm2d(n), **tail(n))


FOUR_TIMES_EACH = tuple(i // 4 for i in range(16))
LAYOUTS = [
    ZooModel(
        "transposed_convolution",
        "output channels run along dimension 1",
        lambda: under_batchnorm(nn.ConvTranspose2d(4, 6, 3, bias=False), 6),
        images4,
        {"conv.weight": kernels(6, axis=1, norm=each(6))} | NORM_AND_HEAD,
    ),
    ZooModel(
        "grouped_transposed_convolution",
        "output channels run along dimension 1 within each group of dimension 0",
        lambda: under_batchnorm(nn.ConvTranspose2d(4, 6, 3, groups=2), 6),
        images4,
        {"conv.weight": kernels(6, axis=1, groups=2, norm=each(6, shift="conv.bias")), "conv.bias": UNDECIDED}
        | NORM_AND_HEAD,
    ),
    ZooModel(
        "grouped_transposed_convolution_without_bias",
        "nothing but the products of weight and gradient shows the groups",
        lambda: under_batchnorm(nn.ConvTranspose2d(4, 6, 3, groups=2, bias=False), 6),
        images4,
        {"conv.weight": kernels(6, axis=1, groups=2, norm=each(6))} | NORM_AND_HEAD,
    ),
    ZooModel(
        "depthwise_transposed_convolution",
        "one input channel makes one output channel: dimension 0 counts both",
        lambda: under_batchnorm(nn.ConvTranspose2d(4, 4, 3, groups=4, bias=False), 4),
        images4,
        {"conv.weight": kernels(4, norm=each(4))} | NORM_AND_HEAD,
    ),
    ZooModel(
        "grouped_transposed_convolution_under_groupnorm",
        "blocks of output channels along dimension 1, which the norm's groups cut "
        "differently from the convolution's",
        lambda: net(conv=nn.ConvTranspose2d(4, 12, 3, groups=2), norm=nn.GroupNorm(3, 12), **tail(12)),
        images4,
        {"conv.weight": blocks(4, 4, 4, axis=1, groups=2, bias="conv.bias"), "conv.bias": JOINT}
        | NORM_AND_HEAD,
    ),
    ZooModel(
        "transposed_convolution_under_groupnorm",
        "blocks of output channels along dimension 1",
        lambda: net(conv=nn.ConvTranspose2d(4, 6, 3, bias=False), norm=nn.GroupNorm(2, 6), **tail(6)),
        images4,
        {"conv.weight": blocks(3, 3, axis=1)} | NORM_AND_HEAD,
    ),
    ZooModel(
        "grouped_transposed_convolution_without_bias_under_groupnorm",
        "the middle block takes output channels from both groups of the convolution",
        lambda: net(
            conv=nn.ConvTranspose2d(4, 12, 3, groups=2, bias=False), norm=nn.GroupNorm(3, 12), **tail(12)
        ),
        images4,
        {"conv.weight": blocks(4, 4, 4, axis=1, groups=2)} | NORM_AND_HEAD,
    ),
    ZooModel(
        "transposed_convolution_under_one_group",
        "one block along whatever dimension; its rows are said to be the output channels, along dimension 1",
        lambda: net(conv=nn.ConvTranspose2d(4, 6, 3, bias=False), norm=nn.GroupNorm(1, 6), **tail(6)),
        images4,
        {"conv.weight": blocks(6, axis=1)} | NORM_AND_HEAD,
    ),
    ZooModel(
        "grouped_transposed_convolution_under_one_group",
        "one block whatever the groups; its rows are said to be the output channels of the convolution's",
        lambda: net(
            conv=nn.ConvTranspose2d(4, 6, 3, groups=2, bias=False), norm=nn.GroupNorm(1, 6), **tail(6)
        ),
        images4,
        {"conv.weight": blocks(6, axis=1, groups=2)} | NORM_AND_HEAD,
    ),
    ZooModel(
        "depthwise_convolution",
        "a kernel is a row whatever its fan-in",
        lambda: under_batchnorm(nn.Conv2d(4, 4, 3, groups=4, bias=False), 4),
        images4,
        {"conv.weight": kernels(4, norm=each(4))} | NORM_AND_HEAD,
    ),
    ZooModel(
        "grouped_convolution",
        "a kernel is a row whatever its fan-in",
        lambda: under_batchnorm(nn.Conv2d(4, 6, 3, groups=2, bias=False), 6),
        images4,
        {"conv.weight": kernels(6, norm=each(6))} | NORM_AND_HEAD,
    ),
    ZooModel(
        "linear_with_a_transposed_weight",
        "x @ weight: output channels run along dimension 1 though nothing is a convolution",
        lambda: net(fc=TransposedLinear(5, 6), norm=nn.BatchNorm1d(6), act=nn.ReLU(), head=nn.Linear(6, 3)),
        rows,
        {"fc.weight": kernels(6, axis=1, norm=each(6))} | NORM_AND_HEAD,
    ),
    ZooModel(
        "linear_with_a_transposed_weight_under_layernorm",
        "x @ weight: one block along whatever dimension; its rows are said to be the output features",
        lambda: net(fc=TransposedLinear(8, 6), norm=nn.LayerNorm(6), act=nn.ReLU(), head=nn.Linear(6, 3)),
        tokens,
        {"fc.weight": blocks(6, axis=1)} | NORM_AND_HEAD,
    ),
    ZooModel(
        "transposed_weight_in_addmm_under_layernorm",
        "addmm(bias, x, weight), as some language models have it: output features run along dimension 1",
        lambda: net(fc=AddedProduct(5, 6), norm=nn.LayerNorm(6), act=nn.ReLU(), head=nn.Linear(6, 3)),
        rows,
        {"fc.weight": blocks(6, axis=1)} | NORM_AND_HEAD,
    ),
    ZooModel(
        "heads_along_dimension_one",
        "x @ weight with a norm on each head: blocks of columns",
        lambda: net(
            fc=TransposedLinear(8, 6),
            heads=nn.Unflatten(-1, (2, 3)),
            norm=nn.RMSNorm(3),
            act=nn.ReLU(),
            head=nn.Linear(3, 3),
        ),
        tokens,
        {"fc.weight": blocks(3, 3, axis=1), "norm.weight": NOT} | HEAD,
    ),
    ZooModel(
        "embedding_with_a_padding_word_under_layernorm",
        "autograd withholds the padding word's gradient, but scaling shows that its "
        "vector is normalized as well",
        lambda: net(
            words=nn.Embedding(7, 6, padding_idx=2), norm=nn.LayerNorm(6), act=nn.ReLU(), head=nn.Linear(6, 3)
        ),
        lambda g: torch.arange(7).reshape(1, 7),
        {"words.weight": kernels(7)} | NORM_AND_HEAD,
    ),
    ZooModel(
        "flatten_before_batchnorm1d",
        "every position is a channel of its own, and all positions of a kernel follow it",
        lambda: net(
            conv=nn.Conv2d(3, 4, (6, 5)),
            flat=nn.Flatten(),
            norm=nn.BatchNorm1d(16),
            act=nn.ReLU(),
            head=nn.Linear(16, 3),
        ),
        lambda g: torch.randn(6, 3, 7, 6, generator=g),
        {
            "conv.weight": kernels(
                4, norm=Follows(tuple(range(16)), FOUR_TIMES_EACH, "conv.bias", FOUR_TIMES_EACH)
            ),
            "conv.bias": UNDECIDED,
        }
        | NORM_AND_HEAD,
    ),
    ZooModel(
        "experts_in_one_parameter_under_layernorm",
        "every expert's matrix is normalized by itself",
        lambda: net(fc=Experts(3, 5, 4), norm=nn.LayerNorm(4), act=nn.ReLU(), head=nn.Linear(4, 3)),
        rows,
        {"fc.weight": kernels(3)} | NORM_AND_HEAD,
    ),
    ZooModel(
        "pixel_shuffle_before_the_norm",
        "four neighbouring kernels make one channel of the norm",
        lambda: net(
            conv=nn.Conv2d(3, 12, 3, bias=False),
            shuffle=nn.PixelShuffle(2),
            norm=nn.BatchNorm2d(3),
            **tail(3),
        ),
        images,
        {"conv.weight": blocks(4, 4, 4, norm=each(3))} | NORM_AND_HEAD,
    ),
    ZooModel(
        "channel_shuffle_before_the_norm",
        "kernels, but kernel g·2 + j is channel j·3 + g of the norm",
        lambda: net(
            conv=nn.Conv2d(3, 6, 3, groups=3), shuffle=ChannelShuffle(3), norm=nn.BatchNorm2d(6), **tail(6)
        ),
        images,
        {
            "conv.weight": kernels(
                6, norm=Follows((0, 3, 1, 4, 2, 5), tuple(range(6)), "conv.bias", tuple(range(6)))
            ),
            "conv.bias": UNDECIDED,
        }
        | NORM_AND_HEAD,
    ),
]


CHAINS = [
    ZooModel(
        "two_convolutions_in_a_row",
        "the first one's kernels are mixed by the second one: one scale for all, which every channel follows",
        lambda: net(
            first=nn.Conv2d(3, 5, 3, bias=False),
            conv=nn.Conv2d(5, 6, 3, bias=False),
            norm=nn.BatchNorm2d(6),
            **tail(6),
        ),
        images,
        {"first.weight": blocks(5, norm=all_with_one(6)), "conv.weight": kernels(6, norm=each(6))}
        | NORM_AND_HEAD,
    ),
    ZooModel(
        "two_convolutions_with_biases_in_a_row",
        "without padding the first bias is a constant to the norm, "
        "which only scaled along lets the running mean follow",
        lambda: net(first=nn.Conv2d(3, 5, 3), conv=nn.Conv2d(5, 6, 3), norm=nn.BatchNorm2d(6), **tail(6)),
        images,
        {
            "first.weight": blocks(5, bias="first.bias", norm=all_with_one(6, shift="conv.bias")),
            "first.bias": ALONG,
            "conv.weight": kernels(6, norm=each(6, shift="conv.bias")),
            "conv.bias": UNDECIDED,
        }
        | NORM_AND_HEAD,
    ),
    ZooModel(
        "four_weights_in_a_chain",
        "every weight scales all channels that it reaches; their factors multiply, and each is removed",
        lambda: net(
            one=nn.Conv2d(3, 6, 3, bias=False),
            two=nn.Conv2d(6, 6, 1, groups=2, bias=False),
            three=nn.Conv2d(6, 6, 1, groups=2, bias=False),
            conv=nn.Conv2d(6, 6, 3, groups=6, bias=False),
            norm=nn.BatchNorm2d(6),
            **tail(6),
        ),
        images,
        {
            "one.weight": blocks(3, 3, norm=Follows(tuple(range(6)), (0, 0, 0, 1, 1, 1))),
            "two.weight": blocks(3, 3, norm=Follows(tuple(range(6)), (0, 0, 0, 1, 1, 1))),
            "three.weight": kernels(6, norm=each(6)),
            "conv.weight": kernels(6, norm=each(6)),
        }
        | NORM_AND_HEAD,
    ),
    ZooModel(
        "two_convolutions_with_biases_and_padding_in_a_row",
        "at padded borders the first bias is no constant, so it scales along with its weight",
        lambda: net(
            first=nn.Conv2d(3, 5, 3), conv=nn.Conv2d(5, 6, 3, padding=1), norm=nn.BatchNorm2d(6), **tail(6)
        ),
        images,
        {
            "first.weight": blocks(5, bias="first.bias", norm=all_with_one(6, shift="conv.bias")),
            "first.bias": JOINT,
            "conv.weight": kernels(6, norm=each(6, shift="conv.bias")),
            "conv.bias": UNDECIDED,
        }
        | NORM_AND_HEAD,
    ),
    ZooModel(
        "linear_bottleneck",
        "norm, no activation, pointwise convolution, norm: "
        "the first norm's bias is removed by the second one",
        lambda: net(
            first=nn.Conv2d(3, 4, 1, bias=False),
            norm1=nn.BatchNorm2d(4),
            conv=nn.Conv2d(4, 6, 1, bias=False),
            norm=nn.BatchNorm2d(6),
            **tail(6),
        ),
        images,
        {
            "first.weight": kernels(4, norm1=each(4)),
            "norm1.weight": LEFT_OUT,
            "norm1.bias": ALONG,
            "conv.weight": kernels(6, norm=each(6)),
        }
        | NORM_AND_HEAD,
    ),
    ZooModel(
        "pointwise_then_depthwise",
        "a depthwise convolution mixes no channels: kernels on both sides, each with one channel of the norm",
        lambda: net(
            first=nn.Conv2d(3, 6, 1, bias=False),
            act1=nn.ReLU(),
            conv=nn.Conv2d(6, 6, 3, groups=6, bias=False),
            norm=nn.BatchNorm2d(6),
            **tail(6),
        ),
        images,
        {"first.weight": kernels(6, norm=each(6)), "conv.weight": kernels(6, norm=each(6))} | NORM_AND_HEAD,
    ),
    ZooModel(
        "bilinear_gate_before_layernorm",
        "a product of two linears is homogeneous in each of them, so each half has a scale",
        lambda: net(
            fc=nn.Linear(8, 12, bias=False),
            gate=Functional(lambda x: x[..., :6] * x[..., 6:]),
            norm=nn.LayerNorm(6),
            head=nn.Linear(6, 3),
        ),
        tokens,
        {"fc.weight": blocks(6, 6)} | NORM_AND_HEAD,
    ),
    ZooModel(
        "gated_linear_unit_before_the_norm",
        "the half that goes through the sigmoid has a scale, the other half has none",
        lambda: net(
            fc=nn.Linear(8, 12, bias=False), gate=nn.GLU(), norm=nn.LayerNorm(6), head=nn.Linear(6, 3)
        ),
        tokens,
        {"fc.weight": blocks(6, starts=(0,))} | NORM_AND_HEAD,
    ),
]

ZOO_LAYOUTS = [*LAYOUTS, *CHAINS]
