"""How long do some pieces of work take beside each other on a machine that others use too?

Rounds run every piece once, in random order, so that a busy second meets all of them; medians and quartiles
are taken over rounds. Whole trainings take a step each in turn likewise. One thread on the CPU is timed by
the processor time that it got, which leaves out what others took. Prints no table.
"""

import ctypes
import math
import random
import statistics
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from scipy import stats

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # of malloc.h


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
class Spread:
    """Of a quantity over rounds: its median between two quartiles, or the ends of an interval."""

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


class _Stepped(threading.Thread):
    """A training that goes on by one step when it is told to, and meanwhile waits."""

    def __init__(self, train: Callable[[Callable[[], None]], object]) -> None:
        super().__init__(daemon=True)
        self._train = train
        self._may_go, self._has_stopped = threading.Semaphore(0), threading.Semaphore(0)
        self.is_over, self._error = False, None
        self.start()

    def run(self) -> None:
        self._may_go.acquire()
        try:
            self._train(self._end_step)
        except BaseException as error:
            self._error = error
        self.is_over = True
        self._has_stopped.release()

    def _end_step(self) -> None:
        self._has_stopped.release()
        self._may_go.acquire()

    def go_on(self) -> None:
        """To the end of its next step."""
        self._may_go.release()
        self._has_stopped.acquire()
        if self._error is not None:
            raise self._error


def steps_in_turns(
    trainings: Mapping[str, Callable[[Callable[[], None]], object]],
    *,
    n_steps: int,
    n_skipped: int,
    clock: Callable[[], float],
    seed: int = 0,
) -> dict[str, list[float]]:
    """Time the steps of trainings that take one each in turn, in an order drawn anew for each step.

    Args:
        trainings: By name. Each is called in a thread of its own, with what it has to call at the end of each
            step: from there on the others go on. Never do two run at once.
        n_steps: Steps that count.
        n_skipped: Steps before them that do not; at least one, with which it is set up.
        clock: Seconds.
        seed: Of the orders.

    Returns:
        Milliseconds, one for each step, by name.
    """
    step_ms: dict[str, list[float]] = {name: [] for name in trainings}
    threads = {name: _Stepped(train) for name, train in trainings.items()}
    order, names = random.Random(seed), list(trainings)
    for number in range(-n_skipped, n_steps):
        order.shuffle(names)
        for name in names:
            start = clock()
            threads[name].go_on()
            if number >= 0:
                step_ms[name].append((clock() - start) * 1e3)
    for thread in threads.values():
        while not thread.is_over:
            thread.go_on()
    return step_ms


def keep_freed_memory() -> None:
    """Let malloc of glibc keep what is freed, in one arena for all threads; elsewhere nothing.

    By default trainings in threads of their own get arenas of their own, and give freed memory back to the
    system at one size here and another there: the kernel then fills pages anew in each step, as many as it
    happens, so that trainings that do the same differ.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def quartiles(values: Sequence[float]) -> Spread:
    """Of at least two values."""
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(low, median, high)


def over_rounds(above: Sequence[float], below: Sequence[float], *, length: int) -> Spread:
    """The ratio of two sums, between the ends of the interval of 95 % of such a ratio over rounds.

    Args:
        above: A value for each step of each round, one round after the other.
        below: Likewise.
        length: Steps in a round.

    Returns:
        The interval is that of Student's t; infinite with fewer than three rounds.
    """
    n_rounds = len(above) // length
    by_round = [
        sum(above[start : start + length]) / sum(below[start : start + length])
        for start in range(0, n_rounds * length, length)
    ]
    ratio = sum(above) / sum(below)
    if n_rounds < 3:
        return Spread(-math.inf, ratio, math.inf)
    half = stats.t.ppf(0.975, n_rounds - 1) * statistics.stdev(by_round) / math.sqrt(n_rounds)
    return Spread(ratio - half, ratio, ratio + half)


def ratios(above: Sequence[float], below: Sequence[float]) -> Spread:
    """Of one quantity over another, round by round."""
    return quartiles([a / b for a, b in zip(above, below, strict=True)])


def added(total: Sequence[float], without: Sequence[float]) -> Spread:
    """What one quantity has more than another, round by round."""
    return quartiles([a - b for a, b in zip(total, without, strict=True)])


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
