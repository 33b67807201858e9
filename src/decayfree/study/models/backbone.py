"""With what weights does a network's backbone begin, and do its BatchNorms stay as they are?

The backbone is what was trained before, on other images: torchvision's ``backbone`` (its ``body`` where a
pyramid is around it), segmentation-models-pytorch's ``encoder``, and the same names in our own networks.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from decayfree.errors import InvalidInputError, listed
from decayfree.study.run_settings import ModelSpec

_CLASSIFIER = "fc."
_COUNTER = "num_batches_tracked"


class FrozenBatchNorm2d(nn.BatchNorm2d):
    """A BatchNorm that divides by its running statistics in train mode, too, and does not change them."""

    def train(self, mode: bool = True) -> "FrozenBatchNorm2d":
        """Stay in eval mode, whatever the ``mode``."""
        super().train(False)
        return self


def begin_(model: nn.Module, spec: ModelSpec) -> nn.Module:
    """Load the backbone's state and freeze its BatchNorms, where the spec says so; the same model.

    Raises:
        InvalidInputError: If the file cannot be read or is not of this backbone, or a BatchNorm is of a kind
            that cannot be frozen.
    """
    if spec.backbone:
        _load_(backbone_of(model), spec)
    if spec.batch_norm == "frozen":
        freeze_(backbone_of(model))
    return model


def backbone_of(model: nn.Module) -> nn.Module:
    """The part that is trained before.

    Raises:
        InvalidInputError: If it has none.
    """
    modules: dict[str, nn.Module] = dict(model.named_modules())
    for name in ("backbone.body", "backbone", "encoder"):
        if name in modules:
            return modules[name]
    raise InvalidInputError(f"{type(model).__name__} has no part that is called backbone or encoder")


def freeze_(backbone: nn.Module) -> None:
    """BatchNorms stay in eval mode, and their gains and biases do not train.

    They become `FrozenBatchNorm2d`: copies, states and calls of ``train`` do not thaw them, and states keep
    their names.

    Raises:
        InvalidInputError: If one is of a class that does more than BatchNorm.
    """
    norms = {name: module for name, module in backbone.named_modules() if isinstance(module, nn.BatchNorm2d)}
    others = [f"{name} ({type(norm).__name__})" for name, norm in norms.items() if type(norm) not in _PLAIN]
    if others:
        raise InvalidInputError(f"model.batch_norm: only BatchNorm2d can be frozen, got {listed(others)}")
    for norm in norms.values():
        norm.__class__ = FrozenBatchNorm2d
        norm.train()
        norm.requires_grad_(False)


_PLAIN = (nn.BatchNorm2d, FrozenBatchNorm2d)


def _load_(backbone: nn.Module, spec: ModelSpec) -> None:
    path = spec.backbone
    state = _state_in(path)
    own = backbone.state_dict()
    if not any(name.startswith(_CLASSIFIER) for name in own):
        state = {name: tensor for name, tensor in state.items() if not name.startswith(_CLASSIFIER)}
    # States of old versions of torch do not count batches.
    missing = [name for name in own if name not in state and not name.endswith(_COUNTER)]
    unexpected = [name for name in state if name not in own]
    misshapen = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(own[name].shape)}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    kinds = {"missing": missing, "unexpected": unexpected, "of another shape": misshapen}
    faults = [f"{kind}: {listed(names)}" for kind, names in kinds.items() if names]
    if faults:
        raise InvalidInputError(
            f"model.backbone: {path} is not a state of the backbone of {spec.name}; {'; '.join(faults)}"
        )
    nn.Module.load_state_dict(backbone, {**own, **state})


def _state_in(path: str) -> Mapping[str, Tensor]:
    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever pickle, zip and the disk do
        reason = str(error).partition("\n")[0]
        raise InvalidInputError(
            f"model.backbone: {path} cannot be read: {type(error).__name__}: {reason}"
        ) from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InvalidInputError(
            f"model.backbone: expected a state_dict in {path}, tensors by name, got {type(state).__name__}"
        )
    return state
