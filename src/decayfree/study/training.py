"""The one training loop: one run from its settings to its files, or on from where it was stopped or killed.

Knows no method by name and starts no processes. A run that was killed anywhere goes on bitwise as if it had not been.
"""

import math
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from decayfree.errors import MismatchError, NonFiniteWeightError
from decayfree.invariance import Invariance, find_invariant
from decayfree.methods import ExactReplay
from decayfree.study import checkpoint, norm_log
from decayfree.study.data import Dataset, batch_indices, flipped, generator_for, load, with_label_noise
from decayfree.study.laws import OffSpanLaw
from decayfree.study.models import build_model
from decayfree.study.results import RunState, read_spectra, run_directory
from decayfree.study.sampling import Sampler, first_convolution, first_layer_span, sample_steps
from decayfree.study.spec import ModelSpec, Recipe, RunSettings
from decayfree.study.tasks import TASKS

_N_PROBE_IMAGES = 8


def train(
    settings: RunSettings,
    out: Path,
    *,
    data_dir: str | None = None,
    record_norms: bool = False,
    on_step: Callable[[int], bool] | None = None,
) -> RunState:
    """Train one run to its end, from its last checkpoint where it has one.

    Args:
        settings: What to train.
        out: The study's folder; the run's files are in ``out/runs/<key>``, and a run that it replays lies beside.
        data_dir: Where the images are, for data that is not embedded in a package.
        record_norms: Keep every block's norm at every step, for a run that replays them.
        on_step: Called with the number of steps done after each; False saves and stops.

    Returns:
        "done", "diverged" (the loss was not finite), or "running" where ``on_step`` stopped it.

    Raises:
        MismatchError: If the run's checkpoint is of other settings, or the norms to replay do not fit.
        ResultError: If the run's metrics are damaged.
    """
    with torch.random.fork_rng(devices=[]):
        run = _Run(settings, out, data_dir=data_dir, record_norms=record_norms)
        return run.go_on(on_step or (lambda n_done: True))


class _Run:
    """A run in memory: what is made from the settings, and where it stands."""

    def __init__(self, settings: RunSettings, out: Path, *, data_dir: str | None, record_norms: bool) -> None:
        recipe = settings.recipe
        self.settings, self.recipe = settings, recipe
        self.directory = run_directory(out, settings.key)
        checkpoint.write_record(self.directory, settings, state="running")
        torch.manual_seed(settings.seed)
        self.dataset = load(recipe.data, data_dir)
        self.labels = with_label_noise(
            self.dataset.train.labels,
            share=recipe.data.label_noise,
            n_classes=self.dataset.n_classes,
            seed=settings.seed,
        )
        self.model = build_model(recipe.model, n_classes=self.dataset.n_classes, seed=settings.seed)
        found = _found(recipe, self.model, self.dataset)
        groups = settings.method.param_groups(self.model, found, rest_weight_decay=recipe.rest_weight_decay)
        self.optimizer = _optimizer(recipe, groups)
        replayed = _replayed_norms(settings, out, found)
        self.method = settings.method.attach(self.optimizer, found, replayed=replayed)
        self.sampler = _sampler(self, found, replayed, data_dir)
        self.n_done, self.elapsed_s = 0, 0.0
        self._before: dict[str, Tensor] | None = None
        resumed = self._load(found if record_norms else None)
        self.norm_log = self._open_norm_log(found) if record_norms else None
        checkpoint.keep_rows_until(self.directory, self.n_done if resumed else -1)
        if not resumed:
            self._sample()

    def go_on(self, on_step: Callable[[int], bool]) -> RunState:
        began_s = time.perf_counter() - self.elapsed_s
        sampled = set(sample_steps(self.recipe.n_steps, self.recipe.n_samples))
        self._record("running")
        while self.n_done < self.recipe.n_steps:
            self._before = self.sampler.weights() if self.n_done + 1 in sampled else None
            loss = self._step()
            self.elapsed_s = time.perf_counter() - began_s
            if not math.isfinite(loss):
                self._append_row()
                self._record("diverged", f"the loss or the weights of step {self.n_done} were not finite")
                return "diverged"
            if self.n_done in sampled:
                self._sample()
            if not on_step(self.n_done):
                self._save()
                self._record("running")
                return "running"
        self._record("done")
        return "done"

    def _step(self) -> float:
        """One step; returns its loss, NaN where weights that are rescaled came out of it not finite."""
        step, seed = self.n_done, self.settings.seed
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.learning_rate_at(step)
        if self.norm_log:
            self.norm_log.record()
        chosen = batch_indices(
            n_images=len(self.dataset.train), batch_size=self.recipe.batch_size, seed=seed, step=step
        )
        inputs = self.dataset.to_input(self.dataset.train.pixels[chosen])
        if self.recipe.data.flip:
            inputs = flipped(inputs, seed=seed, step=step)
        loss = TASKS[self.recipe.task].loss(self.model(inputs), self.labels[chosen])
        self.optimizer.zero_grad()
        loss.backward()
        self.n_done += 1
        try:
            self.optimizer.step()
        except NonFiniteWeightError:
            return math.nan
        self.sampler.law.step()
        return loss.item()

    def _sample(self) -> None:
        """Append a row and save: a run killed between the two drops the row when it goes on."""
        self._append_row()
        if self.n_done in (0, self.recipe.n_steps):
            first = {} if self.n_done == 0 else {0: read_spectra(self.directory)[0]}
            checkpoint.write_spectra(self.directory, {**first, self.n_done: self.sampler.spectra()})
        self._save()

    def _append_row(self) -> None:
        rate = self.recipe.learning_rate_at(min(self.n_done, self.recipe.n_steps - 1))
        row = self.sampler.row(step=self.n_done, learning_rate=rate, before=self._before)
        checkpoint.append_row(self.directory, row)

    def _save(self) -> None:
        if self.norm_log:
            self.norm_log.flush()
        state = {
            "key": self.settings.key,
            "n_done": self.n_done,
            "elapsed_s": self.elapsed_s,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "method": self.method.state_dict(),
            "off_span_law": self.sampler.law.state_dict(),
            "random_state": torch.get_rng_state(),
        }
        checkpoint.save_checkpoint(self.directory, state)

    def _open_norm_log(self, found: Invariance) -> norm_log.NormLog:
        return norm_log.NormLog(self.directory / norm_log.FILE_NAME, found, n_rows=self.n_done)

    def _load(self, logged: Invariance | None) -> bool:
        """Go on from the checkpoint; not where the run did not keep so far what is asked of it now."""
        state = checkpoint.load_checkpoint(self.directory)
        if state is not None and state["key"] != self.settings.key:
            raise MismatchError(
                f"{self.directory / 'last.pt'} is of the run {state['key']}, expected {self.settings.key}"
            )
        path = self.directory / norm_log.FILE_NAME
        if logged is None:
            path.unlink(missing_ok=True)  # a log with gaps would pass for a whole one
        elif state is not None and not norm_log.has_rows(path, logged, n_rows=state["n_done"]):
            state = None
        if state is None or "off_span_law" not in state or 0 not in read_spectra(self.directory):
            return False
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.method.load_state_dict(state["method"])
        self.sampler.law.load_state_dict(state["off_span_law"])
        torch.set_rng_state(state["random_state"])
        self.n_done, self.elapsed_s = state["n_done"], state["elapsed_s"]
        return True

    def _record(self, state: RunState, reason: str | None = None) -> None:
        checkpoint.write_record(
            self.directory,
            self.settings,
            state=state,
            reason=reason,
            elapsed_s=self.elapsed_s,
            first_layer=self.sampler.first_layer,
        )


