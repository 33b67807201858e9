"""Which weights are scale-invariant inside whole networks? Small ones of every usual architecture.

Residual, branched, concatenating, gated, recurrent ones and transformers. What they take and return, and how
they draw random numbers, is varied in zoo_behaviours.py.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from support.zoo_entry import (
    HEAD,
    JOINT,
    LEFT_OUT,
    NORM_AND_HEAD,
    NOT,
    UNDECIDED,
    ZooModel,
    blocks,
    each,
    images,
    kernels,
    net,
    rows,
    tokens,
    word_ids,
)
from support.zoo_modules import CosineAttention, FusedAttention


def conv3(n_in: int, n_out: int, *, bias: bool = False) -> nn.Conv2d:
    return nn.Conv2d(n_in, n_out, 3, padding=1, bias=bias)


def gains(*names: str) -> dict[str, str]:
    return {f"{name}.{kind}": NOT for name in names for kind in ("weight", "bias")}


# The gain and bias of a norm whose only consumer is normalized scale together, and have no direction.
GAIN_ALONG_WITH_BIAS = {"bn1.weight": LEFT_OUT, "bn1.bias": JOINT}


class PreActivation(nn.Module):
    """Two residual blocks whose norms come first; the second one has a convolution on its shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv3(3, 4)
        self.bn1, self.conv1, self.bn2, self.conv2 = (
            nn.BatchNorm2d(4),
            conv3(4, 5),
            nn.BatchNorm2d(5),
            conv3(5, 4),
        )
        self.bn3, self.conv3, self.bn4, self.conv4 = (
            nn.BatchNorm2d(4),
            conv3(4, 5),
            nn.BatchNorm2d(5),
            conv3(5, 6),
        )
        self.shortcut = nn.Conv2d(4, 6, 1, bias=False)
        self.norm, self.head = nn.BatchNorm2d(6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.conv2(F.relu(self.bn2(self.conv1(F.relu(self.bn1(x))))))
        y = F.relu(self.bn3(x))
        x = self.shortcut(y) + self.conv4(F.relu(self.bn4(self.conv3(y))))
        return self.head(F.relu(self.norm(x)).mean((2, 3)))


class PostActivation(nn.Module):
    """A residual block whose norms come after the convolutions, on the shortcut too."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv3(3, 4), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = conv3(4, 6), nn.BatchNorm2d(6)
        self.downsample = nn.Sequential(nn.Conv2d(3, 6, 1, bias=False), nn.BatchNorm2d(6))
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return self.head(F.relu(y + self.downsample(x)).mean((2, 3)))


class SumBeforeNorm(nn.Module):
    """One norm after the sum of a convolution and its input."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = conv3(3, 3), nn.BatchNorm2d(3), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.norm(x + self.conv(x))).mean((2, 3)))


class Branches(nn.Module):
    """The sum of three branches, each with a norm of its own, one of them without a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.large, self.small = conv3(3, 3), nn.Conv2d(3, 3, 1, bias=False)
        self.bn1, self.bn2, self.bn3 = nn.BatchNorm2d(3), nn.BatchNorm2d(3), nn.BatchNorm2d(3)
        self.head = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.large(x)) + self.bn2(self.small(x)) + self.bn3(x))
        return self.head(x.mean((2, 3)))


class Dense(nn.Module):
    """Every layer reads all before it, side by side: a convolution feeds several norms, at an offset."""

    def __init__(self) -> None:
        super().__init__()
        self.conv0, self.conv1, self.conv2 = conv3(3, 4), conv3(4, 2), conv3(6, 2)
        self.bn1, self.bn2, self.norm = nn.BatchNorm2d(4), nn.BatchNorm2d(6), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv0(x)
        x = torch.cat([x, self.conv1(F.relu(self.bn1(x)))], dim=1)
        x = torch.cat([x, self.conv2(F.relu(self.bn2(x)))], dim=1)
        return self.head(F.relu(self.norm(x)).mean((2, 3)))


class ConcatenatedWithInput(nn.Module):
    """A convolution beside its input, before a norm and, after another one, before a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm1 = conv3(3, 4), nn.BatchNorm2d(7)
        self.second, self.mix, self.norm2 = conv3(7, 2), conv3(9, 5), nn.BatchNorm2d(5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm1(torch.cat([x, self.first(x)], dim=1)))
        return F.relu(self.norm2(self.mix(torch.cat([x, self.second(x)], dim=1))))


class Gated(nn.Module):
    """Squeeze and excitation between two normalized convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = conv3(3, 4), nn.BatchNorm2d(4)
        self.reduce, self.expand = nn.Conv2d(4, 2, 1), nn.Conv2d(2, 4, 1)
        self.last, self.bn2 = conv3(4, 5), nn.BatchNorm2d(5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.conv(x)))
        gate = torch.sigmoid(self.expand(F.relu(self.reduce(x.mean((2, 3), keepdim=True)))))
        return F.relu(self.bn2(self.last(x * gate)))


class Recurrence(nn.Module):
    """Words, an LSTM, a classifier of its last state."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.lstm, self.head = (
            nn.Embedding(7, 4),
            nn.LSTM(4, 5, batch_first=True),
            nn.Linear(5, 3),
        )

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.lstm(self.words(ids))[0][:, -1])


