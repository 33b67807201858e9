"""How does Lightning's Trainer hold norms, and record what weights do? By one callback each.

They look for the weights, and attach to each optimizer that has some. What is attached does the rest, by its
own hooks: these callbacks do nothing in a step.
"""

import math
from collections import ChainMap
from collections.abc import Callable, Iterable, Iterator, Mapping
from inspect import signature
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from decayfree.arguments.wrappers import plain
from decayfree.attachment import attachable, found_faults, nothing_in_common, weights_in
from decayfree.dynamics.recorder import Recorder
from decayfree.dynamics.samples import Sample
from decayfree.dynamics.sinks import JsonLines, told
from decayfree.dynamics.watched import Watched
from decayfree.errors import InvalidInputError, MismatchError, extra_needed, faults_of, listed, raise_all
from decayfree.forward import Forward
from decayfree.invariance.discovery import find_invariant
from decayfree.invariance.result import Invariance
from decayfree.rescaling.average import averaged
from decayfree.rescaling.held import radii_of
from decayfree.rescaling.radius import Radius, radius_faults
from decayfree.rescaling.rescale_once import rescale_
from decayfree.rescaling.turning import Turning
from decayfree.rescaling.weight_rescaling import WeightRescaling

with extra_needed("lightning", "callbacks for Lightning need {}, which is not installed"):
    from lightning.pytorch import Callback, LightningModule, Trainer
    from lightning.pytorch.callbacks import StochasticWeightAveraging, WeightAveraging
    from lightning.pytorch.utilities.combined_loader import CombinedLoader

# So many are enough for running statistics, however long an epoch is.
_MOST_BATCHES = 200


