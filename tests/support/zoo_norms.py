"""Which weights do the usual normalizations and activations make scale-invariant? One small model for each.

The rows of the granularity table: kernels, groups, heads, whole weights; and what may stand between a weight
and its norm. Layouts, tricks and whole networks are in the zoo's other files.
"""

import torch
import torch.nn.functional as F
from torch import nn

from support.zoo_entry import (
    HEAD,
    JOINT,
    LEFT_OUT,
    NORM,
    NORM_AND_HEAD,
    NOT,
    UNDECIDED,
    Scaled,
    ZooModel,
    all_with_one,
    blocks,
    each,
    images,
    kernels,
    net,
    rows,
    tail,
    tokens,
)
from support.zoo_modules import CosineHead, Functional, HandBatchNorm2d, HandLayerNorm, HandRMSNorm


def conv(*, bias: bool = False, **options) -> nn.Conv2d:
    return nn.Conv2d(3, 6, 3, padding=1, bias=bias, **options)


def under(norm: nn.Module, *, bias: bool = False) -> nn.Sequential:
    return net(conv=conv(bias=bias), norm=norm, **tail(6))


def between(*middle: nn.Module, bias: bool = False) -> nn.Sequential:
    return net(conv=conv(bias=bias), middle=nn.Sequential(*middle), norm=nn.BatchNorm2d(6), **tail(6))


def on_tokens(norm: nn.Module, *, bias: bool = False) -> nn.Sequential:
    return net(fc=nn.Linear(8, 6, bias=bias), norm=norm, act=nn.ReLU(), head=nn.Linear(6, 3))


BATCH_NORMS = [
    ZooModel(
        "linear_under_batchnorm1d",
        "every feature has its own mean and variance over the batch; the bias is removed with the mean",
        lambda: net(fc=nn.Linear(5, 6), norm=nn.BatchNorm1d(6), act=nn.ReLU(), head=nn.Linear(6, 3)),
        rows,
        {"fc.weight": kernels(6, norm=each(6, shift="fc.bias")), "fc.bias": UNDECIDED} | NORM_AND_HEAD,
    ),
    ZooModel(
        "conv1d_under_batchnorm1d",
        "a kernel's output channel is normalized over batch and positions by itself",
        lambda: net(conv=nn.Conv1d(5, 6, 3, bias=False), norm=nn.BatchNorm1d(6), **tail(6, 1)),
        lambda g: torch.randn(4, 5, 9, generator=g),
        {"conv.weight": kernels(6, norm=each(6))} | NORM_AND_HEAD,
    ),
    ZooModel(
        "conv2d_under_batchnorm2d",
        "a kernel's output channel is normalized over batch and positions by itself",
        lambda: under(nn.BatchNorm2d(6)),
        images,
        {"conv.weight": kernels(6, norm=each(6))} | NORM_AND_HEAD,
    ),
    ZooModel(
        "conv3d_under_batchnorm3d",
        "a kernel's output channel is normalized over batch and positions by itself",
        lambda: net(conv=nn.Conv3d(2, 4, 3, bias=False), norm=nn.BatchNorm3d(4), **tail(4, 3)),
        lambda g: torch.randn(3, 2, 5, 5, 5, generator=g),
        {"conv.weight": kernels(4, norm=each(4))} | NORM_AND_HEAD,
    ),
    ZooModel(
        "conv_with_bias_under_batchnorm",
        "the bias shifts a channel's mean, which is subtracted: it has no effect, and no gradient",
        lambda: under(nn.BatchNorm2d(6), bias=True),
        images,
        {"conv.weight": kernels(6, norm=each(6, shift="conv.bias")), "conv.bias": UNDECIDED} | NORM_AND_HEAD,
    ),
    ZooModel(
        "batchnorm_without_gain",
        "invariance comes from the division by the batch's deviation, not from gain and bias",
        lambda: under(nn.BatchNorm2d(6, affine=False)),
        images,
        {"conv.weight": kernels(6, norm=each(6))} | HEAD,
    ),
    ZooModel(
        "batchnorm_without_running_statistics",
        "nothing has to follow a rescale",
        lambda: under(nn.BatchNorm2d(6, track_running_stats=False), bias=True),
        images,
        {"conv.weight": kernels(6), "conv.bias": UNDECIDED} | NORM_AND_HEAD,
    ),
    ZooModel(
        "batchnorm_with_cumulative_average",
        "momentum=None averages over all batches: the statistics follow like any others",
        lambda: under(nn.BatchNorm2d(6, momentum=None)),
        images,
        {"conv.weight": kernels(6, norm=each(6))} | NORM_AND_HEAD,
    ),
    ZooModel(
        "one_input_channel_a_hundred_thousand_times_fainter",
        "its kernels' channels have a variance of 1e-11 beside running ones of 1, and follow like the others",
        lambda: net(
            conv=nn.Conv2d(3, 6, 3, groups=3, bias=False),
            norm=nn.BatchNorm2d(6),
            **tail(6),
        ),
        lambda g: images(g) * torch.tensor([1.0, 1e-5, 1.0]).reshape(1, 3, 1, 1),
        {"conv.weight": kernels(6, norm=each(6))} | NORM_AND_HEAD,
    ),
    ZooModel(
        "hand_written_batchnorm",
        "its statistics follow whatever share of a batch it takes in; no function says which",
        lambda: under(HandBatchNorm2d(6), bias=True),
        images,
        {"conv.weight": kernels(6, norm=each(6, shift="conv.bias")), "conv.bias": UNDECIDED} | NORM_AND_HEAD,
    ),
    ZooModel(
        "sync_batchnorm_on_one_process",
        "without a process group SyncBatchNorm is BatchNorm",
        lambda: under(nn.SyncBatchNorm(6), bias=True),
        images,
        {"conv.weight": kernels(6, norm=each(6, shift="conv.bias")), "conv.bias": UNDECIDED} | NORM_AND_HEAD,
    ),
    ZooModel(
        "functional_batchnorm_without_a_module",
        "the function alone makes kernels invariant; there are no statistics to follow",
        lambda: under(Functional(lambda x: F.batch_norm(x, None, None, training=True))),
        images,
        {"conv.weight": kernels(6)} | HEAD,
    ),
]

