"""Every optimizer in torch.optim with its variants: the table that test_optimizer_contract.py goes through.

An exception is a field of a row. Rows that torch itself refuses say so in torch's words. No test is here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn, optim


@dataclass(frozen=True)
class Row:
    """One optimizer with its settings.

    ``names``: the parameters that it is given, None for all. The rest are torch's own words where it does not
    take this row: at all, in some precision or memory format, behind a GradScaler, after ``copy.deepcopy``.
    """

    make: Callable[..., optim.Optimizer]
    names: tuple[str, ...] | None = None
    refused: str | None = None
    refused_in: dict[str, str] = field(default_factory=dict)
    scaler_refused: str | None = None
    copy_refused: str | None = None

    def optimizer(self, model: nn.Module) -> optim.Optimizer:
        """The optimizer of a model's trainable parameters, or of those that it can take."""
        parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        return self.make([p for name, p in parameters.items() if self.names is None or name in self.names])


def sgd_with_a_tensor_as_rate(params: Any, **settings: Any) -> optim.Optimizer:
    """Schedulers change such a rate in place, so that every optimizer needs a tensor of its own."""
    return optim.SGD(params, lr=torch.tensor(0.1), momentum=0.9, **settings)


# PyTorch's 1e-8 is 0 in float16, and 0 / 0 is what a weight without gradient then gets.
EPS = 1e-4
NOT_ON_CPU = "If capturable=True, .* must be on supported devices"
SETTINGS: dict[str, tuple[type[optim.Optimizer], dict[str, Any], str]] = {
    # name: class, settings, the implementations that it offers
    "SGD": (optim.SGD, {"lr": 0.1}, "loop foreach fused"),
    "SGD momentum": (optim.SGD, {"lr": 0.1, "momentum": 0.9}, "loop foreach fused"),
    "SGD dampening": (optim.SGD, {"lr": 0.1, "momentum": 0.9, "dampening": 0.5}, "loop foreach fused"),
    "SGD nesterov": (optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True}, "loop foreach fused"),
    "SGD maximize": (optim.SGD, {"lr": 0.1, "maximize": True}, "loop foreach fused"),
    "Adam": (optim.Adam, {"lr": 0.01, "eps": EPS}, "loop foreach fused capturable"),
    "Adam amsgrad": (optim.Adam, {"lr": 0.01, "amsgrad": True, "eps": EPS}, "loop foreach fused"),
    "AdamW": (optim.AdamW, {"lr": 0.01, "weight_decay": 0.0, "eps": EPS}, "loop foreach fused capturable"),
    "NAdam": (optim.NAdam, {"lr": 0.01, "eps": EPS}, "loop foreach capturable"),
    "RAdam": (optim.RAdam, {"lr": 0.1, "eps": EPS}, "loop foreach capturable"),
    "Adamax": (optim.Adamax, {"lr": 0.01, "eps": EPS}, "loop foreach capturable"),
    "Adagrad": (optim.Adagrad, {"lr": 0.05, "eps": EPS}, "loop foreach fused"),
    "Adadelta": (optim.Adadelta, {"lr": 10.0}, "loop foreach capturable"),
    "RMSprop": (optim.RMSprop, {"lr": 0.01, "eps": EPS}, "loop foreach capturable"),
    "RMSprop centered momentum": (
        optim.RMSprop,
        {"lr": 0.01, "momentum": 0.9, "centered": True, "eps": EPS},
        "loop foreach",
    ),
    "Rprop": (optim.Rprop, {"lr": 0.01}, "loop foreach capturable"),
    "ASGD": (optim.ASGD, {"lr": 0.1, "lambd": 0.0}, "loop foreach capturable"),
    "Adafactor": (optim.Adafactor, {"lr": 0.05}, "loop foreach"),
}
IMPLEMENTATIONS = {
    "loop": {"foreach": False},
    "foreach": {"foreach": True},
    "fused": {"fused": True},
    "capturable": {"capturable": True, "foreach": False},
}
REFUSED = {
    f"{name}, {implementation}": Row(
        partial(cls, **settings, **IMPLEMENTATIONS[implementation]), refused=NOT_ON_CPU
    )
    for name, (cls, settings, implementations) in SETTINGS.items()
    for implementation in implementations.split()
    if implementation == "capturable"
} | {"SparseAdam": Row(optim.SparseAdam, refused="SparseAdam does not support dense gradients")}
ROWS = {
    f"{name}, {implementation}": Row(partial(cls, **settings, **IMPLEMENTATIONS[implementation]))
    for name, (cls, settings, implementations) in SETTINGS.items()
    for implementation in implementations.split()
    if implementation != "capturable"
} | {
    "SGD tensor rate": Row(partial(sgd_with_a_tensor_as_rate, foreach=False)),
    "Muon": Row(
        partial(optim.Muon, lr=0.05, weight_decay=0.0), names=("hidden.weight", "head.weight", "tied1.weight")
    ),
    "LBFGS": Row(
        partial(optim.LBFGS, lr=0.1, max_iter=3),
        refused_in={"channels_last": "view size is not compatible with input tensor's size and stride"},
        scaler_refused="Closure use is not currently supported if GradScaler is enabled",
        copy_refused="'LBFGS' object has no attribute '_params'",
    ),
}
