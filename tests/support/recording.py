"""A recorder on a small network, and its training: what the tests of the recorder share. No test is here."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from decayfree.dynamics.recorder import Recorder
from decayfree.dynamics.samples import Sample
from support.networks import digit_losses, find, step_once

LOSSES = digit_losses(12, torch.float32)


def recorded(model: nn.Module, optimizer: Any = None, **settings: Any) -> tuple[Any, Recorder, list[Sample]]:
    samples: list[Sample] = []
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    settings = {"every": 2, "sink": samples.append, **settings}
    return optimizer, Recorder(optimizer, find(model), **settings), samples


def train(
    model: nn.Module, optimizer: torch.optim.Optimizer, losses: Any = LOSSES, *, closure: bool = False
) -> None:
    for loss in losses:
        if closure:
            step_once(model, optimizer, loss)
        else:
            optimizer.zero_grad()
            loss(model).backward()
            optimizer.step()