OTHER_NORMS = [
    ZooModel(
        "conv_under_instancenorm",
        "every channel of every sample is normalized by itself; the bias is removed with the mean",
        lambda: under(nn.InstanceNorm2d(6), bias=True),
        images,
        {"conv.weight": kernels(6), "conv.bias": UNDECIDED} | HEAD,
    ),
    ZooModel(
        "instancenorm_with_running_statistics",
        "kernels, and this InstanceNorm has running statistics that follow",
        lambda: under(nn.InstanceNorm2d(6, affine=True, track_running_stats=True), bias=True),
        images,
        {"conv.weight": kernels(6, norm=each(6, shift="conv.bias")), "conv.bias": UNDECIDED} | NORM_AND_HEAD,
    ),
    ZooModel(
        "conv_under_groupnorm",
        "three channels share mean and deviation, so they share a scale; "
        "their biases differ, so they take part in it",
        lambda: under(nn.GroupNorm(2, 6), bias=True),
        images,
        {"conv.weight": blocks(3, 3, bias="conv.bias"), "conv.bias": JOINT} | NORM_AND_HEAD,
    ),
    ZooModel(
        "conv_without_bias_under_groupnorm",
        "three channels share mean and deviation, so they share a scale",
        lambda: under(nn.GroupNorm(2, 6)),
        images,
        {"conv.weight": blocks(3, 3)} | NORM_AND_HEAD,
    ),
    ZooModel(
        "groupnorm_with_a_group_for_each_channel",
        "groups of one channel are InstanceNorm: kernels, and the bias is removed",
        lambda: under(nn.GroupNorm(6, 6), bias=True),
        images,
        {"conv.weight": kernels(6), "conv.bias": UNDECIDED} | NORM_AND_HEAD,
    ),
    ZooModel(
        "linear_under_layernorm",
        "all features share mean and deviation: the whole weight, with the bias that is normalized along",
        lambda: on_tokens(nn.LayerNorm(6), bias=True),
        tokens,
        {"fc.weight": blocks(6, bias="fc.bias"), "fc.bias": JOINT} | NORM_AND_HEAD,
    ),
    ZooModel(
        "linear_without_bias_under_layernorm",
        "all features share mean and deviation: the whole weight",
        lambda: on_tokens(nn.LayerNorm(6)),
        tokens,
        {"fc.weight": blocks(6)} | NORM_AND_HEAD,
    ),
    ZooModel(
        "linear_under_rmsnorm",
        "all features share one root mean square: the whole weight, with the bias",
        lambda: on_tokens(nn.RMSNorm(6), bias=True),
        tokens,
        {"fc.weight": blocks(6, bias="fc.bias"), "fc.bias": JOINT, "norm.weight": NOT} | HEAD,
    ),
    ZooModel(
        "hand_written_layernorm",
        "normalization is what is computed, not the name of a class",
        lambda: on_tokens(HandLayerNorm(6), bias=True),
        tokens,
        {"fc.weight": blocks(6, bias="fc.bias"), "fc.bias": JOINT} | NORM_AND_HEAD,
    ),
    ZooModel(
        "hand_written_rmsnorm_with_variance_epsilon",
        "normalization is what is computed, under whatever name its epsilon goes",
        lambda: on_tokens(HandRMSNorm(6)),
        tokens,
        {"fc.weight": blocks(6), "norm.weight": NOT} | HEAD,
    ),
    ZooModel(
        "functional_layernorm",
        "its epsilon is the function's default and no module's attribute",
        lambda: on_tokens(Functional(lambda x: F.layer_norm(x, (6,))), bias=True),
        tokens,
        {"fc.weight": blocks(6, bias="fc.bias"), "fc.bias": JOINT} | HEAD,
    ),
    ZooModel(
        "functional_rmsnorm_and_groupnorm",
        "the first weight has one scale under RMS over all features, the second one for each of two groups",
        lambda: net(
            fc=nn.Linear(8, 6, bias=False),
            norm=Functional(lambda x: F.rms_norm(x, (6,), eps=1e-5)),
            act=nn.ReLU(),
            second=nn.Linear(6, 6, bias=False),
            groups=Functional(lambda x: F.group_norm(x.flatten(0, 1), 2, None, None, 1e-5)),
            head=nn.Sequential(nn.ReLU(), nn.Linear(6, 3)),
        ),
        tokens,
        {"fc.weight": blocks(6), "second.weight": blocks(3, 3), "head.1.weight": NOT, "head.1.bias": NOT},
    ),
    ZooModel(
        "layernorm_over_channels_after_a_depthwise_convolution",
        "channels-last LayerNorm: all kernels share a scale at every position",
        lambda: net(
            conv=nn.Conv2d(3, 3, 3, padding=1, groups=3),
            last=Functional(lambda x: x.permute(0, 2, 3, 1)),
            norm=nn.LayerNorm(3),
            act=nn.GELU(),
            head=nn.Linear(3, 3),
        ),
        images,
        {"conv.weight": blocks(3, bias="conv.bias"), "conv.bias": JOINT} | NORM_AND_HEAD,
    ),
    ZooModel(
        "gain_between_two_norms",
        "a gain without bias whose only consumer is normalized has a scale, but its rows are single numbers",
        lambda: net(
            first=nn.RMSNorm(8),
            fc=nn.Linear(8, 6, bias=False),
            norm=nn.LayerNorm(6),
            act=nn.ReLU(),
            head=nn.Linear(6, 3),
        ),
        tokens,
        {"first.weight": LEFT_OUT, "fc.weight": blocks(6)} | NORM_AND_HEAD,
    ),
    ZooModel(
        "a_weight_before_a_gain_that_is_normalized_away",
        "the first norm takes the first weight's scale, and its gain, which is scaled too, has none itself",
        lambda: net(
            first=nn.Linear(8, 8, bias=False),
            norm1=nn.RMSNorm(8),
            fc=nn.Linear(8, 6, bias=False),
            norm=nn.LayerNorm(6),
            act=nn.ReLU(),
            head=nn.Linear(6, 3),
        ),
        tokens,
        {"first.weight": blocks(8), "norm1.weight": LEFT_OUT, "fc.weight": blocks(6)} | NORM_AND_HEAD,
    ),
    ZooModel(
        "linear_under_cosine_classifier",
        "features and class vectors are normalized: one scale for all features, one for each class vector",
        lambda: net(fc=nn.Linear(5, 6), head=CosineHead(6, 4)),
        rows,
        {"fc.weight": blocks(6, bias="fc.bias"), "fc.bias": JOINT, "head.weight": kernels(4)},
    ),
    ZooModel(
        "embedding_under_layernorm",
        "every word's vector is normalized by itself",
        lambda: net(words=nn.Embedding(7, 6), norm=nn.LayerNorm(6), act=nn.ReLU(), head=nn.Linear(6, 3)),
        lambda g: torch.arange(7).reshape(1, 7),
        {"words.weight": kernels(7)} | NORM_AND_HEAD,
    ),
]


