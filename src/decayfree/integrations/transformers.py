"""How does the Trainer of transformers hold norms, and record what weights do? By one callback each.

They attach to its optimizer when training begins, and keep their state in its checkpoints. Finds no weights:
they are looked for on the plain model, before the Trainer wraps it.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer

from decayfree.attachment import found_faults
from decayfree.dynamics.recorder import Recorder
from decayfree.dynamics.watched import Watched
from decayfree.errors import InvalidInputError, extra_needed, faults_of, raise_all
from decayfree.invariance.result import Invariance
from decayfree.rescaling.turning import Turning
from decayfree.rescaling.weight_rescaling import WeightRescaling

with extra_needed("transformers", "callbacks for its Trainer need {}, which is not installed"):
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
    from transformers.trainer_callback import ExportableState


class _AtOptimizer(TrainerCallback, ExportableState):
    """Has one object at the optimizer, with its state in ``trainer_state.json``."""

    _kind: type[WeightRescaling] | type[Recorder]
    attached: Any = None
    lost: tuple[str, ...] = ()

    def __init__(self, found: Invariance | Mapping[str, Any], **settings: Any) -> None:
        if not isinstance(found, Mapping):
            raise_all(faults_of(InvalidInputError, found_faults(found)))
        self.found, self.settings = found, settings
        signature(self._kind).bind(None, None, **settings)  # so that a slip is told at once

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Attach: weights and optimizer have what a checkpoint had, and no step was taken."""
        if self.lost:
            raise InvalidInputError(
                f"restore_callback_states_from_checkpoint makes {type(self).__name__} anew from JSON, which "
                f"cannot hold {', '.join(self.lost)}: leave it off, this state is resumed without it"
            )
        if not isinstance(self.found, Invariance):
            self.found = Invariance.from_dict(self.found, kwargs["model"])
        # By name, although it is typed as the list that it was made of.
        entries: Any = state.stateful_callbacks or {}
        entry = entries.get(type(self).__name__, {})
        if isinstance(entry, list):
            raise InvalidInputError(f"a Trainer takes one {type(self).__name__}, got {len(entry)}")
        if self.attached is not None:  # to the same optimizer, by an earlier training
            self.attached.detach()
        saved = entry.get("attributes", {}).get("saved")
        self.attached = self._attach(args, kwargs, self.found, is_saved=saved is not None)
        if saved is not None:
            self.attached.load_state_dict(_state_of(saved))

    def _attach(
        self, args: TrainingArguments, around: Mapping[str, Any], found: Invariance, *, is_saved: bool
    ) -> Any:
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        """For ``trainer_state.json``: what makes this object again, and the state of what is attached."""
        kept = {key: one for key, one in self.settings.items() if one is None or isinstance(one, _IN_JSON)}
        found = self.found.to_dict() if isinstance(self.found, Invariance) else self.found
        attributes = {
            "saved": None if self.attached is None else _text_of(self.attached.state_dict()),
            "lost": [key for key in self.settings if key not in kept],
        }
        return {"args": {"found": found, **kept}, "attributes": attributes}