def _optimizer(recipe: Recipe, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    settings = recipe.optimizer
    return torch.optim.SGD(
        groups, lr=recipe.learning_rate, momentum=settings.momentum, nesterov=settings.nesterov
    )


def _replayed_norms(settings: RunSettings, out: Path, found: Invariance) -> dict[str, Tensor] | None:
    replayed = settings.replayed_run
    if replayed is None:
        return None
    path = run_directory(out, replayed.key) / norm_log.FILE_NAME
    return norm_log.read_norms(path, found, n_steps=replayed.recipe.n_steps)


def _sampler(
    run: _Run, found: Invariance, replayed: dict[str, Tensor] | None, data_dir: str | None
) -> Sampler:
    name, convolution = first_convolution(run.model)
    span = first_layer_span(run.recipe.data, data_dir, convolution)
    off_span = span.off_span(convolution.weight.detach()).flatten(1)
    decay: dict[str, Any] = {}
    if isinstance(run.settings.method, ExactReplay) and replayed is not None:
        decay = {
            "replayed_weight_decay": run.settings.method.replayed_weight_decay,
            "replayed": replayed[name],
        }
    return Sampler(
        model=run.model,
        found=found,
        method=run.method,
        recipe=run.recipe,
        dataset=run.dataset,
        train_labels=run.labels,
        first_layer=name,
        span=span,
        law=OffSpanLaw(run.optimizer, found, name, torch.linalg.vector_norm(off_span, dim=1), **decay),
    )


def _found(recipe: Recipe, model: nn.Module, dataset: Dataset) -> Invariance:
    """The scale-invariant weights; found once for each network, since they do not depend on the seed."""
    size = dataset.train.pixels.shape[1:]
    record = _found_record(recipe.model, dataset.n_classes, (size[0], size[1]))
    return Invariance.from_dict(record, model)


@lru_cache(maxsize=4)
def _found_record(spec: ModelSpec, n_classes: int, size: tuple[int, int]) -> dict[str, Any]:
    model = build_model(spec, n_classes=n_classes, seed=0)
    generator = generator_for("probe")
    inputs = torch.randn(_N_PROBE_IMAGES, 3, *size, generator=generator)
    return find_invariant(model, inputs).to_dict()
