"""What a method is: settings that can be attached to an optimizer, and what then runs beside it.

Does not train and does not read files; a method works in anyone's loop. One file each beside this one.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn
from torch.optim import Optimizer

from decayfree.invariance import Invariance, ScaleInvariantWeight

ParamGroups = list[dict[str, Any]]
BlockNormsByStep = Mapping[str, Tensor]
"""Name of a weight -> (n_steps, n_blocks), float32: the norm of each block before each step of a run."""


class AttachedMethod(Protocol):
    """A method at work on one optimizer; what it does around a step, it does by the optimizer's hooks."""

    def learning_rates(self, weight: ScaleInvariantWeight, learning_rate: float) -> Tensor:
        """The learning rates, () or (n_blocks,), that the blocks of ``weight`` get in the next step."""

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs; loadable with ``weights_only=True``."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict`."""


class Method(Protocol):
    """A way to treat norms: a frozen dataclass whose fields are its settings (TOML scalars)."""

    name: ClassVar[str]

    @property
    def label(self) -> str:
        """What a legend says."""

    @property
    def replays(self) -> "Method | None":
        """The method whose run of the same seed must have left its block norms; None where none is needed."""

    def faults(self) -> list[str]:
        """What is wrong with the settings, one sentence each, beginning with the setting's name."""

    def param_groups(self, model: nn.Module, found: Invariance, *, rest_weight_decay: float) -> ParamGroups:
        """The optimizer's parameter groups; ``rest_weight_decay`` is for what is not scale-invariant."""

    def attach(
        self, optimizer: Optimizer, found: Invariance, *, replayed: BlockNormsByStep | None = None
    ) -> AttachedMethod:
        """Begin: called once, after the optimizer is made and before its first step."""