NETWORKS = [
    ZooModel(
        "pre_activation_residual_network",
        "only the first convolution of a block is normalized before anything is added to it",
        PreActivation,
        images,
        {
            "stem.weight": NOT,
            "conv1.weight": kernels(5, bn2=each(5)),
            "conv2.weight": NOT,
            "conv3.weight": kernels(5, bn4=each(5)),
            "conv4.weight": NOT,
            "shortcut.weight": NOT,
        }
        | gains("bn2", "bn3", "bn4", "norm", "head")
        | GAIN_ALONG_WITH_BIAS,
    ),
    ZooModel(
        "post_activation_residual_network",
        "every convolution is normalized before the sum",
        PostActivation,
        images,
        {
            "conv1.weight": kernels(4, bn1=each(4)),
            "conv2.weight": kernels(6, bn2=each(6)),
            "downsample.0.weight": kernels(6, downsample__1=each(6)),
        }
        | gains("bn2", "downsample.1", "head")
        | GAIN_ALONG_WITH_BIAS,
    ),
    ZooModel(
        "sum_before_the_norm",
        "the norm removes the scale of the sum, not of one of its terms",
        SumBeforeNorm,
        images,
        {"conv.weight": NOT} | NORM_AND_HEAD,
    ),
    ZooModel(
        "branches_with_their_own_norms",
        "every branch is normalized before the sum",
        Branches,
        images,
        {"large.weight": kernels(3, bn1=each(3)), "small.weight": kernels(3, bn2=each(3))}
        | gains("bn1", "bn2", "bn3", "head"),
    ),
    ZooModel(
        "densely_connected_network",
        "a convolution feeds one norm for each later layer, at its own offset in them",
        Dense,
        images,
        {
            "conv0.weight": kernels(4, bn1=each(4), bn2=each(4), norm=each(4)),
            "conv1.weight": kernels(2, bn2=each(2, offset=4), norm=each(2, offset=4)),
            "conv2.weight": kernels(2, norm=each(2, offset=6)),
        }
        | gains("norm", "head")
        | GAIN_ALONG_WITH_BIAS
        | {"bn2.weight": LEFT_OUT, "bn2.bias": JOINT},
    ),
    ZooModel(
        "concatenated_with_the_input",
        "beside the input under a norm a kernel keeps its scale; "
        "beside it under a convolution it is mixed in",
        ConcatenatedWithInput,
        images,
        {
            "first.weight": kernels(4, norm1=each(4, offset=3)),
            "second.weight": NOT,
            "mix.weight": kernels(5, norm2=each(5)),
        }
        | gains("norm2")
        | {"norm1.weight": LEFT_OUT, "norm1.bias": JOINT},
    ),
    ZooModel(
        "squeeze_and_excitation",
        "the gate is a sigmoid: neither of its convolutions has a scale, and no gain before it",
        Gated,
        images,
        {
            "conv.weight": kernels(4, norm=each(4)),
            "last.weight": kernels(5, bn2=each(5)),
        }
        | gains("norm", "reduce", "expand", "bn2"),
    ),
    ZooModel(
        "transformer_block_with_norms_first",
        "what a block adds to the stream is not normalized; nn.TransformerEncoderLayer",
        lambda: nn.TransformerEncoderLayer(8, 2, 12, dropout=0.1, batch_first=True, norm_first=True),
        tokens,
        {"self_attn.in_proj_weight": NOT, "self_attn.in_proj_bias": NOT}
        | gains("self_attn.out_proj", "linear1", "linear2", "norm1", "norm2"),
    ),
    ZooModel(
        "transformer_block_with_norms_last",
        "the norm comes after the sum with the stream",
        lambda: nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True),
        tokens,
        {"self_attn.in_proj_weight": NOT, "self_attn.in_proj_bias": NOT}
        | gains("self_attn.out_proj", "linear1", "linear2", "norm1", "norm2"),
    ),
    ZooModel(
        "embedding_and_lstm",
        "gates are sigmoids; nothing is normalized",
        Recurrence,
        word_ids,
        {f"lstm.{kind}_{part}_l0": NOT for kind in ("weight", "bias") for part in ("ih", "hh")}
        | {"words.weight": NOT}
        | HEAD,
    ),
    ZooModel(
        "no_normalization",
        "without a normalization every weight scales something",
        lambda: net(fc=nn.Linear(5, 6), act=nn.ReLU(), head=nn.Linear(6, 3)),
        rows,
        {"fc.weight": NOT, "fc.bias": NOT} | HEAD,
    ),
]

