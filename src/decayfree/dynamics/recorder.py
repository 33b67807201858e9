"""What do weights do while a model trains?

Looks at every n-th step of an optimizer through the instruments of measures.py, by hooks on the user's own
optimizer. Changes no weight, and keeps nothing between the steps that it looks at.
"""

from __future__ import annotations

import os
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.optim import Optimizer

from decayfree.arguments.stored import unsupported_weights
from decayfree.attachment import Attached, attachable, nothing_in_common, uncompiled, weights_in
from decayfree.blocks import Part
from decayfree.display.frame import Library
from decayfree.display.notebook import titled
from decayfree.dynamics.families import update_family
from decayfree.dynamics.frames import frame_of_samples
from decayfree.dynamics.measures import distance_to_equilibrium
from decayfree.dynamics.readings import as_scalar, motion_readings, slope_readings, summary
from decayfree.dynamics.readings import labels as labels_of
from decayfree.dynamics.row_sums import Sums, added_up, motion_here, slope_and_copy_here
from decayfree.dynamics.samples import BRIEF, Sample, read_jsonl
from decayfree.dynamics.sinks import JsonLines, Kept
from decayfree.dynamics.watched import Watched
from decayfree.errors import (
    Fault,
    InvalidInputError,
    MismatchError,
    UnsupportedWeightError,
    faults_of,
    number_faults,
    raise_all,
    whole_number_faults,
)
from decayfree.invariance.result import Invariance
from decayfree.optimizers import UpdateFamily
from decayfree.step_counter import IdleStep, StepCounter, is_inner_step

PredictedAngles = Mapping[str, float | Tensor] | Callable[[str, Mapping[str, Any]], float | Tensor | None]
Instrument = Callable[[str, Tensor], Tensor | None]

_OF_WEIGHTS_WITHOUT_SCALE = ("effective_learning_rate", "gradient_norm_at_unit_radius")