class WeightRescalingCallback(_AtOptimizer):
    """Hold the norms of scale-invariant weights (weight rescaling) in a :class:`transformers.Trainer`.

    By a :class:`decayfree.WeightRescaling` on its optimizer, from the beginning of training on; accumulation,
    mixed precision and schedulers are as without it. Its state is in the Trainer's checkpoints, and comes
    back with ``resume_from_checkpoint``.

    Weights that are held must not be decayed, and Trainers decay by default of their models' recipes. Between
    the Trainer and its ``train()``: ``trainer.create_optimizer()``, then
    ``decayfree.exempt_(trainer.optimizer, found)``.

    Args:
        found: From :func:`decayfree.find_invariant` for the plain model, before the Trainer is made; or its
            ``to_dict()``.
        settings: As for :class:`decayfree.WeightRescaling`.

    Attributes:
        attached: The :class:`decayfree.WeightRescaling` of the last training.

    Raises:
        TypeError: If a setting is unknown.
        InvalidInputError: If ``found`` is no result. All else, when training begins, as
            :class:`decayfree.WeightRescaling`.

    Example:
        >>> from torch import nn
        >>> from decayfree import find_invariant
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
        >>> found = find_invariant(model, torch.randn(16, 4))
        >>> WeightRescalingCallback(found, radius="init", every=2).settings
        {'radius': 'init', 'every': 2}
    """

    _kind: type[WeightRescaling] = WeightRescaling

    def _attach(
        self, args: TrainingArguments, around: Mapping[str, Any], found: Invariance, *, is_saved: bool
    ) -> WeightRescaling:
        # With radii to come from a checkpoint nothing may be rescaled now: it may be between two rescales.
        settings = self._settings(args, around) | ({"radius": "init"} if is_saved else {})
        return self._kind(around["optimizer"], found, **settings)

    def _settings(self, args: TrainingArguments, around: Mapping[str, Any]) -> dict[str, Any]:
        return self.settings


class TurningCallback(WeightRescalingCallback):
    """Hold norms and set the angle of every step, by :class:`decayfree.Turning`, in a Trainer.

    Everything else is as in :class:`WeightRescalingCallback`.

    Args:
        found: As there.
        settings: As for :class:`decayfree.Turning`. ``steps_per_epoch`` is the Trainer's, if none is given.

    Example:
        >>> from torch import nn
        >>> from decayfree import find_invariant
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
        >>> TurningCallback(find_invariant(model, torch.randn(16, 4)), memory_epochs=3).settings
        {'memory_epochs': 3}
    """

    _kind = Turning

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Collect the state of sharded weights on all ranks: of a checkpoint, the first alone asks for it."""
        if control.should_save or control.should_evaluate:  # which may be the best, and saved
            self.attached.state_dict()

    on_epoch_end = on_step_end

    def _settings(self, args: TrainingArguments, around: Mapping[str, Any]) -> dict[str, Any]:
        loader = around["train_dataloader"]
        if self.settings.keys() & {"steps_per_epoch", "forgetting"} or not hasattr(loader, "__len__"):
            return self.settings
        n_steps = math.ceil(len(loader) / args.gradient_accumulation_steps)
        return {**self.settings, "steps_per_epoch": n_steps}


class RecorderCallback(_AtOptimizer):
    """Record norms, angles and effective learning rates of scale-invariant weights in a Trainer.

    By a :class:`decayfree.Recorder` on its optimizer, whose samples go to ``dynamics.jsonl`` in the Trainer's
    ``output_dir`` if ``sink`` says nothing else.

    Args:
        found: As for :class:`WeightRescalingCallback`; or from :func:`decayfree.watch`, to look at all
            matrices.
        settings: As for :class:`decayfree.Recorder`.

    Attributes:
        attached: The :class:`decayfree.Recorder` of the last training.

    Raises:
        InvalidInputError: As :class:`WeightRescalingCallback`. All else as :class:`decayfree.Recorder`.
    """

    _kind = Recorder

    def __init__(self, found: Invariance | Watched | Mapping[str, Any], **settings: Any) -> None:
        super().__init__(found.weights if isinstance(found, Watched) else found, **settings)

    def _attach(
        self, args: TrainingArguments, around: Mapping[str, Any], found: Invariance, *, is_saved: bool
    ) -> Recorder:
        folder = Path(args.output_dir or ".")
        if "sink" not in self.settings:
            folder.mkdir(parents=True, exist_ok=True)
        optimizer: Optimizer = around["optimizer"]
        return Recorder(optimizer, found, **({"sink": folder / "dynamics.jsonl"} | self.settings))


_IN_JSON = (bool, int, float, str)


def _text_of(state: Mapping[str, Any]) -> str:
    """A state as text: to the last bit, and one line of the JSON that holds it."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _state_of(text: str) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(
        io.BytesIO(base64.b64decode(text)), map_location="cpu", weights_only=True
    )
    return state
