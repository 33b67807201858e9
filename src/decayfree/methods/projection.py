"""SGDP and AdamP.

What an update adds along a weight is taken out of it, so that momentum does not make norms grow. Takes the
authors' package; the optimizer finds by itself, at every step, which weights are scale-invariant.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn
from torch.optim import Optimizer

from decayfree.errors import MissingExtraError
from decayfree.methods.method import Method, ParamGroups, number_faults, only_with
from decayfree.methods.weight_decay import groups_of

if TYPE_CHECKING:
    from decayfree.invariance.result import Invariance

_REPLACED = ("sgd", "adam", "adamw")


@dataclass(frozen=True)
class Projection(Method):
    """w ← w − η·(p − ⟨p, ŵ⟩ŵ) where |cos(w, g)| < δ/√dim.

    p is the update of SGD with momentum or of Adam, and ŵ = w/‖w‖.

    The test is made for each weight with more than one dimension: first over its kernels one by one, then as
    a whole; where neither passes the update is p. Weights that pass are decayed by ``wd_ratio`` times their
    decay. Decay is decoupled in both, in SGDP by ηλ/(1 − momentum), which is about what coupled decay comes
    to. SGD becomes SGDP, and Adam and AdamW become AdamP.

    The norm still grows, by the square of what is left of the update: ‖w'‖² = ‖w‖² + η²‖p − ⟨p, ŵ⟩ŵ‖².

    References:
        Heo et al., "AdamP: Slowing Down the Slowdown for Momentum Optimizers on Scale-invariant Weights",
        2021, arXiv 2006.08217, Algorithms 1 and 2.
    """

    name: ClassVar[str] = "projection"
    delta: float = 0.1
    """δ: how far from orthogonal a gradient may be, in units of what chance gives."""
    wd_ratio: float = 0.1
    """Share of the weight decay that is left for weights that pass the test."""
    weight_decay: float = 0.0
    """Of the scale-invariant weights, before that share is taken."""

    @property
    def label(self) -> str:
        settings = [
            f", {name} {value:g}"
            for name, value, usual in (("delta", self.delta, 0.1), ("wd_ratio", self.wd_ratio, 0.1))
            if value != usual
        ]
        decay = f", weight decay {self.weight_decay:g}" if self.weight_decay else ""
        return f"SGDP / AdamP{decay}{''.join(settings)}"

    def faults(self) -> list[str]:
        return [
            fault
            for name in ("delta", "wd_ratio", "weight_decay")
            for fault in number_faults(name, getattr(self, name), or_zero=True)
        ]

    def optimizer_faults(self, optimizer: str) -> list[str]:
        return only_with(self.label, optimizer, *_REPLACED, reason="there are SGDP and AdamP, and no others")

    def param_groups(self, model: nn.Module, found: Invariance, *, rest_weight_decay: float) -> ParamGroups:
        return groups_of(model, found, weight_decay=self.weight_decay, rest_weight_decay=rest_weight_decay)

    def optimizer(self, name: str, groups: ParamGroups, settings: Mapping[str, Any]) -> Optimizer | None:
        """SGDP or AdamP.

        Raises:
            MissingExtraError: If the package is not there.
        """
        sgdp, adamp = _classes()
        made: Optimizer = (sgdp if name == "sgd" else adamp)(
            groups, **settings, delta=self.delta, wd_ratio=self.wd_ratio
        )
        return made


class _FlatByCopy:
    """Weights in channels_last have no flat view."""

    def _channel_view(self, x: Tensor) -> Tensor:
        return x.flatten(1)

    def _layer_view(self, x: Tensor) -> Tensor:
        return x.reshape(1, -1)


@lru_cache(maxsize=1)
def _classes() -> tuple[Any, Any]:
    """The package's optimizers, which take weights in channels_last as well.

    Its SGDP without Nesterov momentum projects the momentum buffer itself, since the two are one tensor; the
    paper projects the update.
    """
    try:
        import adamp
    except ImportError as error:
        raise MissingExtraError(
            "SGDP and AdamP are in the package adamp, which is not there: pip install decayfree[study]"
        ) from error

    class SGDP(_FlatByCopy, adamp.SGDP):  # type: ignore[misc]
        def _projection(self, p: Tensor, grad: Tensor, perturb: Tensor, *settings: float) -> Any:
            return super()._projection(p, grad, perturb.clone(), *settings)

    class AdamP(_FlatByCopy, adamp.AdamP):  # type: ignore[misc]
        pass

    return SGDP, AdamP