ATTENTION_PARTS = {"q_norm.weight": NOT, "k_norm.weight": NOT, "out.weight": NOT, "out.bias": NOT}
VALUE_NORM = {"v_norm.weight": NOT, "v_norm.bias": NOT}
ATTENTION = [
    ZooModel(
        "fused_qkv_with_norms_on_heads_and_on_the_value",
        "query and key are normalized head by head, the value as a whole; "
        "a bias on all keys alike cancels in the softmax",
        lambda: FusedAttention(8, 2, bias=False, norms="qkv"),
        tokens,
        {"qkv.weight": blocks(4, 4, 4, 4, 8), "k_norm.bias": UNDECIDED} | ATTENTION_PARTS | VALUE_NORM,
    ),
    ZooModel(
        "fused_qkv_with_bias_and_norms_on_all_heads",
        "query, key and value are normalized head by head, biases along with them",
        lambda: FusedAttention(8, 2, bias=True, norms="qkv", per_head_value=True),
        tokens,
        {"qkv.weight": blocks(4, 4, 4, 4, 4, 4, bias="qkv.bias"), "qkv.bias": JOINT, "k_norm.bias": UNDECIDED}
        | ATTENTION_PARTS
        | VALUE_NORM,
    ),
    ZooModel(
        "fused_qkv_whose_value_is_not_normalized",
        "the value's rows scale the output, those of query and key have no scale",
        lambda: FusedAttention(8, 2, bias=False, norms="qk"),
        tokens,
        {"qkv.weight": blocks(4, 4, 4, 4, starts=(0, 4, 8, 12)), "k_norm.bias": UNDECIDED} | ATTENTION_PARTS,
    ),
    ZooModel(
        "cosine_attention",
        "F.normalize on query and key gives every head a scale; the value and the temperature have none",
        lambda: CosineAttention(8, 2),
        tokens,
        {
            "temperature": NOT,
            "out.weight": NOT,
            "out.bias": NOT,
            "q.weight": blocks(4, 4, bias="q.bias"),
            "q.bias": JOINT,
            "k.weight": blocks(4, 4),
            "v.weight": NOT,
        },
    ),
    ZooModel(
        "attention_without_norms",
        "softmax is not homogeneous",
        lambda: net(attention=FusedAttention(8, 2, bias=False, norms="")),
        tokens,
        {"attention.qkv.weight": NOT, "attention.out.weight": NOT, "attention.out.bias": NOT},
    ),
]

ZOO_NETWORKS = [*NETWORKS, *ATTENTION]