class _AtOptimizers(Callback):
    """Has one object at each optimizer that holds some of the weights, with its state in the checkpoint."""

    def __init__(
        self,
        inputs: Any,
        forward: Forward | None,
        include: Iterable[str] | None,
        exclude: Iterable[str],
    ) -> None:
        self.found: Invariance | None = None
        self.attached: dict[int, Any] = {}
        given = {"forward": forward, "include": include, "exclude": exclude}
        useless = [name for name, value in given.items() if value]
        if callable(inputs) and useless:
            raise InvalidInputError(
                "inputs is a function that finds the weights by itself, and is not called with "
                f"{listed(useless)}: say it in the function"
            )
        self._inputs, self._forward = inputs, forward
        self._choice: dict[str, Any] = {"include": include, "exclude": exclude}
        self._saved: Mapping[int, Any] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the weights, before anything is sharded, wrapped or copied."""
        if stage == "fit":
            self._saved = {}
            if callable(self._inputs):
                found = self._inputs(pl_module)
                self.found = found.weights if isinstance(found, Watched) else found
                raise_all(faults_of(InvalidInputError, found_faults(self.found)))
            else:
                self.found = find_invariant(pl_module, self._inputs, forward=self._forward, **self._choice)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Attach: weights and optimizers have what a checkpoint had, and no step was taken."""
        assert self.found is not None
        optimizers = [attachable(one, self.found)[0] for one in trainer.optimizers]
        holding = [index for index, one in enumerate(optimizers) if weights_in(one, self.found)]
        if not holding:
            raise MismatchError(f"{type(self).__name__}: {nothing_in_common(optimizers[0], self.found)}")
        if self._saved and [*self._saved] != holding:
            raise MismatchError(
                f"the checkpoint has states of {type(self).__name__} for the optimizers {[*self._saved]}, "
                f"and these weights are in {holding}: resume with the optimizers that it was saved with"
            )
        self.attached = {}
        for index in holding:
            saved = self._saved.get(index)
            self.attached[index] = self._attach(trainer, optimizers[index], self.found, is_saved=bool(saved))
            if saved:
                self.attached[index].load_state_dict(saved)
        self._saved = {}

    def _attach(self, trainer: Trainer, optimizer: Optimizer, found: Invariance, *, is_saved: bool) -> Any:
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """Of what is attached, by the number of its optimizer."""
        return {"attached": {index: one.state_dict() for index, one in self.attached.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep it until there are optimizers."""
        self._saved = state_dict["attached"]


class WeightRescalingCallback(_AtOptimizers):
    """Hold the norms of scale-invariant weights (weight rescaling) in a :class:`lightning.pytorch.Trainer`.

    Finds them when fitting is set up and rescales them at once, so that callbacks that average weights copy
    them as they will be; holds them from the start of training on by a :class:`decayfree.WeightRescaling` on
    each optimizer that has some. Automatic and manual optimization, several optimizers, accumulation,
    precision plugins, DDP and checkpoints are as without it.

    After a fit with :class:`~lightning.pytorch.callbacks.WeightAveraging` the average is what the module
    holds: it is put onto the radius, and running statistics are measured anew on (at most 200) batches of
    training data, since those that were averaged belong to longer weights.

    Args:
        inputs: What the module is called with to find the weights, as for
            :func:`decayfree.find_invariant`. Or a function of the module that gives what was found, such as
            ``lambda module: decayfree.find_invariant(module, images).by_request({"*.fc1": "row"})``.
        forward: ``forward(module, inputs)``, if that is not ``module(inputs)``. A batch of training data must
            do as well, where statistics are measured; with a function as ``inputs``, which finds by itself,
            it is for that alone.
        include: As for :func:`decayfree.find_invariant`, and not beside a function, as is ``exclude``.
        exclude: Likewise.
        settings: As for :class:`decayfree.WeightRescaling`: ``radius``, ``at_most``, ``every``, ``momentum``,
            ``schedule``, ``fused``.

    Attributes:
        found: From the last setup on, the :class:`decayfree.Invariance`: in ``configure_optimizers``
            :func:`found_in` gives it, for :func:`decayfree.split_params` or :func:`decayfree.exempt_`.
        attached: By the number of the optimizer, the :class:`decayfree.WeightRescaling` of the last fit.

    Raises:
        TypeError: If a setting is unknown, or ``copies``, which are found.
        InvalidInputError: With ``include`` or ``exclude`` beside a function; in setup, if a callback that
            averages weights comes before this one.
        MismatchError: At the start of training, if no optimizer has any of the weights, or the optimizers are
            not those of the checkpoint. All else as :class:`decayfree.WeightRescaling`.

    Example:
        >>> import torch
        >>> callback = WeightRescalingCallback(torch.randn(16, 3, 32, 32), every=2)
        >>> trainer = Trainer(callbacks=[callback], logger=False, enable_checkpointing=False,
        ...     accelerator="cpu", enable_progress_bar=False, enable_model_summary=False)
        >>> callback in trainer.callbacks
        True
    """

    _kind: type[WeightRescaling] = WeightRescaling
    _default_radius: Radius = 1.0

    def __init__(
        self,
        inputs: Any,
        *,
        forward: Forward | None = None,
        include: Iterable[str] | None = None,
        exclude: Iterable[str] = (),
        **settings: Any,
    ) -> None:
        super().__init__(inputs, None if callable(inputs) else forward, include, exclude)
        self._forward = forward
        self.settings = {"radius": self._default_radius} | settings
        signature(self._kind).bind(None, None, copies=(), **settings)  # so that a slip is told at once

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the weights and put them onto their radius."""
        if stage != "fit":
            return
        before = takewhile(lambda one: one is not self, _callbacks(trainer))
        early = [type(one).__name__ for one in before if isinstance(one, _AVERAGING)]
        if early:
            raise InvalidInputError(
                f"{type(self).__name__} must come before {', '.join(early)} in the Trainer's callbacks, "
                "which copies the weights in its setup, before they are rescaled: put it first"
            )
        super().setup(trainer, pl_module, stage)
        assert self.found is not None
        weights, radius = list(self.found), self.settings["radius"]
        if weights:
            names = [weight.name for weight in weights]
            raise_all(faults_of(InvalidInputError, radius_faults(radius, names)))
            # By block, since nothing else says "init" of some weights.
            radii: Mapping[str, Any] = radii_of(self.found.model, weights, radius)
            rescale_(pl_module, self.found, radius=radii)

    def _attach(
        self, trainer: Trainer, optimizer: Optimizer, found: Invariance, *, is_saved: bool
    ) -> WeightRescaling:
        # With radii to come from a checkpoint nothing may be rescaled now: it may be between two rescales.
        settings = self._settings(trainer) | ({"radius": "init"} if is_saved else {})
        return self._kind(optimizer, found, copies=_averages(trainer), **settings)

    def _settings(self, trainer: Trainer) -> dict[str, Any]:
        return self.settings

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """Let the epoch in which SWA measures statistics move nothing.

        It skips backward passes, and takes its last step with the gradients of the epoch before.
        """
        if trainer.fit_loop._skip_backward:
            optimizer.zero_grad()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make a model of the average, before its callback puts it into the module."""
        for average in _averages(trainer):
            assert self.found is not None
            radii = dict(ChainMap(*(one.radii for one in self.attached.values())))
            batches = _training_batches(trainer)
            ready = averaged(average, self.found, batches, radius=radii, forward=self._forward)
            # Each rank has seen its own batches.
            statistics = {name: buffer.cpu() for name, buffer in ready.named_buffers()}
            ready.load_state_dict(trainer.strategy.broadcast(statistics), strict=False)
            plain(average).load_state_dict(ready.state_dict())


class TurningCallback(WeightRescalingCallback):
    """Hold norms and set the angle of every step, by :class:`decayfree.Turning`, in a Trainer.

    Everything else is as in :class:`WeightRescalingCallback`.

    Args:
        inputs: As there, as are ``forward``, ``include`` and ``exclude``.
        settings: As for :class:`decayfree.Turning`. ``steps_per_epoch`` is the Trainer's, if none is given.

    Example:
        >>> import torch
        >>> TurningCallback(torch.randn(16, 4), memory_epochs=3).settings
        {'radius': 'init', 'memory_epochs': 3}
    """

    _kind = Turning
    _default_radius = "init"

    def _settings(self, trainer: Trainer) -> dict[str, Any]:
        is_said = self.settings.keys() & {"steps_per_epoch", "forgetting"}
        n_batches = trainer.num_training_batches
        if is_said or math.isinf(n_batches):
            return self.settings
        return {**self.settings, "steps_per_epoch": math.ceil(n_batches / trainer.accumulate_grad_batches)}


class RecorderCallback(_AtOptimizers):
    """Record norms, angles and effective learning rates of scale-invariant weights in a Trainer.

    One :class:`decayfree.Recorder` on each optimizer that has some of the weights, from the start of training
    on. Samples go to all loggers of the Trainer, at its ``global_step``, in at most 12 numbers under
    ``decayfree/``; to ``dynamics.jsonl`` in its ``default_root_dir`` where it has none.

    Args:
        inputs: As for :class:`WeightRescalingCallback`, as are ``forward``, ``include`` and ``exclude``. None
            where one of those is among the callbacks: its weights are recorded. With :func:`decayfree.watch`
            itself, which is a function of the module, all matrices are. Beside a function there is no use for
            ``forward``, either.
        sink: As for :class:`decayfree.Recorder`, instead of the loggers.
        settings: As for :class:`decayfree.Recorder`.

    Attributes:
        attached: By the number of the optimizer, the :class:`decayfree.Recorder` of the last fit.

    Raises:
        InvalidInputError: In setup, if there are no inputs and no other callback has found the weights. All
            else as :class:`decayfree.Recorder`.

    Example:
        >>> RecorderCallback(every=10).settings
        {'every': 10}
    """

    def __init__(
        self,
        inputs: Any = None,
        *,
        sink: str | Path | Callable[[Sample], object] | None = None,
        forward: Forward | None = None,
        include: Iterable[str] | None = None,
        exclude: Iterable[str] = (),
        **settings: Any,
    ) -> None:
        super().__init__(inputs, forward, include, exclude)
        self.sink, self.settings = sink, settings
        signature(Recorder).bind(None, None, **settings)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the weights, if that is no other callback's."""
        if stage == "fit" and self._inputs is None:
            self._saved, self.found = {}, None
            if not _rescaling_callbacks(trainer):
                raise InvalidInputError(
                    "RecorderCallback wants inputs to find the weights with, or a WeightRescalingCallback "
                    "among the callbacks"
                )
        else:
            super().setup(trainer, pl_module, stage)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Attach."""
        self.found = self.found or found_in(trainer)
        super().on_train_start(trainer, pl_module)

    def _attach(
        self, trainer: Trainer, optimizer: Optimizer, found: Invariance, *, is_saved: bool
    ) -> Recorder:
        sink = self.sink
        if sink is None and not trainer.loggers:
            sink = JsonLines(Path(trainer.default_root_dir) / "dynamics.jsonl")
        elif sink is None:

            def sink(sample: Sample) -> None:
                for logger in trainer.loggers:
                    logger.log_metrics(told(sample), step=trainer.global_step)

        return Recorder(optimizer, found, sink=sink, **self.settings)


def found_in(trainer: Trainer) -> Invariance:
    """What the :class:`WeightRescalingCallback` of a trainer has found: for ``configure_optimizers``.

    Raises:
        InvalidInputError: If it has none, or fitting was not set up.

    Example:
        >>> found_in(Trainer(logger=False, enable_checkpointing=False, accelerator="cpu"))
        Traceback (most recent call last):
        decayfree.errors.InvalidInputError: this Trainer has no WeightRescalingCallback that has found weights
    """
    for callback in _rescaling_callbacks(trainer):
        if callback.found is not None:
            return callback.found
    raise InvalidInputError("this Trainer has no WeightRescalingCallback that has found weights")


_AVERAGING = (WeightAveraging, StochasticWeightAveraging)


def _callbacks(trainer: Trainer) -> list[Callback]:
    return list(trainer.callbacks)  # type: ignore[attr-defined]


def _rescaling_callbacks(trainer: Trainer) -> list[WeightRescalingCallback]:
    return [one for one in _callbacks(trainer) if isinstance(one, WeightRescalingCallback)]


def _averages(trainer: Trainer) -> list[AveragedModel]:
    """Those that are kept now; Lightning shows them to nobody. That of SWA begins with what it averages."""
    averaging = (one for one in _callbacks(trainer) if isinstance(one, WeightAveraging))
    return [one._average_model for one in averaging if one._average_model is not None]


def _training_batches(trainer: Trainer) -> Iterator[Any]:
    n_batches = int(min(trainer.num_training_batches, _MOST_BATCHES))
    # Several loaders give one batch of each, as they do in training.
    for batch, _, _ in islice(CombinedLoader(trainer.train_dataloader, "max_size_cycle"), n_batches):
        yield trainer.strategy.batch_to_device(batch)
