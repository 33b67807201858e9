"""How long do some pieces of work take beside each other on a machine that others use too?

Rounds run every piece once, in random order, so that a busy second meets all of them; medians and quartiles
are taken over rounds. One thread on the CPU is timed by the processor time that it got, which leaves out what
others took. Prints no table.
"""

import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Work:
    """One piece of work.

    Args:
        run: What is timed.
        prepare: What comes before it, outside the clock.
    """

    run: Callable[[], object]
    prepare: Callable[[], object] = lambda: None


@dataclass(frozen=True)
class Quartiles:
    """Of a quantity over rounds."""

    low: float
    median: float
    high: float

    def format(self, digits: int = 2) -> str:
        """``median [low, high]``."""
        return f"{self.median:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}]"


def interleaved(
    works: Mapping[str, Work], *, n_rounds: int, device: torch.device, n_warmup: int = 2
) -> dict[str, list[float]]:
    """Time every piece of work once a round, in an order drawn anew for each round.

    Args:
        works: By name.
        n_rounds: Rounds that count.
        device: Waited for before and after each piece of work.
        n_warmup: Rounds before them that do not.

    Returns:
        Milliseconds, one for each round, by name.
    """
    elapsed_ms: dict[str, list[float]] = {name: [] for name in works}
    order = random.Random(0)
    names = list(works)
    clock = time.process_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    for number in range(-n_warmup, n_rounds):
        order.shuffle(names)
        for name in names:
            works[name].prepare()
            _wait_for(device)
            start = clock()
            works[name].run()
            _wait_for(device)
            if number >= 0:
                elapsed_ms[name].append((clock() - start) * 1e3)
    return elapsed_ms


def quartiles(values: Sequence[float]) -> Quartiles:
    """Of at least two values."""
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Quartiles(low, median, high)


def ratios(above: Sequence[float], below: Sequence[float]) -> Quartiles:
    """Of one quantity over another, round by round."""
    return quartiles([a / b for a, b in zip(above, below, strict=True)])


def added(total: Sequence[float], without: Sequence[float]) -> Quartiles:
    """What one quantity has more than another, round by round."""
    return quartiles([a - b for a, b in zip(total, without, strict=True)])


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
