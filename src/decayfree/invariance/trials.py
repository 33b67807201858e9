"""What do the outputs do when parameters are really changed?

Changes them beside a probe, runs, and puts them back; halves a group until those that made a difference are
singled out. Draws no conclusion.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from decayfree.blocks import Blocks, scale_blocks_
from decayfree.forward import movement
from decayfree.invariance.probe import Probe, Ran

# What is done in place to parameters, by name.
Change = Mapping[str, Callable[[Tensor], object]]


@dataclass(frozen=True)
class Trials:
    """Runs of a probe in which parameters are changed and put back.

    Args:
        probe: At the point from which changes are made.
        outputs: What it put out there, with the graph.
        start: Buffers with which runs begin from a number.
    """

    probe: Probe
    outputs: list[Tensor]
    start: Mapping[str, float]

    @torch.no_grad()
    def run(self, *changes: Change) -> Ran:
        """One run with all changes."""
        with self.changed(changes):
            return self.probe.run(start=self.start)

    @contextmanager
    def changed(self, changes: Collection[Change]) -> Iterator[None]:
        """Changes parameters while it is open."""
        kept = {name: self.probe.parameters[name].detach().clone() for change in changes for name in change}
        with torch.no_grad():
            self.change_(changes)
        try:
            yield
        finally:
            with torch.no_grad():
                for name, values in kept.items():
                    self.probe.parameters[name].copy_(values)

    @torch.no_grad()
    def change_(self, changes: Iterable[Change]) -> None:
        """Change parameters for good."""
        for change in changes:
            for name, apply in change.items():
                apply(self.probe.parameters[name].detach())

    def movement(self, *changes: Change) -> float:
        """How far the outputs are then from where they were, relative."""
        return movement(self.outputs, self.run(*changes).outputs)

    def movers(self, changes: Mapping[str, Change], still: float) -> dict[str, float]:
        """Which of several changes move the outputs by more than ``still``, and how far."""
        return singled_out(
            list(changes), lambda names: self.movement(*(changes[name] for name in names)), still
        )


def singled_out(
    names: Sequence[str],
    measure: Callable[[Sequence[str]], float],
    limit: float,
    *,
    is_joint: bool = True,
) -> dict[str, float]:
    """The names that a measure of groups is above a limit for, found by halving, with their measure.

    Where neither half is above it alone, all of a group are in it together; but not where they only went
    beyond what numbers can hold, nor without ``is_joint``.

    Example:
        >>> weights = {"a": 0, "b": 3, "c": 0, "d": 0, "e": 5}
        >>> singled_out(list(weights), lambda some: sum(weights[name] for name in some), 1)
        {'b': 3, 'e': 5}
        >>> singled_out(["a", "b"], lambda some: len(some) - 1, 0)
        {'a': 1, 'b': 1}
        >>> singled_out(["a", "b"], lambda some: len(some) - 1, 0, is_joint=False)
        {}
    """
    value = measure(names) if names else 0.0
    if value <= limit:
        return {}
    if len(names) == 1:
        return {names[0]: value}
    middle = len(names) // 2
    halves = (
        singled_out(half, measure, limit, is_joint=is_joint) for half in (names[:middle], names[middle:])
    )
    found = {name: value for half in halves for name, value in half.items()}
    return found if found or not is_joint or value == float("inf") else dict.fromkeys(names, value)


def scaled(name: str, bias: str | None, blocks: Blocks, factors: Tensor) -> Change:
    """Each block of a weight multiplied by its factor, (n_blocks,), and the entries of its bias too."""
    change: dict[str, Callable[[Tensor], object]] = {
        name: lambda weight: scale_blocks_(_with_rows(weight), factors.to(weight.device), blocks)
    }
    if bias:
        change[bias] = lambda values: scale_blocks_(values, factors.to(values.device), blocks.of_bias)
    return change


def by_rows(name: str, parameter: Tensor, factors: Tensor) -> Change:
    """Each row along dimension 0 multiplied by its factor, (n_rows,)."""
    return scaled(name, None, Blocks(0, (1,) * len(_with_rows(parameter))), factors)


def _with_rows(parameter: Tensor) -> Tensor:
    """A view: a scalar has one row."""
    return parameter.reshape(-1) if parameter.ndim == 0 else parameter
