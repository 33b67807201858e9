"""Were weights finite after a step, asked without waiting for the device?

On the host at once, on an accelerator a step later. Names no weight.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


class Finiteness:
    """Of what was measured after the last step."""

    def __init__(self) -> None:
        self._pending: tuple[Tensor, torch.cuda.Event | None] | None = None

    def is_broken_by(self, distances: Sequence[float | Tensor]) -> bool:
        """Whether one is not finite, as far as that is known now; else :meth:`was_broken` knows it later."""
        if all(isinstance(distance, float) for distance in distances):
            return not all(math.isfinite(distance) for distance in distances)
        device = next(one.device for one in reversed(distances) if isinstance(one, Tensor))
        on_host = torch.stack([torch.as_tensor(distance, device=device) for distance in distances]).to(
            "cpu", non_blocking=True
        )
        event = torch.cuda.Event() if device.type == "cuda" else None
        if event is not None:
            event.record()
        self._pending = (on_host, event)
        return False

    def was_broken(self, *, wait: bool = True) -> bool:
        """Whether what was asked last is there, and was not finite."""
        if self._pending is None:
            return False
        distances, event = self._pending
        if event is not None and wait:
            event.synchronize()
        if event is not None and not event.query():
            return False
        self._pending = None
        return not bool(torch.isfinite(distances).all())