def kept(name: str, reason: str, *middle: nn.Module) -> ZooModel:
    answer = kernels(6, norm=each(6))
    return ZooModel(name, reason, lambda: between(*middle), images, {"conv.weight": answer} | NORM_AND_HEAD)


def with_bias(name: str, reason: str, answer: Scaled | str, bias: str, *middle: nn.Module) -> ZooModel:
    known = {"conv.weight": answer, "conv.bias": bias} | NORM_AND_HEAD
    return ZooModel(name, reason, lambda: between(*middle, bias=True), images, known)


def broken(name: str, middle: nn.Module, *, factor: float = 1.7, size: float = 1.0) -> ZooModel:
    return ZooModel(
        f"{name}_between_weight_and_norm",
        f"{name} is not positively homogeneous: it changes shape with the scale of what goes in",
        lambda: between(middle),
        lambda g: size * images(g),
        {"conv.weight": NOT} | NORM_AND_HEAD,
        factor=factor,
    )


ACTIVATIONS = [
    kept("relu_before_the_norm", "max(cx, 0) = c max(x, 0) for positive c", nn.ReLU()),
    kept("leaky_relu_before_the_norm", "positively homogeneous", nn.LeakyReLU(0.1)),
    kept(
        "pools_before_the_norm", "maxima and means scale along", nn.MaxPool2d(2), nn.AvgPool2d(2, padding=1)
    ),
    kept(
        "dropout_before_the_norm",
        "its mask does not depend on the values",
        nn.Dropout(0.3),
        nn.Dropout2d(0.2),
    ),
    with_bias(
        "bias_and_max_pool_before_the_norm",
        "max(x + b) = max(x) + b: the bias is still a constant that the mean removes",
        kernels(6, norm=each(6, shift="conv.bias")),
        UNDECIDED,
        nn.MaxPool2d(2),
    ),
    with_bias(
        "bias_and_relu_before_the_norm",
        "the weight alone has no scale, as the bias decides where ReLU bends; "
        "weight and bias together have one a kernel",
        kernels(6, bias="conv.bias", norm=each(6)),
        JOINT,
        nn.ReLU(),
    ),
    with_bias(
        "bias_and_dropout_before_the_norm",
        "the mask makes the bias vary over positions, so it is not removed with the mean; it scales along",
        kernels(6, bias="conv.bias", norm=each(6)),
        JOINT,
        nn.Dropout(0.3),
    ),
    with_bias(
        "bias_and_gelu_before_the_norm",
        "GELU is not homogeneous, with or without the bias",
        NOT,
        NOT,
        nn.GELU(),
    ),
    broken("gelu", nn.GELU()),
    broken("silu", nn.SiLU()),
    broken("relu6", nn.ReLU6(), size=10.0),
    broken("relu6_far_below_its_bend", nn.ReLU6(), factor=20.0),
    broken("hardshrink_far_above_its_bend", nn.Hardshrink(1e-4), factor=0.01),
    broken("hardswish", nn.Hardswish()),
    broken("sigmoid", nn.Sigmoid()),
    broken("tanh", nn.Tanh()),
    broken("local_response_norm", nn.LocalResponseNorm(3, alpha=0.5)),
    ZooModel(
        "squared_relu_between_two_linears_under_layernorm",
        "homogeneous of degree two is homogeneous: the factor is squared and still removed",
        lambda: net(
            fc=nn.Linear(8, 6),
            act=Functional(lambda x: F.relu(x).square()),
            second=nn.Linear(6, 6, bias=False),
            norm=nn.LayerNorm(6),
            head=nn.Linear(6, 3),
        ),
        tokens,
        {"fc.weight": blocks(6, bias="fc.bias"), "fc.bias": JOINT, "second.weight": blocks(6)}
        | NORM_AND_HEAD,
    ),
    ZooModel(
        "two_linears_with_relu_under_batchnorm",
        "the second weight's rows are kernels; the first's are mixed by it and have "
        "one scale, with their bias",
        lambda: net(
            fc=nn.Linear(5, 7),
            act=nn.ReLU(),
            second=nn.Linear(7, 6),
            norm=nn.BatchNorm1d(6),
            head=nn.Sequential(nn.ReLU()),
        ),
        rows,
        {
            "fc.weight": blocks(7, bias="fc.bias", norm=all_with_one(6, shift="second.bias")),
            "fc.bias": JOINT,
            "second.weight": kernels(6, norm=each(6, shift="second.bias")),
            "second.bias": UNDECIDED,
        }
        | NORM,
    ),
]

ZOO_NORMS = [*BATCH_NORMS, *OTHER_NORMS, *ACTIVATIONS]
