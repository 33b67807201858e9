"""Where random numbers start when the model is on an accelerator, on a stand-in for one.

How models are run is seen through the tests of what runs them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import nn

from decayfree.forward import seeded
from support.elsewhere import elsewhere, put_elsewhere_


@pytest.mark.parametrize(("is_there", "forked"), [(False, []), (True, [0])], ids=["host", "cuda"])
def test_the_random_states_of_the_models_own_devices_are_kept(
    is_there: bool, forked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, seeds = [], []

    @contextmanager
    def fork_rng(devices: list[int]) -> Iterator[None]:
        kept.append(devices)
        yield

    monkeypatch.setattr(torch.random, "fork_rng", fork_rng)
    monkeypatch.setattr(torch, "manual_seed", seeds.append)
    model = nn.Linear(2, 2)
    if is_there:
        put_elsewhere_(model)
    with elsewhere("cuda"), seeded(7, model):
        pass
    assert kept == [forked]
    assert seeds == ([7] if is_there else [])
