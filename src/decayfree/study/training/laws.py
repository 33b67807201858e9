"""What must happen to the off-span part of the first layer, by algebra alone.

Looks at no gradient and measures nothing; `sampling` does, and the page holds the two against each other.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from decayfree.blocks import scale_blocks_
from decayfree.invariance.result import Invariance
from decayfree.rescaling.weight_rescaling import rescalings_on


class OffSpanLaw:
    """How long each row's off-span part must be, from its first length and the optimizer's settings.

    A gradient has no off-span part, so that SGD with learning rate η, momentum μ and weight decay λ makes of
    a row's off-span part q and of that of its momentum buffer b (0 at first): b ← μb + λq, then q ← q − ηb
    (Nesterov: q ← q − η(λq + μb)). A rescale multiplies q by the row's factor and leaves b alone. Without
    decay b stays 0, and no learning rate, scaled or not, moves q. Exact replay adds the decay that it replays
    to the gradients itself, and first multiplies b by the ratio of the last two norms that it replays.

    Args:
        optimizer: A ``torch.optim.SGD``, in the state before its first step.
        found: The scale-invariant weights of its model.
        name: Parameter name of the weight; its rows run along dimension 0.
        lengths: (n_rows,). ‖Qw‖ of every row now, in units of the weight.
        replayed_weight_decay: λ of exact replay.
        replayed: (n_steps, n_blocks). The norms of the weight's blocks that exact replay replays.

    References:
        Liu, Cui, Wan, Mao, Chan, "The Implicit Biases of Stochastic Gradient Descent on Deep Neural Networks
        with Batch Normalization", 2021, arXiv 2102.03497v1: updates stay in the span of the input features.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        found: Invariance,
        name: str,
        lengths: Tensor,
        *,
        replayed_weight_decay: float = 0.0,
        replayed: Tensor | None = None,
    ) -> None:
        self._optimizer, self._model, self._name = optimizer, found.model, name
        self._blocks = found[name].blocks if found.holds(name) else None
        self._added_decay, self._replayed, self._n_steps = replayed_weight_decay, replayed, 0
        self._lengths = lengths.double().clone()
        self._buffer = torch.zeros_like(self._lengths)

    @property
    def lengths(self) -> Tensor:
        """‖Qw‖ of every row after the steps seen so far, (n_rows,), float64, in units of the weight."""
        return self._lengths.abs()

    def step(self) -> None:
        """Follow one step of the optimizer, after it was taken, with the settings still in its groups."""
        group = self._group()
        if self._replayed is not None and self._n_steps:
            before, now = self._replayed[self._n_steps - 1 : self._n_steps + 1].double()
            self._buffer = self._buffer * self._of_rows(before / now)
        weight_decay, momentum = group["weight_decay"] + self._added_decay, group["momentum"]
        if weight_decay:
            decay = weight_decay * self._lengths
            self._buffer = momentum * self._buffer + decay
            update = decay + momentum * self._buffer if group["nesterov"] else self._buffer
            self._lengths = self._lengths - group["lr"] * update
        self._n_steps += 1
        for rescaling in rescalings_on(self._optimizer):
            factors = rescaling.factors.get(self._name)
            if factors is not None and rescaling.n_steps % rescaling.every == 0:
                self._lengths = self._lengths * self._of_rows(factors)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs; loadable with ``weights_only=True``."""
        return {"lengths": self._lengths, "buffer": self._buffer, "n_steps": self._n_steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict`."""
        self._lengths, self._buffer, self._n_steps = state["lengths"], state["buffer"], state["n_steps"]

    def _group(self) -> dict[str, Any]:
        """The optimizer's settings for the weight; `load_state_dict` of an optimizer replaces its groups."""
        weight = self._model.get_parameter(self._name)
        groups = self._optimizer.param_groups
        return next(group for group in groups if any(entry is weight for entry in group["params"]))

    def _of_rows(self, of_blocks: Tensor) -> Tensor:
        assert self._blocks is not None, "only what has blocks is rescaled or replayed"
        rows = torch.ones_like(self._lengths)  # those that are not held keep their length
        scale_blocks_(rows, of_blocks, self._blocks.of_bias)
        return rows