class Recorder(Attached):
    """Record norms, effective learning rates, angular updates and more of weights in a run.

    Works by hooks on the optimizer, with or without a :class:`decayfree.WeightRescaling` on it, attached in
    either order: it sees weights as they are after the rescale. A step that is looked at is compared with a
    copy of the weights from just before it, which is freed right after; the device is waited for once.
    Between those steps it does nothing.

    Args:
        optimizer: Any :class:`torch.optim.Optimizer`. Parameters that join it later are not recorded.
        found: From :func:`decayfree.find_invariant` for the model whose parameters the optimizer has; or from
            :func:`decayfree.watch`, to look at all its matrices.
        every: Look at every so many-th step: at 50, steps 50, 100, 150, ... Steps that a GradScaler skips do
            not count.
        sink: A file, to which lines of JSON are appended (`decayfree.dynamics.read_jsonl` reads them), or
            anything that can be called with a :class:`decayfree.dynamics.Sample`. The file, by default
            ``dynamics.jsonl`` in the working directory, is made with the first sample. With
            ``torch.distributed`` only rank 0 calls the sink; all ranks must attach a recorder. A sink that
            raises stops no training: it is told once, and the samples go to ``dynamics.jsonl``.
        family: How the optimizer's step depends on the gradient's size, see
            :func:`decayfree.dynamics.update_family`; by default told from its class. ``"none"`` leaves the
            effective learning rate out.
        quantiles: From 0 to 1; over the blocks of each weight.
        predicted_angles: Angular update at equilibrium, in radians a step, by parameter name; or a function
            of a name and the parameter group (with its present learning rate and weight decay) that returns
            it, or None where there is none. Where one is given, ``distance_to_equilibrium`` is recorded.
        also: Instruments of your own by name: functions of a parameter name and the weight after the step
            that return one number a row or block, (n,), or None for a weight that they do not know. They
            should not wait for the device.

    Attributes:
        last: The last sample, or None.
        run: Letters that tell this run from others in the same file.

    Raises:
        MismatchError: If the optimizer holds none of the weights, or a name in ``predicted_angles`` is none
            of theirs.
        UnsupportedWeightError: If a weight is flattened (FSDP1), sparse, quantized or without data.
        InvalidInputError: If the optimizer's family is unknown, or another argument is outside what is
            allowed.

    Example:
        >>> from torch import nn
        >>> from decayfree import find_invariant
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> found, samples = find_invariant(model, torch.randn(16, 4)), []
        >>> recorder = Recorder(optimizer, found, every=2, sink=samples.append)
        >>> for _ in range(5):
        ...     optimizer.zero_grad()
        ...     model(torch.randn(16, 4)).square().mean().backward()
        ...     optimizer.step()
        >>> [sample.step for sample in samples], list(samples[0].weights)
        ([2, 4], ['0.weight'])
    """

    def __init__(
        self,
        optimizer: Optimizer,
        found: Invariance | Watched,
        *,
        every: int = 50,
        sink: str | os.PathLike[str] | Callable[[Sample], object] = "dynamics.jsonl",
        family: UpdateFamily | Literal["none"] | None = None,
        quantiles: Sequence[float] = (0.05, 0.5, 0.95),
        predicted_angles: PredictedAngles | None = None,
        also: Mapping[str, Instrument] | None = None,
    ) -> None:
        optimizer, found = attachable(optimizer, found.weights if isinstance(found, Watched) else found)
        self.optimizer = optimizer
        self.found = found
        self.every = every
        raise_all(faults_of(InvalidInputError, _kind_faults(quantiles, predicted_angles, also)))
        self.quantiles = tuple(map(float, quantiles))
        self.predicted_angles = predicted_angles
        self.also = dict(also or {})
        self._weights = weights_in(optimizer, found)
        faults = self._faults()
        self.family = _checked_family(optimizer, family, faults)
        self.sink = _sink_of(sink, faults)
        raise_all(faults)
        self._tell = Kept(self.sink, "dynamics.jsonl")
        self.last: Sample | None = None
        self.run = uuid.uuid4().hex[:8]
        self._steps, self._idle_step = StepCounter(), IdleStep()
        self._number = 0  # of the step that is looked at
        # Of a step that is looked at: weights as they were before, sums over their gradients, and by what
        # those are multiplied.
        self._kept: dict[str, Part] = {}
        self._slopes: dict[str, Sums] = {}
        self._scale: float | Tensor | None = None
        optimizer.register_step_pre_hook(uncompiled(self._before_step))
        # A WeightRescaling puts its hook before all others, so that this one sees rescaled weights.
        optimizer.register_step_post_hook(uncompiled(self._after_step))

    # What the user calls

    @property
    def n_steps(self) -> int:
        """Optimizer steps that the hooks have seen, without those that a GradScaler skipped."""
        return self._steps.n_steps

    def detach(self) -> None:
        """Stop recording and leave no trace in the optimizer."""
        super().detach()
        self._kept = {}

    def __repr__(self) -> str:
        state = f"{self.n_steps} steps" if self.is_attached else "detached"
        return f"Recorder({len(self._weights)} weights, every={self.every}, {state})"

    def _repr_html_(self) -> str:
        """What a notebook shows: the last sample's means, a row a weight."""
        if self.last is None:
            return titled(repr(self), [], "No step was looked at yet.")
        means = {
            name: {key: seen[key]["mean"] for key in BRIEF if key in seen}
            for name, seen in self.last.weights.items()
        }
        shown = [key for key in BRIEF if any(key in of for of in means.values())]
        rows = [
            [name, *(f"{of[key]:.3g}" if key in of else "" for key in shown)] for name, of in means.items()
        ]
        title = f"{self!r}, step {self.last.step}, means over blocks"
        return titled(title, [["weight", *(key.replace("_", " ") for key in shown)], *rows])

    def samples(self) -> list[Sample]:
        """What it has recorded so far, read back from the file that is its sink; empty before any sample.

        Raises:
            InvalidInputError: If its sink is no file.
        """
        if not isinstance(self.sink, JsonLines):
            raise InvalidInputError(
                f"samples of this recorder go to {self.sink!r:.60} and are not kept here: read them there, "
                'or let it write a file, as with sink="dynamics.jsonl"'
            )
        if not self.sink.path.is_file():
            return []
        return [sample for sample in read_jsonl(self.sink.path) if sample.run == self.run]

    def frame(self, *, library: Library | None = None) -> Any:
        """The same as a data frame, as `decayfree.dynamics.read_frame` makes one of a file.

        Args:
            library: ``"polars"`` or ``"pandas"``; by default the first of them that is installed.

        Raises:
            InvalidInputError: If its sink is no file, or ``library`` is another one.
            MissingExtraError: If polars and pandas are not installed.
        """
        return frame_of_samples(self.samples(), library)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to keep its steps and its name; loads with ``weights_only=True``."""
        return {"n_steps": self.n_steps, "run": self.run}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken; settings are those that this object was made with.

        Raises:
            MismatchError: If entries are missing.
            InvalidInputError: If they are not what :meth:`state_dict` gives. After an error nothing has
                changed.
        """
        own = self.state_dict().keys()
        missing = sorted(own - state.keys()) if isinstance(state, Mapping) else sorted(own)
        if missing:
            raise MismatchError(f"this is no state of a Recorder: it has no {', '.join(missing)}")
        n_steps, run = state["n_steps"], state["run"]
        if whole_number_faults("n_steps", n_steps, least=0) or not isinstance(run, str):
            raise InvalidInputError(
                "a Recorder's state has n_steps, a whole number of at least 0, and run, text; got "
                f"{n_steps!r} and {run!r}"
            )
        self._steps, self.run = StepCounter(n_steps), run

    # Around every step

    def _before_step(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if is_inner_step(optimizer):
            return None
        self._kept = {}
        self._idle_step.may_come(optimizer, args, kwargs, self._watched())
        if not self._steps.next_is_multiple_of(self.every, optimizer):
            return None
        self._number = self._steps.n_steps + 1
        # Gradients are read before the optimizer has them: some write into them. With a closure they are not
        # there yet.
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
        if not callable(closure):
            self._look()
            return None

        def watched() -> Any:
            loss = closure()
            if not self._kept:
                self._look()
            return loss

        if "closure" in kwargs:
            return args, {**kwargs, "closure": watched}
        return (args[0], watched, *args[2:]), kwargs

    @torch.no_grad()
    def _look(self) -> None:
        """Keep the weights as they are before the step, and what their gradients are like."""
        parts, groups = self._parts(), self._groups()
        gone = [name for name, part in parts.items() if id(part.weight) not in groups]
        if gone:
            warnings.warn(
                f"{len(gone)} weights ({gone[0]}, …) are not among the optimizer's parameters any more and "
                "are not recorded: the model's parameters were replaced after the optimizer was made",
                stacklevel=2,
            )
        parts = {name: part for name, part in parts.items() if name not in gone}
        self._slopes = {}
        copies: dict[str, Part | None] = {}
        # Of all weights first, so that what this needs for a moment does not come on top of the copies.
        for name, part in parts.items():
            if gradient := _gradient_of(part):
                self._slopes[name], copies[name] = slope_and_copy_here(part, gradient)
        # A fused optimizer gets gradients that are still multiplied by the scale of a GradScaler.
        self._scale = getattr(self.optimizer, "grad_scale", None)
        for name, part in parts.items():
            self._kept[name] = copies.get(name) or part.each(lambda tensor: tensor.detach().clone())

    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if is_inner_step(optimizer) or self._idle_step.has_come(self._watched()):
            return
        if self._steps.count(optimizer) and self._kept:
            self.last = self._sample()
            if _is_first_rank():
                self._tell(self.last)

    @torch.no_grad()
    def _sample(self) -> Sample:
        instruments, values = self._measure()
        numbers = iter(values.tolist())  # the one time that this waits for the device
        labels = labels_of(self.quantiles)
        rates = {name: next(numbers) for name in instruments}
        weights = {
            name: {instrument: {label: next(numbers) for label in labels} for instrument in of_weight}
            for name, of_weight in instruments.items()
        }
        return Sample(self.run, self._number, rates, weights)

    def _measure(self) -> tuple[dict[str, list[str]], Tensor]:
        """Names of each weight's instruments; in one tensor all learning rates, then all statistics."""
        parts, groups = self._parts(), self._groups()
        motions: dict[str, Sums] = {}
        rates: dict[str, Tensor] = {}
        for name in list(self._kept):
            after = parts[name]
            # Popped, so that it is freed when the next weight has had its turn.
            motions[name] = motion_here(self._kept.pop(name), after)
            rates[name] = as_scalar(groups[id(after.weight)]["lr"], after.weight.device)
        sums = iter(added_up([*motions.values(), *self._slopes.values()]))
        moved = {name: next(sums) for name in motions}
        shown = slope_readings({name: next(sums) for name in self._slopes}, self._scale)
        found = motion_readings(moved, rates, self.family)
        for name, seen in found.items():
            seen |= shown.get(name, {})
            if self.found[name].by_request:
                for key in _OF_WEIGHTS_WITHOUT_SCALE:
                    seen.pop(key, None)
            goal = self._predicted_angle(name, groups[id(parts[name].weight)])
            if goal is not None:
                seen["distance_to_equilibrium"] = distance_to_equilibrium(seen["angular_update_rad"], goal)
            own = self._own_readings(name, parts[name].weight)
            seen |= {key: value for key, value in own if value is not None}
        told = summary([value for seen in found.values() for value in seen.values()], self.quantiles)
        values = torch.cat(
            [*(rate.to(told.device, non_blocking=True).view(1) for rate in rates.values()), told.flatten()]
        )
        return {name: list(seen) for name, seen in found.items()}, values

    def _own_readings(self, name: str, parameter: Tensor) -> Iterator[tuple[str, Tensor | None]]:
        return ((key, read(name, parameter.detach())) for key, read in self.also.items())

    # Plumbing

    def _predicted_angle(self, name: str, group: Mapping[str, Any]) -> float | Tensor | None:
        if callable(self.predicted_angles):
            return self.predicted_angles(name, group)
        return None if self.predicted_angles is None else self.predicted_angles.get(name)

    def _parts(self) -> dict[str, Part]:
        parameters = dict(self.found.model.named_parameters())
        return {weight.name: weight.part(parameters) for weight in self._weights}

    def _watched(self) -> Iterator[Tensor]:
        for part in self._parts().values():
            yield from part.tensors

    def _groups(self) -> dict[int, Mapping[str, Any]]:
        return {
            id(parameter): group for group in self.optimizer.param_groups for parameter in group["params"]
        }

    def _faults(self) -> list[Fault]:
        recorded = {name: part.weight for name, part in self._parts().items()}
        faults: list[Fault] = []
        if not len(self.found):
            nothing = (
                "no scale-invariant weight was found in the model, so there is nothing to "
                "record; print(found) says why, and decayfree.watch(model) looks at all its matrices"
            )
            faults.append((MismatchError, nothing))
        elif not recorded:
            faults.append((MismatchError, nothing_in_common(self.optimizer, self.found)))
        faults += faults_of(UnsupportedWeightError, unsupported_weights(recorded))
        if recorded and isinstance(self.predicted_angles, Mapping):
            unknown = ", ".join(sorted(map(str, self.predicted_angles.keys() - recorded.keys())))
            if unknown:
                faults.append(
                    (MismatchError, f"predicted_angles has weights that are not recorded: {unknown}")
                )
        faults += faults_of(InvalidInputError, whole_number_faults("every", self.every))
        if not all(0 <= quantile <= 1 for quantile in self.quantiles):
            faults.append((InvalidInputError, f"quantiles must be from 0 to 1, got {self.quantiles}"))
        return faults


def _kind_faults(quantiles: object, predicted_angles: object, also: object) -> Iterator[str]:
    numbers: Iterable[Any] = quantiles if isinstance(quantiles, Iterable) else [None]
    if any(number_faults("", number) for number in numbers):
        yield f"quantiles must be numbers from 0 to 1, got {quantiles!r:.60}"
    if not (predicted_angles is None or isinstance(predicted_angles, Mapping) or callable(predicted_angles)):
        yield (
            "predicted_angles must map names to radians, or be a function of a name and its group, got "
            f"{predicted_angles!r:.60}"
        )
    is_named = isinstance(also, Mapping) and all(
        isinstance(name, str) and callable(one) for name, one in also.items()
    )
    if not (also is None or is_named):
        yield f"also must map names to functions of a parameter name and its weight, got {also!r:.60}"


def _gradient_of(part: Part) -> Part | None:
    """The gradients of a weight and its bias; None where one of them has none."""
    weight, bias = part.weight.grad, None if part.bias is None else part.bias.grad
    if weight is None or (part.bias is not None and bias is None):
        return None
    return Part(weight, bias, part.blocks).each(lambda one: one.to_dense() if one.is_sparse else one)


def _is_first_rank() -> bool:
    distributed = torch.distributed
    return not (distributed.is_available() and distributed.is_initialized() and distributed.get_rank() > 0)


def _checked_family(
    optimizer: Optimizer, family: str | None, faults: list[Fault]
) -> UpdateFamily | Literal["none"]:
    """What was said, or what the optimizer's class tells; ``"none"`` with a fault where neither will do."""
    if family is None:
        try:
            return update_family(optimizer)
        except InvalidInputError as error:
            faults.append((InvalidInputError, f'{error}; family="none" records everything else'))
    elif family in get_args(UpdateFamily):
        return family  # type: ignore[return-value]
    elif family != "none":
        faults.append(
            (InvalidInputError, f'family must be "sgd", "adam", "sign", "none" or None, got {family!r}')
        )
    return "none"


def _sink_of(sink: Any, faults: list[Fault]) -> Callable[[Sample], object]:
    if callable(sink):
        return sink  # type: ignore[no-any-return]
    if isinstance(sink, str | os.PathLike):
        try:
            return JsonLines(sink)
        except InvalidInputError as error:
            faults.append((InvalidInputError, str(error)))
    else:
        faults.append(
            (InvalidInputError, f"sink must be a path or something to call with a sample, got {sink!r}")
        )
    return print
