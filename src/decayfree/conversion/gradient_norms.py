"""How large are the gradients of scale-invariant blocks, at unit norm?

Accumulates it beside any training, by a hook on the optimizer, without waiting for the device. Changes
nothing.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from decayfree.attachment import attachable, nothing_in_common, weights_in
from decayfree.blocks import Part
from decayfree.errors import MismatchError
from decayfree.invariance.result import Invariance
from decayfree.step_counter import is_inner_step


class GradientNorms(Mapping[str, Tensor]):
    """Root mean square over steps of ‖g‖·‖w‖ for every block.

    Name of a weight -> (n_blocks,), in units of the loss.

    A gradient shrinks as 1/‖w‖ when its weight grows, so that ‖g‖·‖w‖ is what the gradient norm would be at
    unit norm. It counts from when the object is made until :meth:`detach` or the end of its ``with`` block.
    What counts is what the optimizer gets: after clipping, and without L2 regularization, which PyTorch's
    optimizers add inside. Steps in which a gradient is missing, or not finite as those that a GradScaler
    skips, are left out. An optimizer that is given a closure is seen with the gradients of the step before.

    Args:
        optimizer: Any optimizer of ``found.model``'s parameters.
        found: From :func:`decayfree.find_invariant`.

    Attributes:
        n_steps: Optimizer steps seen.

    Raises:
        InvalidInputError: If an argument is of another kind.
        MismatchError: If the optimizer has none of the weights, or, when a weight is looked up, it is none of
            them or got no gradient.

    Example:
        >>> from decayfree import find_invariant
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(2, 1, bias=False), nn.BatchNorm1d(1))
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        >>> with GradientNorms(optimizer, find_invariant(model, torch.randn(8, 2))) as measured:
        ...     model[0].weight.data = torch.tensor([[3.0, 4.0]])
        ...     model[0].weight.grad = torch.tensor([[-0.8, 0.6]])
        ...     optimizer.step()
        >>> measured["0.weight"]
        tensor([5.])
    """

    def __init__(self, optimizer: Optimizer, found: Invariance) -> None:
        optimizer, found = attachable(optimizer, found)
        self._weights = {one.name: one for one in weights_in(optimizer, found)}
        if not self._weights:
            raise MismatchError(nothing_in_common(optimizer, found))
        self._found = found
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, Tensor] = {}
        self.n_steps = 0
        self._handle = optimizer.register_step_pre_hook(self._before_step)

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._weights:
            raise MismatchError(f"{name!r} is none of the {len(self._weights)} weights that were measured")
        if name not in self._sums or not bool(self._counts[name].min() > 0):
            raise MismatchError(
                f"{name}: no finite gradient was seen in {self.n_steps} steps; "
                "train a few hundred steps before asking"
            )
        return (self._sums[name] / self._counts[name]).sqrt()

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)

    def __repr__(self) -> str:
        return f"GradientNorms({len(self)} weights, {self.n_steps} steps)"

    def detach(self) -> None:
        """Stop counting; what was measured stays."""
        self._handle.remove()

    def __enter__(self) -> "GradientNorms":
        return self

    def __exit__(self, *_: object) -> None:
        self.detach()

    @torch.no_grad()
    def _before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if is_inner_step(optimizer):
            return
        self.n_steps += 1
        parameters = dict(self._found.model.named_parameters())
        # Fused optimizers get their gradients as a GradScaler scaled them, and divide inside.
        scale = getattr(optimizer, "grad_scale", None)
        for name, weight in self._weights.items():
            norms = _at_unit_norm(weight.part(parameters))
            if norms is None:
                continue
            squares = (norms if scale is None else norms / scale.to(norms.device)).square()
            is_finite = torch.isfinite(squares)
            if name not in self._sums:
                self._sums[name] = torch.zeros_like(squares)
                self._counts[name] = torch.zeros_like(squares)
            self._sums[name] += torch.where(is_finite, squares, 0.0)
            self._counts[name] += is_finite


def _at_unit_norm(part: Part) -> Tensor | None:
    """‖g‖·‖w‖ of every block, or None without a gradient."""
    if part.weight.grad is None:
        return None
    bias_grad = None if part.bias is None else part.bias.grad
    return part.each(Tensor.detach).norms() * Part(part.weight.grad.detach(), bias_grad, part.blocks).norms()
