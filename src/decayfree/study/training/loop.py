"""The one training loop: one run from its settings to its files, or on from where it was stopped or killed.

Knows no method by name and starts no processes. A run that was killed anywhere goes on bitwise as if it had
not been.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from decayfree.arguments.address import looking_in
from decayfree.arguments.kinds import checked
from decayfree.errors import MismatchError, NonFiniteWeightError
from decayfree.study.data.draws import batch_indices
from decayfree.study.files import checkpoint, norm_log
from decayfree.study.files.results import ENDED, RunState, read_spectra, run_directory
from decayfree.study.files.sources import change
from decayfree.study.run_settings import RunSettings
from decayfree.study.tasks.metric import METRICS
from decayfree.study.training.building import Parts, build, device_of, set_rates
from decayfree.study.training.cleaned import clean_
from decayfree.study.training.cost import cost_of
from decayfree.study.training.sampling import sample_steps

_LOOK_EVERY = 50
"""On an accelerator the loss is looked at once in so many steps: a look waits for all that is queued."""


@checked()
def train(
    settings: RunSettings,
    out: str | Path,
    *,
    data_dir: str | Path | None = None,
    source_dir: str | Path | None = None,
    record_norms: bool = False,
    on_step: Callable[[int], bool] | None = None,
) -> RunState:
    """Train one run to its end, from its last checkpoint where it has one.

    Args:
        settings: What to train.
        out: The study's folder; the run's files are in ``out/runs/<key>``, and a run that it replays lies
            beside.
        data_dir: Where the images are, for data that is not embedded in a package.
        source_dir: Where ``./file.py`` is, for what is the user's own; the current folder by default. A
            checkpoint of another source is set aside, and the run begins anew.
        record_norms: Keep every block's norm at every step, for a run that replays them.
        on_step: Called with the number of steps done after each; False saves and stops.

    Returns:
        "done", "diverged" (the loss was not finite), or "running" where ``on_step`` stopped it.

    Raises:
        InvalidInputError: If the data is not there, or this torch does not see the device.
        MismatchError: If the run's checkpoint is of other settings, or the norms to replay do not fit.
        ResultError: If the run's metrics are damaged.
    """
    device = device_of(settings.recipe)
    devices = [device] if device.type == "cuda" else []
    with looking_in(source_dir), torch.random.fork_rng(devices=devices), _repeatable(device):
        torch.manual_seed(settings.seed)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        images = None if data_dir is None else str(data_dir)
        run = _Run(settings, Path(out), data_dir=images, record_norms=record_norms)
        return run.go_on(on_step or (lambda n_done: True))


class _Run:
    """A run in memory: what is made from the settings, and where it stands."""

    def __init__(self, settings: RunSettings, out: Path, *, data_dir: str | None, record_norms: bool) -> None:
        self.settings, self.recipe = settings, settings.recipe
        self.directory = run_directory(out, settings.key)
        self.sources = settings.sources()
        checkpoint.write_record(self.directory, settings, state="running")
        self.parts: Parts = build(settings, out, data_dir=data_dir)
        self.device = device_of(self.recipe)
        self.forward = torch.compile(self.parts.model) if self.recipe.compile else self.parts.model
        self.n_done, self.elapsed_s, self.steps_s = 0, 0.0, 0.0
        self._before: dict[str, Tensor] | None = None
        self.files = checkpoint.RunFiles(self.directory, keeps_norms=record_norms)
        resumed = self._load()
        if not resumed:
            self.files.begin_anew()
        self.norm_log = self.files.norms and norm_log.NormLog(self.files.norms, self.parts.found)
        if not resumed and self.recipe.n_samples > 1:
            self._sample()

    def go_on(self, on_step: Callable[[int], bool]) -> RunState:
        began_s = time.perf_counter() - self.elapsed_s
        sampled = set(sample_steps(self.recipe.n_steps, self.recipe.n_samples))
        sampler = self.parts.sampler
        self._record("running")
        step_began_s = time.perf_counter()
        while self.n_done < self.recipe.n_steps:
            is_sampled = self.n_done + 1 in sampled
            self._before = sampler.weights() if is_sampled else None
            is_finite = self._step(look=is_sampled)
            now_s = time.perf_counter()
            self.elapsed_s, self.steps_s = now_s - began_s, self.steps_s + now_s - step_began_s
            if not is_finite:
                self._append_row()
                self._record("diverged", f"the loss or the weights of step {self.n_done} were not finite")
                return "diverged"
            if self.n_done == self.recipe.n_steps and self.recipe.clean_off_span:
                clean_(self.parts.model, self.parts.dataset, self.parts.task)
            if is_sampled:
                self._sample()
            if not on_step(self.n_done):
                self._save()
                self._record("running")
                return "running"
            step_began_s = time.perf_counter()
        self.elapsed_s = time.perf_counter() - began_s
        self._record("done")
        return "done"

    def _step(self, *, look: bool) -> bool:
        """One step; False where the loss, or weights that are rescaled, came out of it not finite."""
        step, seed, recipe, parts = self.n_done, self.settings.seed, self.recipe, self.parts
        set_rates(parts.optimizer, recipe.learning_rate_at(step))
        if self.norm_log:
            self.norm_log.record()
        dataset = parts.dataset
        chosen = batch_indices(
            n_images=len(dataset.train), batch_size=recipe.batch_size, seed=seed, step=step
        )
        inputs = dataset.batch(chosen, recipe.data, seed=seed, step=step, channels_last=recipe.channels_last)
        truth = parts.sampler.renamed(dataset.truth(chosen, recipe.data, seed=seed, step=step), step)
        with self._autocast():
            loss = parts.task.loss(self.forward, inputs, truth, recipe)
        parts.optimizer.zero_grad()
        loss.backward()
        self.n_done += 1
        try:
            parts.optimizer.step()
        except NonFiniteWeightError:
            return False
        if parts.sampler.first_layer is not None:
            parts.sampler.first_layer.step()
        if not look and self.device.type != "cpu" and self.n_done % _LOOK_EVERY:
            return True
        return math.isfinite(loss.item())

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self.recipe.precision == "float32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def _sample(self) -> None:
        """Append a row and save: a run killed between the two drops the row when it goes on."""
        self._append_row()
        if self.recipe.off_span and self.n_done in (0, self.recipe.n_steps):
            first = {} if self.n_done == 0 else {0: read_spectra(self.directory)[0]}
            self.files.write_spectra({**first, self.n_done: self.parts.sampler.spectra()})
        self._save()

    def _append_row(self) -> None:
        rate = self.recipe.learning_rate_at(min(self.n_done, self.recipe.n_steps - 1))
        row = self.parts.sampler.row(step=self.n_done, learning_rate=rate, before=self._before)
        self.files.append_row(row)

    def _save(self) -> None:
        if self.norm_log:
            self.norm_log.flush()
        first = self.parts.sampler.first_layer
        state = {
            "key": self.settings.key,
            "sources": self.sources,
            "n_done": self.n_done,
            "elapsed_s": self.elapsed_s,
            "steps_s": self.steps_s,
            "model": self.parts.model.state_dict(),
            "optimizer": self.parts.optimizer.state_dict(),
            "method": self.parts.method.state_dict(),
            "first_layer": {} if first is None else first.state_dict(),
            "random_state": torch.get_rng_state(),
        }
        if self.device.type == "cuda":
            state["cuda_random_state"] = torch.cuda.get_rng_state(self.device)
        self.files.save(state)

    def _load(self) -> bool:
        """Go on from the checkpoint; not where the run did not keep so far what is asked of it now."""
        state = self.files.load()
        if state is not None and state["key"] != self.settings.key:
            raise MismatchError(
                f"{self.directory / 'last.pt'} is of the run {state['key']}, expected {self.settings.key}"
            )
        changed = "" if state is None else change(state.get("sources", {}), self.sources)
        if changed:
            checkpoint.set_aside(self.directory, f"its source changed: {changed}", keep_record=True)
            return False
        if state is None or (self.recipe.off_span and 0 not in read_spectra(self.directory)):
            return False
        parts = self.parts
        parts.model.load_state_dict(state["model"])
        parts.optimizer.load_state_dict(state["optimizer"])
        parts.method.load_state_dict(state["method"])
        if parts.sampler.first_layer is not None:
            parts.sampler.first_layer.load_state_dict(state["first_layer"])
        torch.set_rng_state(state["random_state"])
        if "cuda_random_state" in state:
            torch.cuda.set_rng_state(state["cuda_random_state"], self.device)
        self.n_done, self.elapsed_s, self.steps_s = state["n_done"], state["elapsed_s"], state["steps_s"]
        return True

    def _record(self, state: RunState, reason: str | None = None) -> None:
        parts, first = self.parts, self.parts.sampler.first_layer
        checkpoint.write_record(
            self.directory,
            self.settings,
            state=state,
            reason=reason,
            seals=self.files.seals() if state in ENDED else None,
            elapsed_s=self.elapsed_s,
            first_layer="" if first is None else first.name,
            notes=parts.dataset.notes,
            sources=self.sources,
            metric=None if self.recipe.task in METRICS else getattr(parts.task, "metric", None),
            cost=cost_of(
                parts.model,
                parts.optimizer,
                parts.method,
                steps_s=self.steps_s,
                n_epochs=self.n_done / self.recipe.n_steps_per_epoch,
            ),
        )


@contextlib.contextmanager
def _repeatable(device: torch.device) -> Iterator[None]:
    """Kernels of CUDA that give the same bits each time, so that a resumed run is the same run."""
    if device.type != "cuda":
        yield
        return
    with torch.backends.cudnn.flags(deterministic=True, benchmark=False, allow_tf32=True):
        yield
