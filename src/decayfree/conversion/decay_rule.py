"""What decides where weight decay leads: the settings of an optimizer with decay, and where they settle.

Works out nothing for a model; fixed_norm.py does, weight by weight.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from decayfree import equilibrium
from decayfree.equilibrium import Equilibrium
from decayfree.errors import InvalidInputError
from decayfree.optimizers import OPTIMIZERS, row_called


@dataclass(frozen=True)
class DecayRule:
    """An optimizer with weight decay: what decides where norms settle.

    Args:
        optimizer: The update rule. ``"Adam"`` is the one with L2 regularization.
        lr: The learning rate where its schedule's multiplier is 1.
        weight_decay: As the optimizer takes it.
        momentum: Of SGD.
        nesterov: Of SGD.
        dampening: Of SGD.
        decoupled: Of SGD: whether decay goes to the weight instead of the gradient.
        betas: Of the others.
    """

    optimizer: Literal["SGD", "Adam", "AdamW", "Lion"]
    lr: float
    weight_decay: float
    momentum: float = 0.0
    nesterov: bool = False
    dampening: float = 0.0
    decoupled: bool = False
    betas: tuple[float, float] = (0.9, 0.999)

    @property
    def needs_gradient_norm(self) -> bool:
        """Whether the norm depends on how large gradients are, which only a training tells."""
        return self.optimizer in ("SGD", "Adam")

    @property
    def schedule_exponent(self) -> float:
        """The power of the learning rate that angles follow in equilibrium; with a fixed norm it is 1."""
        return 2 / 3 if self.optimizer == "Adam" else 1 / 2

    @property
    def correlation_time(self) -> float:
        """For how many steps the noise of one gradient lives on: `equilibrium.correlation_time`.

        Raises:
            InvalidInputError: If a setting is out of range.
        """
        row = row_called(self.optimizer)
        assert row is not None
        assert row.correlation is not None
        return row.correlation({name: getattr(self, name) for name in settings_of(self)}, {})

    def equilibrium(self, *, fan_in: float | None = None, gradient_norm: float | None = None) -> Equilibrium:
        """Where this rule settles.

        Args:
            fan_in: Weights in the block. SGD does not ask for it.
            gradient_norm: ‖g‖·‖w‖ of the block, in units of the loss. AdamW and Lion do not ask for it.

        Raises:
            InvalidInputError: If a setting is out of range, or one of the two is missing for Adam with L2,
                whose angle depends on both.
        """
        if self.optimizer == "SGD":
            # It scales L2 along with the gradient, and decoupled decay not; without momentum torch ignores
            # it.
            kept = 1 - self.dampening if self.momentum else 1.0
            return equilibrium.sgd(
                self.lr * (1 if self.decoupled else kept),
                self.weight_decay,
                momentum=self.momentum,
                nesterov=self.nesterov,
                decoupled=self.decoupled,
                gradient_norm=gradient_norm and gradient_norm * (kept if self.decoupled else 1),
            )
        if self.optimizer == "Adam":
            if fan_in is None or gradient_norm is None:
                raise InvalidInputError(
                    "Adam with L2 regularization turns layers by angles that depend on their fan-in and "
                    "their gradient norm: give both"
                )
            return equilibrium.adam_l2(
                self.lr, self.weight_decay, betas=self.betas, gradient_norm=gradient_norm, fan_in=fan_in
            )
        rule = equilibrium.adamw if self.optimizer == "AdamW" else equilibrium.lion
        return rule(self.lr, self.weight_decay, betas=self.betas, fan_in=fan_in)

    def lr_at_radius_1(self, radius: Tensor) -> Tensor:
        """The learning rate that turns a block of radius 1 as ``lr`` turns one of ``radius``."""
        return self.lr / (radius.square() if self.optimizer == "SGD" else radius)


def rule_of_group(
    settles: Callable[..., Equilibrium], group: Mapping[str, Any], *, decoupled: bool
) -> DecayRule:
    """The settings of an optimizer's parameter group.

    Args:
        settles: The function of `decayfree.equilibrium` that the optimizer follows.
        group: Its settings by torch's names.
        decoupled: Whether its decay goes to the weight instead of the gradient.
    """
    lr, weight_decay = float(group["lr"]), float(group["weight_decay"])
    if settles is equilibrium.sgd:
        return DecayRule(
            "SGD",
            lr,
            weight_decay,
            momentum=float(group.get("momentum", 0.0)),
            nesterov=bool(group.get("nesterov")),
            dampening=float(group.get("dampening", 0.0)),
            decoupled=decoupled,
        )
    of_adam: Literal["Adam", "AdamW"] = "AdamW" if decoupled else "Adam"
    betas = (float(group["betas"][0]), float(group["betas"][1]))
    return DecayRule("Lion" if settles is equilibrium.lion else of_adam, lr, weight_decay, betas=betas)


def unknown_balance(optimizer: str, reason: str = "") -> str:
    """That nobody knows where decay settles under it, and under which it is known."""
    known = ", ".join(one.classes for one in OPTIMIZERS if one.equilibrium is not None)
    because = f" ({reason})" if reason else ""
    return f"where weight decay settles under {optimizer} is not known{because}; it is for {known}"


def name_of(rule: DecayRule) -> str:
    """What sentences call its optimizer."""
    return "Adam with L2 regularization" if rule.optimizer == "Adam" else rule.optimizer


def settings_of(rule: DecayRule) -> tuple[str, ...]:
    """The settings that its optimizer has."""
    own = ("momentum", "nesterov", "dampening", "decoupled") if rule.optimizer == "SGD" else ("betas",)
    return ("optimizer", "lr", "weight_decay", *own)
