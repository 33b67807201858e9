"""A plugin of pytest for timm's own tests: matrices in optimizers of its factory are held. No test is here.

Row by row, at norm 1, without decay. To import it changes nothing.
"""

from typing import Any

import pytest
from torch import nn

import decayfree

held: list[decayfree.WeightRescaling] = []


def pytest_configure(config: pytest.Config) -> None:
    """Put it in the place of timm's function, before its tests import that."""
    import timm.optim

    create = timm.optim.create_optimizer_v2

    def create_and_hold(*args: Any, **settings: Any) -> Any:
        optimizer = create(*args, **(settings | {"weight_decay": 0.0}))
        hold(optimizer)
        return optimizer

    timm.optim.create_optimizer_v2 = create_and_hold


def hold(optimizer: Any) -> None:
    """Where there is a real matrix."""
    model = nn.Module()
    for group in optimizer.param_groups:
        if "weight_decay" in group:
            group["weight_decay"] = 0.0
        for parameter in group["params"]:
            model.register_parameter(f"p{len(list(model.parameters()))}", parameter)
    if any(one.ndim > 1 and not one.is_complex() for one in model.parameters()):
        found = decayfree.watch(model).weights
        held.append(decayfree.WeightRescaling(optimizer, found, radius={"*": 1.0}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many there were."""
    terminalreporter.write_line(f"{len(held)} optimizers were held")
