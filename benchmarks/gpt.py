"""A language model whose queries and keys are normalized head by head, of the size of GPT-2.

Its scale-invariant rows are known: those that make queries and keys. Trains nothing.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import decayfree
from decayfree.invariance.verdict import ScaleInvariantWeight, Verdict


class Attention(nn.Module):
    """Causal, with queries, keys and values from one projection and RMSNorm on each head of the first two."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_norm, self.k_norm = (nn.RMSNorm(width // n_heads) for _ in range(2))
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Of (batch, tokens, width)."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.n_heads, -1)).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(self.q_norm(q), self.k_norm(k), v, is_causal=True)
        return self.out(y.transpose(1, 2).flatten(2))


class Layer(nn.Module):
    """Attention and a network of one hidden layer, each added to what comes in."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, n_heads)
        self.hidden = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Of (batch, tokens, width)."""
        x = x + self.attention(self.norm1(x))
        return x + self.hidden(self.norm2(x))


class GPT(nn.Module):
    """12 layers of width 768 with 12 heads, 124 M parameters."""

    def __init__(
        self, width: int = 768, n_heads: int = 12, n_layers: int = 12, n_tokens: int = 50_257
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(n_tokens, width)
        self.layers = nn.ModuleList(Layer(width, n_heads) for _ in range(n_layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Scores of the next token, (batch, tokens, vocabulary), of (batch, tokens)."""
        x = self.embedding(tokens)
        for layer in self.layers:
            x = layer(x)
        return F.linear(self.norm(x), self.embedding.weight)


def with_heads(model: GPT) -> decayfree.Invariance:
    """Its heads of queries and keys as scale-invariant rows."""
    weights, verdicts = [], {}
    for name, parameter in model.named_parameters():
        is_held = name.endswith("qkv.weight")
        if is_held:
            width = parameter.shape[1]
            size = width // model.layers[0].attention.n_heads
            starts = tuple(range(0, 2 * width, size))
            weights.append(ScaleInvariantWeight(name, None, 0, (size,) * len(starts), (), 0.0, starts=starts))
        verdict = "invariant" if is_held else "not_invariant"
        verdicts[name] = Verdict(name, verdict, "known by construction", 0.0, tuple(parameter.shape))
    return decayfree.Invariance(model, weights, verdicts, dtype=torch.float64, confirmed_to=0.0)
