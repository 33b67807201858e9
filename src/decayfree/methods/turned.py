"""How is every block turned by an angle of the method's own, at a norm that stays?

It turns in the direction that the optimizer wants. The arithmetic that methods with normalized updates share.
Is no method itself and chooses no angle.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from decayfree.errors import MismatchError
from decayfree.methods.stepping import around_steps
from decayfree.rescaling.step_lengths import add_, group_of, quotient

if TYPE_CHECKING:
    from decayfree.invariance.result import Invariance
    from decayfree.invariance.verdict import ScaleInvariantWeight

Group = Mapping[str, Any]
Reach = Callable[[Group, float], float]
"""From the optimizer's group of a weight and a learning rate η: the length of a step as a share of the
weight's norm.
"""


class Turned:
    """Replaces each step of the optimizer, per block:

    w ← R·Norm(w − R·s·u/‖u‖), with R its norm at attachment and s the reach.

    u is what the optimizer alone would subtract, divided by the learning rate. It is exact: weights are zero
    while the optimizer steps, so that no update is rounded away beside a weight, however small the gradients;
    updates of all optimizers of ``torch.optim`` that do not decay are the same at every weight. A block that
    gets no update stays as it is.

    Args:
        optimizer: Without decay on the weights of ``found``. Weights that it does not have are left alone.
        found: The weights that are turned.
        reach: s.
        tangential: Take the part of u along w out first, so that s is the tangent of the angle.
        averaging: Divide by the root of a running mean of ‖u‖² instead of by ‖u‖: this share of it stays from
            step to step. s is then what a step has in the mean.
        by: Who does so, in words, for messages.

    Attributes:
        norms: R by parameter name, (n_blocks,).
    """

    def __init__(
        self,
        optimizer: Optimizer,
        found: Invariance,
        *,
        reach: Reach,
        tangential: bool = False,
        averaging: float = 0.0,
        by: str,
    ) -> None:
        self._optimizer, self._reach = optimizer, reach
        self._tangential, self._averaging = tangential, averaging
        self._parameters = dict(found.model.named_parameters())
        held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        self._weights = [weight for weight in found if id(self._parameters[weight.name]) in held]
        self._n_steps = 0
        with torch.no_grad():
            self.norms = {weight.name: self._norms_of(weight) for weight in self._weights}
        self._mean_squares = {name: torch.zeros_like(norms) for name, norms in self.norms.items()}
        self._before: dict[str, Tensor] = {}
        around_steps(optimizer, self._set_aside, self._turn, by=by)

    def learning_rates(self, weight: ScaleInvariantWeight, learning_rate: float) -> Tensor:
        norms = self.norms[weight.name]
        if not self._n_steps:
            return torch.full_like(norms, torch.nan)
        return self._reach(self._group_of(weight), learning_rate) * quotient(norms, self._sizes(weight))

    def state_dict(self) -> dict[str, Any]:
        return {
            "n_steps": self._n_steps,
            "norms": {name: norms.clone() for name, norms in self.norms.items()},
            "mean_squares": {name: squares.clone() for name, squares in self._mean_squares.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict`.

        Raises:
            MismatchError: If it is of other weights.
        """
        theirs = {name: tuple(norms.shape) for name, norms in state["norms"].items()}
        mine = {name: tuple(norms.shape) for name, norms in self.norms.items()}
        if mine != theirs:
            differing = sorted(name for name in mine | theirs if mine.get(name) != theirs.get(name))
            raise MismatchError(
                f"the state holds other weights or blocks than are turned here: {', '.join(differing)}"
            )
        self._n_steps = int(state["n_steps"])
        for own, loaded in ((self.norms, state["norms"]), (self._mean_squares, state["mean_squares"])):
            for name in own:
                own[name] = loaded[name].to(own[name], copy=True)

    @torch.no_grad()
    def _set_aside(self) -> None:
        for weight in self._weights:
            part = weight.part(self._parameters)
            for name, tensor in zip(weight.names, part.tensors, strict=True):
                self._before[name] = tensor.detach().clone()
            part.put_in_(part.each(torch.zeros_like))

    @torch.no_grad()
    def _turn(self) -> None:
        self._n_steps += 1
        for weight in self._weights:
            self._turn_one(weight)
        self._before.clear()

    def _turn_one(self, weight: ScaleInvariantWeight) -> None:
        # Set to zero before the step, the weight is its own update until what it was is added again.
        part, before = weight.part(self._parameters), weight.part(self._before)
        update = part.each(torch.clone)
        group, norms = self._group_of(weight), self.norms[weight.name]
        learning_rate = float(group["lr"])
        if self._tangential:
            radial = before.each(Tensor.clone)
            radial.scale_(quotient(update.dots(before), norms.square()))
            add_(update, radial, alpha=-1)
        if learning_rate > 0:
            size = update.norms() / learning_rate
            self._mean_squares[weight.name].mul_(self._averaging).add_(
                size.square(), alpha=1 - self._averaging
            )
            rate = self._reach(group, learning_rate) * quotient(norms, self._sizes(weight))
            update.scale_(rate / learning_rate)
        add_(update, before)
        now = update.norms()
        update.scale_(torch.where(now > 0, norms / now, 1.0))
        part.put_in_(update)

    def _sizes(self, weight: ScaleInvariantWeight) -> Tensor:
        """‖u‖ of every block in the last step, or the root of its running mean square, (n_blocks,)."""
        return (self._mean_squares[weight.name] / (1 - self._averaging**self._n_steps)).sqrt()

    def _norms_of(self, weight: ScaleInvariantWeight) -> Tensor:
        return weight.part(self._parameters).each(Tensor.detach).norms()

    def _group_of(self, weight: ScaleInvariantWeight) -> Group:
        return group_of(self._parameters[weight.name], self._optimizer)
