"""What do the zoo's hand-written layers look like?

The way people write them: no base class, an ε under any name. Models and their known answers are in the zoo's
other files.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class HandLayerNorm(nn.Module):
    """LayerNorm written out, with ``self.eps``."""

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(n_features))
        self.bias = nn.Parameter(torch.zeros(n_features))
        self.eps = 1e-6

    def forward(self, x: Tensor) -> Tensor:
        centered = x - x.mean(-1, keepdim=True)
        variance = centered.square().mean(-1, keepdim=True)
        return centered / torch.sqrt(variance + self.eps) * self.weight + self.bias


class HandRMSNorm(nn.Module):
    """RMSNorm as language models have it: ``variance_epsilon``, statistics in float32 if asked."""

    def __init__(self, n_features: int, *, in_float32: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(n_features))
        self.variance_epsilon = 1e-6
        self.in_float32 = in_float32

    def forward(self, x: Tensor) -> Tensor:
        statistics = x.to(torch.float32) if self.in_float32 else x
        mean_square = statistics.square().mean(-1, keepdim=True)
        statistics = statistics * torch.rsqrt(mean_square + self.variance_epsilon)
        return self.weight * statistics.to(x.dtype)


class HandBatchNorm2d(nn.Module):
    """BatchNorm written out, which keeps nine tenths of its running statistics by itself."""

    def __init__(self, n_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(n_channels))
        self.bias = nn.Parameter(torch.zeros(n_channels))
        self.register_buffer("running_mean", torch.zeros(n_channels))
        self.register_buffer("running_var", torch.ones(n_channels))
        self.eps = 1e-5

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
            self.running_mean.lerp_(mean.detach(), 0.1)
            self.running_var.lerp_(var.detach(), 0.1)
        else:
            mean, var = self.running_mean, self.running_var
        scale = self.weight / torch.sqrt(var + self.eps)
        return (x - mean.reshape(1, -1, 1, 1)) * scale.reshape(1, -1, 1, 1) + self.bias.reshape(1, -1, 1, 1)


class Functional(nn.Module):
    """Calls a function, so that a functional layer can stand in a Sequential."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, *tensors: Tensor) -> Tensor:
        return self.function(*tensors)


class FusedBatchNormAct(nn.Module):
    """Batch normalization and its activation in one module that calls ``F.batch_norm`` itself."""

    def __init__(self, n_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(n_channels))
        self.bias = nn.Parameter(torch.zeros(n_channels))
        self.register_buffer("running_mean", torch.zeros(n_channels))
        self.register_buffer("running_var", torch.ones(n_channels))
        self.eps = 1e-5

    def forward(self, x: Tensor) -> Tensor:
        statistics = self.running_mean, self.running_var
        x = F.batch_norm(x, *statistics, self.weight, self.bias, self.training, 0.1, self.eps)
        return F.silu(x)


class FrozenBatchNorm2d(nn.Module):
    """The detection libraries' own: four buffers and no statistics of the batch, in any mode."""

    def __init__(self, n_channels: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.ones(n_channels))
        self.register_buffer("bias", torch.zeros(n_channels))
        self.register_buffer("running_mean", torch.zeros(n_channels))
        self.register_buffer("running_var", torch.ones(n_channels))

    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight * torch.rsqrt(self.running_var + 1e-5)
        shift = self.bias - self.running_mean * scale
        return x * scale.reshape(1, -1, 1, 1) + shift.reshape(1, -1, 1, 1)


class StandardizedConv2d(nn.Conv2d):
    """A convolution that normalizes its own weight, with ``F.batch_norm`` as libraries do it."""

    eps = 1e-8

    def forward(self, x: Tensor) -> Tensor:
        rows = self.weight.reshape(1, self.out_channels, -1)
        standardized = F.batch_norm(rows, None, None, training=True, momentum=0.0, eps=self.eps)
        weight = standardized.reshape_as(self.weight)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class TransposedLinear(nn.Module):
    """``x @ weight`` with the weight as (in, out): output channels run along dimension 1."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_in, n_out) / math.sqrt(n_in))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


class AddedProduct(TransposedLinear):
    """``addmm`` with the weight as (in, out), and nothing to add."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(x.new_zeros(()), x, self.weight)


class Experts(nn.Module):
    """One linear map for each expert in one (expert, in, out) parameter; their outputs side by side."""

    def __init__(self, n_experts: int, n_in: int, n_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_experts, n_in, n_out) / math.sqrt(n_in))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("ni,eio->neo", x, self.weight)


class FusedAttention(nn.Module):
    """Self-attention with one weight for query, key and value and a norm of choice on each of the three."""

    def __init__(
        self, n_features: int, n_heads: int, *, bias: bool, norms: str, per_head_value: bool = False
    ) -> None:
        super().__init__()
        self.n_heads = n_heads
        size = n_features // n_heads
        self.qkv = nn.Linear(n_features, 3 * n_features, bias=bias)
        self.q_norm = nn.RMSNorm(size) if "q" in norms else nn.Identity()
        self.k_norm = nn.LayerNorm(size) if "k" in norms else nn.Identity()
        self.v_norm = nn.LayerNorm(size if per_head_value else n_features) if "v" in norms else nn.Identity()
        self.per_head_value = per_head_value
        self.out = nn.Linear(n_features, n_features)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(x).chunk(3, dim=-1)
        query, key = self.q_norm(self.heads(query)), self.k_norm(self.heads(key))
        value = self.v_norm(self.heads(value)) if self.per_head_value else self.heads(self.v_norm(value))
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.out(mixed.transpose(1, 2).flatten(2))

    def heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)


class CosineAttention(FusedAttention):
    """Attention by cosines: query and key are normalized by ``F.normalize``, the value is not."""

    def __init__(self, n_features: int, n_heads: int) -> None:
        super().__init__(n_features, n_heads, bias=False, norms="")
        del self.qkv
        self.q = nn.Linear(n_features, n_features)
        self.k = nn.Linear(n_features, n_features, bias=False)
        self.v = nn.Linear(n_features, n_features, bias=False)
        self.temperature = nn.Parameter(torch.tensor(5.0))

    def forward(self, x: Tensor) -> Tensor:
        query, key = (F.normalize(self.heads(project(x)), dim=-1) for project in (self.q, self.k))
        weights = (self.temperature * query @ key.transpose(-1, -2)).softmax(-1)
        return self.out((weights @ self.heads(self.v(x))).transpose(1, 2).flatten(2))


class CosineHead(nn.Module):
    """A classifier by cosines: features and class vectors are both normalized."""

    def __init__(self, n_features: int, n_classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_classes, n_features))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.normalize(x, dim=-1), F.normalize(self.weight, dim=-1))


class ScalarGain(nn.Module):
    """Multiplies by one learned number."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(value))

    def forward(self, x: Tensor) -> Tensor:
        return self.gain * x


class ChannelShuffle(nn.Module):
    """Channel g·(C/groups) + j goes to place j·groups + g."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(1, (self.groups, -1)).transpose(1, 2).flatten(1, 2)


class Refuses64(nn.Module):
    """An operation without a float64 kernel."""

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype == torch.float64:
            raise RuntimeError("\"fast_kernel\" not implemented for 'Double'")
        return x
