"""What does really changing a parameter say, where its gradient says nothing or not the truth?

A gradient is believed only as far as the outputs follow it. It may be zero although the parameter has an
effect, and it may be another one than the derivative. Then scaling decides, up and down. Which parameters are
asked is said by search.py, what is made of the answers by discovery.py.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple
from zlib import crc32

import torch
from torch import Tensor

from decayfree.blocks import Blocks
from decayfree.forward import movement
from decayfree.invariance.exact_arithmetic import use_eps_
from decayfree.invariance.finding import Says
from decayfree.invariance.labels import labelled_factors, least_log2, opposite_factors
from decayfree.invariance.partition import CANCELLED, Partition
from decayfree.invariance.rounding import RoundingDecidesError
from decayfree.invariance.trials import Change, Trials, by_rows, scaled, singled_out

# So large that a normalization lets the size of what it sees through.
_LARGE_EPS = 1.0


@dataclass(frozen=True)
class Precision:
    """How far runs in one precision can be believed.

    Args:
        still: Outputs that move by at most this, relative, have not moved.
        effect: From here on, other values of a parameter have an effect: so far from ``still`` that
            what scaling does can be told from nothing.
        step: By how much each parameter shall move φ, when gradients are checked.
        largest: No row is moved by more than this for it, relative.
        lie: Share of ``step`` by which the outputs may differ from what gradients say. ReLUs that switch and
            curvature of 254 parameters together make up 1 % of 1e-7 in float64, 0.001 % of 1e-8.
        is_central: Whether steps are so large that curvature shows, unless they are taken both ways.
        least: The smallest factor's log2.
        most: The largest factor's log2.
    """

    still: float
    effect: float
    step: float
    largest: float
    lie: float
    is_central: bool
    least: int
    most: int

    def opposite(self, factors: Tensor, eps: float, seed: int) -> Tensor:
        """Factors for the other direction, where normalizations have an ε."""
        return opposite_factors(factors, self.least if least_log2(eps) else 0, self.most, seed)


PRECISIONS = {
    torch.float64: Precision(
        1e-9, 1e-6, step=1e-7, largest=1e-2, lie=0.03, is_central=False, least=-7, most=16
    ),
    torch.float32: Precision(1e-3, 3e-2, step=2e-4, largest=5e-2, lie=0.5, is_central=True, least=-6, most=7),
}
# Of steps that are smaller less is curvature, and more is rounding.
_SMALL_STEP = replace(PRECISIONS[torch.float64], step=1e-8, lie=0.01)
# Other values of a parameter are so much larger, of a vector so much larger than one half.
_FAR = 64.0
# Outputs that move by this share when parameters are rounded otherwise are made of rounding.
_ROUNDING = 1e-3


class Nudge(NamedTuple):
    """A small change of a parameter along itself, and the opposite one.

    Args:
        change: Of the parameter.
        back: As far the other way.
        predicted: The change of φ that the gradient says the first one makes.
    """

    change: Change
    back: Change
    predicted: float


def nudges(
    parameters: Mapping[str, Tensor], radial: Mapping[str, Tensor], precision: Precision, seed: int
) -> dict[str, Nudge]:
    """For each parameter one that moves φ by about ``precision.step``, every row by a random share of it.

    All parameters together then move φ by what their gradients say, if these are derivatives; and one that is
    not shows, however little the parameter does beside the others. All rows move φ the same way: what several
    untrue gradients promise does not cancel, and no row goes far only to undo what others do.

    Args:
        parameters: By name.
        radial: For those to check ⟨w_i, ∂φ/∂w_i⟩ of every row along dimension 0.
        precision: Of the runs.
        seed: Seeds the shares.
    """
    generator = torch.Generator().manual_seed(seed + 15_485_863)
    made = {}
    for name, rows in radial.items():
        slopes = rows.double().cpu()
        shares = torch.randn(rows.shape, generator=generator, dtype=torch.float64).abs() * slopes.sign()
        predicted = float((shares * slopes).sum())
        size = min(precision.step / max(predicted, 1e-300), precision.largest / float(shares.abs().max()))
        change, back = (by_rows(name, parameters[name], 1 + sign * size * shares) for sign in (1, -1))
        made[name] = Nudge(change, back, size * predicted)
    return made


def everything_holds(
    trials: Trials,
    others: Sequence[Change],
    radial: Mapping[str, Tensor],
    wholes: Sequence[tuple[str, str | None, float]],
    seed: int,
) -> bool:
    """Whether in one run in float64 nothing shows but what gradients say of some parameters.

    With steps so small that curvature and ReLUs that switch do not show; where rounding then may, once more
    with larger ones.

    Args:
        trials: At the point where gradients were taken.
        others: Changes that ought to move nothing.
        radial: As for :func:`nudges`.
        wholes: Weights that may be free as a whole, with a bias or None, and how φ grows with them. Each
            shall move φ by a tenth of a step, and so by more than may be missed.
        seed: As for :func:`nudges`.
    """
    for precision in (_SMALL_STEP, PRECISIONS[torch.float64]):
        made = nudges(trials.probe.parameters, radial, precision, seed).values()
        longer = [
            _longer(trials.probe.parameters, name, bias, precision.step / 10 / slope)
            for name, bias, slope in wholes
        ]
        outputs = trials.run(*others, *(nudge.change for nudge in made), *longer).outputs
        promised = sum(nudge.predicted for nudge in made) + len(wholes) * precision.step / 10
        missed = abs(trials.probe.functional_change(trials.outputs, outputs) - promised)
        # φ does not see outputs that have no gradient, and notices much less than this in the others.
        if missed <= precision.lie * precision.step and movement(trials.outputs, outputs) <= 1e-3:
            return True
    return False


def _longer(parameters: Mapping[str, Tensor], name: str, bias: str | None, share: float) -> Change:
    whole = Blocks(0, (len(parameters[name]),))
    return scaled(name, bias, whole, torch.tensor([1 + share], dtype=torch.float64))


def are_followed(trials: Trials, radial: Mapping[str, Tensor], seed: int) -> bool:
    """Whether the outputs follow the gradients of parameters that move them very little, each of them.

    In one run: each moves φ as far as the weakest does that grows by a percent or so.
    """
    weakest = min(float(torch.linalg.vector_norm(rows)) for rows in radial.values())
    precision = replace(PRECISIONS[torch.float64], step=1e-2 * weakest)
    made = nudges(trials.probe.parameters, radial, precision, seed).values()
    outputs = trials.run(*(nudge.change for nudge in made)).outputs
    promised = sum(nudge.predicted for nudge in made)
    return abs(trials.probe.functional_change(trials.outputs, outputs) - promised) <= 0.3 * precision.step


def liars(trials: Trials, made: Mapping[str, Nudge], precision: Precision) -> list[str]:
    """The parameters whose gradient is not the derivative of what the model computes."""

    def change_of_functional(changes: Sequence[Change]) -> float:
        return trials.probe.functional_change(trials.outputs, trials.run(*changes).outputs)

    def missed_by(names: Sequence[str]) -> float:
        measured = change_of_functional([made[name].change for name in names])
        if precision.is_central:
            measured = (measured - change_of_functional([made[name].back for name in names])) / 2
        missed = abs(measured - sum(made[name].predicted for name in names))
        return missed if math.isfinite(missed) else math.inf

    # Each lies by itself; what many honest ones miss only together is the curvature between them.
    limit = precision.lie * precision.step
    found = singled_out(list(made), missed_by, limit, is_joint=False)
    return [name for name in found if _lies_both_ways(made[name], change_of_functional, limit)]


def _lies_both_ways(
    nudge: Nudge, change_of_functional: Callable[[Sequence[Change]], float], limit: float
) -> bool:
    """A ReLU that switches on the way shows in one direction, and curvature not between the two."""
    there = change_of_functional([nudge.change]) - nudge.predicted
    back = change_of_functional([nudge.back]) + nudge.predicted
    return not (abs(there) <= limit or abs(back) <= limit or abs(there - back) <= 2 * limit)


class Answer(NamedTuple):
    """What really changing a parameter says of it.

    Args:
        says: In a word (finding.py).
        moves: How far scaling it moved the outputs.
        partition: Its blocks, where they have no scale.
        bias: Its bias, if they only work together.
        says_of: The normalization that it is about.
    """

    says: Says
    moves: float = 0.0
    partition: Partition | None = None
    bias: str | None = None
    says_of: str | None = None


# A bias or none, and blocks: what is scaled together.
_Way = tuple[str | None, Blocks]


class ByScaling:
    """Asks parameters by really changing them.

    Args:
        trials: At the point where they are asked.
        dtype: Of the runs.
        biases: By weight the bias that may belong to it.
        seed: Seeds factors and values.
    """

    def __init__(
        self, trials: Trials, dtype: torch.dtype, biases: Mapping[str, str | None], seed: int
    ) -> None:
        self._trials = trials
        self._parameters = trials.probe.parameters
        self._precision = PRECISIONS[dtype]
        self._biases = biases
        self._seed = seed
        self._least = least_log2(trials.probe.eps)

    def of_silent(self, names: Sequence[str], evidence: float) -> dict[str, Answer]:
        """Of parameters whose gradient is zero.

        First, which of them have any effect? With a large ε a normalization lets through the size of what it
        sees, and who has a gradient then is heard by it. For the others, entirely other values tell.

        Args:
            names: Of parameters.
            evidence: A row that could move the outputs by less than this, relative, says nothing.
        """
        heard = self._heard_with_a_large_eps(names, evidence)
        redraws = {name: self.redrawn(name) for name in names if name not in heard}
        awake = self._trials.movers(redraws, self._precision.still)
        found = {name: Answer("no effect") for name in redraws if name not in awake}
        asked = [name for name in names if name not in found]
        moved, _ = self._moved({name: (None, self._rows(name)) for name in asked})
        if moved:
            self._refuse_rounding(list(moved))
        found |= {name: self._of_moved(name, moved[name], is_silent=True) for name in moved}
        rest = [name for name in asked if name not in moved]
        found |= {name: self._elsewhere(name, (None, self._rows(name))) for name in rest if name in awake}
        free = [name for name in rest if name not in found or not found[name].moves]
        same_signs = {name: self.redrawn(name, keeps_signs=True) for name in free}
        chosen = self._trials.movers(same_signs, self._precision.still)
        found |= {name: Answer("choice" if name in chosen else "sign") for name in free}
        turned = {name: self._turned(name) for name, answer in found.items() if answer.says == "choice"}
        smooth = self._trials.movers(turned, self._precision.still)
        return found | {name: found[name]._replace(says="detached") for name in smooth}

    def of_liars(self, names: Sequence[str], axes: Mapping[str, tuple[int, int]]) -> dict[str, Answer]:
        """Of parameters whose gradient is not the derivative.

        Args:
            names: Of parameters.
            axes: By name (axis, groups) along which the operation that uses it has its output channels.
        """
        rows = {name: self._rows(name, *axes[name]) for name in names}
        moved, stirred = self._moved({name: (None, blocks) for name, blocks in rows.items()})
        found = {}
        for name, blocks in rows.items():
            if name in moved:
                found[name] = self._of_moved(name, moved[name], rows=blocks)
            elif self._has_effect(name):
                found[name] = Answer("free", partition=Partition(blocks, stirred, 0))
        return found

    def of_nearly_cancelled(self, asked: Sequence[tuple[str, bool]]) -> dict[str, Answer]:
        """Of matrices that are nearly free as a whole by their gradients: which are, by really scaling them.

        A weight that is rounded to int8 has a gradient that is a percent beside the derivative: too near for
        a liar, too far for a sum of zero.

        Args:
            asked: Names, and whether the bias is scaled along.
        """
        found: dict[str, Answer] = {}
        for name, is_joint in asked:
            if name in found:
                continue
            bias = self._biases[name] if is_joint else None
            # By its rows, if it may be: each of them is free then.
            for blocks in ([] if is_joint else [self._rows(name)]) + [self._whole(name)]:
                moved, stirred = self._moved({name: (bias, blocks)})
                if not moved and self._has_effect(name):
                    found[name] = Answer("free", 0.0, Partition(blocks, stirred, 0), bias)
                    break
        return found

    def of_faint(self, names: Sequence[str], moved: float) -> dict[str, Answer]:
        """Of parameters that move the outputs by very little for their growth.

        That may be chance, or all that they do; or an ε in the way, and then turning them does much more.

        Args:
            names: Of parameters.
            moved: From here on, a movement is one without more ado.
        """
        found = {}
        for name in names:
            halves = torch.tensor([0.5, 2.0], dtype=torch.float64)
            factors = halves.repeat(self._rows(name).n_blocks)[: self._rows(name).n_blocks]
            ways = [
                scaled(name, None, self._rows(name), factors),
                scaled(name, None, self._whole(name), halves[1:]),
            ]
            moves = max(self._trials.movement(way) for way in ways)
            if moves <= self._precision.still:
                continue
            if moves >= moved or moves >= CANCELLED * self._trials.movement(self.redrawn(name)):
                found[name] = Answer("moves", moves)
        return found

    def _refuse_rounding(self, names: Sequence[str]) -> None:
        """Some normalization may see rounding alone, as of equal samples: then anything moves the outputs.

        Raises:
            RoundingDecidesError: If factors as near to 1 as numbers can be do.
        """
        changes = []
        for name in names:
            rows = self._rows(name)
            signs = torch.arange(rows.n_blocks, dtype=torch.float64) % 2 * 4 - 2
            shaken = 1 + torch.finfo(self._parameters[name].dtype).eps * signs
            ways = [scaled(name, None, rows, factors) for factors in self._both_ways(rows)]
            changes.append((*ways, by_rows(name, self._parameters[name], shaken)))
        for direction in (0, 1):
            scalings = [change[direction] for change in changes]
            there = Trials(self._trials.probe, self._trials.run(*scalings).outputs, self._trials.start)
            if there.movement(*scalings, *(change[2] for change in changes)) > _ROUNDING:
                raise RoundingDecidesError

    def _of_moved(
        self, name: str, moves: float, *, rows: Blocks | None = None, is_silent: bool = False
    ) -> Answer:
        """Of one that moves the outputs when its rows are scaled: they may have a scale only together."""
        rows, whole, bias = rows or self._rows(name), self._whole(name), self._biases[name]
        ways: list[_Way] = [(None, whole)]
        if bias and self._parameters[bias].numel() == rows.n_rows:
            ways += [(bias, rows), (bias, whole)]
        for way in ways:
            moved, stirred = self._moved({name: way})
            if moved or not self._has_effect(name):
                continue
            if is_silent:
                return self._elsewhere(name, way)
            return Answer("free", 0.0, Partition(way[1], stirred, 0), way[0])
        return Answer("moves", moves)

    def _elsewhere(self, name: str, way: _Way) -> Answer:
        """Of one that moves nothing when scaled, though other values of it would: does it there?"""
        redraw, (bias, blocks) = self.redrawn(name), way
        there = Trials(self._trials.probe, self._trials.run(redraw).outputs, self._trials.start)
        for factors in self._both_ways(blocks):
            moves = there.movement(redraw, scaled(name, bias, blocks, factors))
            if moves > self._precision.still:
                return Answer("moves elsewhere", moves)
        return Answer("choice", bias=bias)

    def _moved(self, ways: Mapping[str, _Way]) -> tuple[dict[str, float], float]:
        """Which move the outputs when scaled, up and down; and how far the others did, by rounding."""
        moved: dict[str, float] = {}
        stirred = 0.0
        for direction in (0, 1):
            changes = {
                name: scaled(name, bias, blocks, self._both_ways(blocks)[direction])
                for name, (bias, blocks) in ways.items()
                if name not in moved
            }

            def movement(names: Sequence[str], changes: Mapping[str, Change] = changes) -> float:
                nonlocal stirred
                moves = self._trials.movement(*(changes[name] for name in names))
                stirred = max(stirred, moves) if moves <= self._precision.still else stirred
                return moves

            moved |= singled_out(list(changes), movement, self._precision.still)
        return moved, stirred

    def _both_ways(self, blocks: Blocks) -> tuple[Tensor, Tensor]:
        """Factors for every block, far above 1 or below, and the other way round."""
        first = labelled_factors(torch.full((blocks.n_blocks,), 0.5).double(), self._least, self._seed)
        return first, self._precision.opposite(first, self._trials.probe.eps, self._seed)

    def _has_effect(self, name: str) -> bool:
        return self._trials.movement(self.redrawn(name)) > self._precision.effect

    def _heard_with_a_large_eps(self, names: Sequence[str], evidence: float) -> set[str]:
        probe = self._trials.probe
        eps, probe.eps = probe.eps, _LARGE_EPS
        use_eps_(probe.copy, _LARGE_EPS)
        try:
            gradients = probe.gradients(probe.run(start=self._trials.start).outputs)
        finally:
            probe.eps = eps
            use_eps_(probe.copy, eps)
        norm = torch.linalg.vector_norm
        return {
            name
            for name in names
            if name in gradients
            and float(norm(self._parameters[name].detach()) * norm(gradients[name])) > evidence
        }

    def redrawn(self, name: str, *, keeps_signs: bool = False) -> Change:
        """Entirely other values, and so large that they wake what sleeps and reach what clips."""
        parameter = self._parameters[name].detach()
        typical = float(torch.linalg.vector_norm(parameter)) / max(parameter.numel(), 1) ** 0.5
        size = _FAR * max(typical, 0.5 if parameter.ndim < 2 else 0.0)

        def redraw(old: Tensor) -> None:
            generator = torch.Generator().manual_seed(self._seed + crc32(name.encode()))
            new = torch.randn(old.shape, generator=generator, dtype=old.dtype).to(old.device)
            new += new.sgn()  # none of them is small
            if new.numel():  # a single number must turn around
                first = (0,) * new.ndim
                new[first] = -new[first].abs() * old[first].sgn() if old[first] != 0 else new[first]
            old.copy_(size * (new.abs() * old.sgn() if keeps_signs else new))

        return {name: redraw}

    def _turned(self, name: str) -> Change:
        """Values so near that no choice is another one."""

        def turn(old: Tensor) -> None:
            generator = torch.Generator().manual_seed(self._seed + crc32(name.encode()))
            noise = torch.randn(old.shape, generator=generator, dtype=old.dtype).to(old.device)
            old.mul_(1 + self._precision.step**0.5 * noise)

        return {name: turn}

    def _rows(self, name: str, axis: int = 0, groups: int = 1) -> Blocks:
        shape = self._parameters[name].shape
        axis, groups = (axis, groups) if len(shape) > 1 else (0, 1)
        return Blocks(axis, (1,) * (shape[axis] * groups if shape else 1), groups)

    def _whole(self, name: str) -> Blocks:
        return Blocks(0, (len(self._rows(name).block_sizes),))
