"""A plugin of pytest for timm's own tests: matrices in optimizers of its factory are held. No test is here.

Row by row, at norm 1, without decay.
"""

from typing import Any

import pytest
import timm.optim
from torch import nn

import decayfree

CREATE = timm.optim.create_optimizer_v2
held: list[decayfree.WeightRescaling] = []


def create(*args: Any, **settings: Any) -> Any:
    """As timm makes it, with a rescaling where it has a real matrix."""
    optimizer = CREATE(*args, **(settings | {"weight_decay": 0.0}))
    model = nn.Module()
    for group in optimizer.param_groups:
        if "weight_decay" in group:
            group["weight_decay"] = 0.0
        for parameter in group["params"]:
            model.register_parameter(f"p{len(list(model.parameters()))}", parameter)
    if any(one.ndim > 1 and not one.is_complex() for one in model.parameters()):
        found = decayfree.watch(model).weights
        held.append(decayfree.WeightRescaling(optimizer, found, radius={"*": 1.0}))
    return optimizer


timm.optim.create_optimizer_v2 = create


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many there were."""
    terminalreporter.write_line(f"{len(held)} optimizers were held")
