"""A study's files without any training: numbers that a test chooses, in the format that a study leaves.

Nothing here reads the report. Curves are smooth formulas of the step, so that what the page must say can be
computed by hand.
"""

import json
import math
import random
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from decayfree.methods import WRS, LearningRateScaling, Method, NoTreatment, WeightDecay
from decayfree.study import (
    Axis,
    DataSpec,
    ModelSpec,
    OptimizerSpec,
    Recipe,
    Row,
    RunSettings,
    Study,
    StudySpec,
)
from decayfree.study.files.integrity import Seal, sealed_json

WEIGHTS = ("features.0.weight", "features.3.weight", "features.7.weight", "features.10.weight")
METHODS = (NoTreatment(), WeightDecay(5e-4), WeightDecay(5e-3), LearningRateScaling(5e-4), WRS())
FINAL_TEST = {
    "no decay": (0.871, 0.880, 0.868, 0.877, 0.873),
    "weight decay 0.0005": (0.868, 0.874, 0.861, 0.875, 0.866),
    "weight decay 0.005": (0.842, 0.851, 0.839, 0.853, 0.840),
    "learning-rate scaling (as 0.0005)": (0.869, 0.872, 0.863, 0.874, 0.868),
    "WRS, radius 1": (0.874, 0.883, 0.866, 0.884, 0.872),
}
SHORT = {
    "no decay": "no decay",
    "weight decay 0.0005": "weight decay 0.0005",
    "weight decay 0.005": "weight decay 0.005",
    "learning-rate scaling (as 0.0005)": "learning-rate scaling",
    "WRS, radius 1": "WRS",
}


VALIDATION_SHIFT = -0.01
"""Validation images are harder, by the same for every run."""


def study_spec(
    *, methods: tuple[Method, ...] = METHODS, n_seeds: int = 5, title: str = "A study"
) -> StudySpec:
    recipe = Recipe(n_epochs=200, data=DataSpec(label_noise=0.2), model=ModelSpec(), n_samples=26)
    return StudySpec(methods=methods, seeds=tuple(range(n_seeds)), recipe=recipe, title=title)


@dataclass
class Writer:
    """Writes a study below ``out``; tests change its fields first."""

    out: Path
    spec: StudySpec = field(default_factory=study_spec)
    final_test: Mapping[str, tuple[float, ...]] = field(default_factory=lambda: FINAL_TEST)
    states: Mapping[tuple[str, int], tuple[str, str | None]] = field(default_factory=dict)
    """(label, seed) -> state and reason, where it is not "done"."""
    not_begun: frozenset[tuple[str, int]] = frozenset()
    weights: tuple[str, ...] = WEIGHTS
    n_intervals: int = 25
    final_of: Callable[[RunSettings], float] | None = None
    """Final test accuracy, where ``final_test`` does not say it."""
    state_of: Callable[[RunSettings], tuple[str, str | None]] | None = None
    cost: bool = True
    change_row: Callable[[RunSettings, dict[str, Any]], None] = lambda settings, row: None
    change_spectra: Callable[[RunSettings, dict[str, Any]], None] = lambda settings, spectra: None

    def write(self) -> Path:
        self.out.mkdir(parents=True, exist_ok=True)
        (self.out / "study.toml").write_text(self.spec.to_toml(), encoding="utf-8")
        for settings in self.spec.runs():
            if (settings.label, settings.seed) not in self.not_begun:
                self._write_run(settings)
        return self.out

    def _state(self, settings: RunSettings) -> tuple[str, str | None]:
        if self.state_of is not None:
            return self.state_of(settings)
        return self.states.get((settings.label, settings.seed), ("done", None))

    def _write_run(self, settings: RunSettings) -> None:
        state, reason = self._state(settings)
        folder = self.out / "runs" / settings.key
        folder.mkdir(parents=True)
        n_steps = settings.recipe.n_steps
        n_rows = self.n_intervals + 1 if state == "done" else 7
        rows = [self.row(settings, round(index * n_steps / self.n_intervals)) for index in range(n_rows)]
        steps = (0, n_steps) if state == "done" else (0,)
        spectra = {str(step): self.spectra(settings, is_last=step > 0) for step in steps}
        self.change_spectra(settings, spectra)
        files = {
            "metrics.jsonl": "".join(json.dumps(row) + "\n" for row in rows),
            "spectra.json": sealed_json(spectra),
        }
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")
        record = {
            "settings": settings.to_dict(),
            "label": settings.label,
            "versions": {"decayfree": "0.1.0", "python": "3.12.1", "torch": "2.9.0"},
            "hardware": {"processor": "A processor <with> 2 cores", "n_threads": 1},
            "state": state,
            "reason": reason,
            "n_steps": n_steps,
            "elapsed_s": 6.5,
            "first_layer": self.weights[0],
            "cost": self._cost(settings) if self.cost else {},
            "set_aside": [],
            "files": {name: asdict(Seal.of_bytes(text.encode())) for name, text in files.items()},
        }
        (folder / "run.json").write_text(sealed_json(record), encoding="utf-8")

    def _cost(self, settings: RunSettings) -> dict[str, float]:
        """Every second seed is slower; rescaling takes 4 % longer and keeps a hundredth of the parameters."""
        is_ours = isinstance(settings.method, WRS)
        return {
            "seconds_per_epoch": 10.0 * (1 + settings.seed % 2) * (1.04 if is_ours else 1.0),
            "parameter_bytes": 4e6,
            "optimizer_state_bytes": 4e6,
            "method_state_bytes": 4e4 * is_ours,
        }

    def row(self, settings: RunSettings, step: int) -> dict[str, Any]:
        share = step / settings.recipe.n_steps
        final = self._final(settings)
        learning_rate = 0.05 * (1 + math.cos(math.pi * share))
        norms = {
            name: _norm(settings.method, share, depth, settings.seed)
            for depth, name in enumerate(self.weights)
        }
        # Learning-rate scaling takes the steps of the run that it replays, so the norm of that one counts.
        stepping = getattr(settings.method, "replays", None) or settings.method
        counted = {
            name: _norm(stepping, share, depth, settings.seed) for depth, name in enumerate(self.weights)
        }
        row = {
            "step": step,
            "epoch": step / settings.recipe.n_steps_per_epoch,
            "train_loss": 0.1,
            "train_score": _rise(0.985 + 0.001 * settings.seed, share, 9),
            "test_score": _rise(final, share, 14) - _dip(settings.method, share),
            "learning_rate": learning_rate,
            "norms": norms,
            "effective_learning_rates": {name: learning_rate / norm**2 for name, norm in counted.items()},
            "angular_updates": {
                name: _angle(settings, step, depth) if step else None
                for depth, name in enumerate(self.weights)
            },
            "off_span_share": _off_span(settings.method, share, settings.seed),
            "off_span_law": _off_span(settings.method, share, settings.seed),
        }
        if settings.recipe.data.n_validation:
            row["validation_score"] = _rise(final + VALIDATION_SHIFT, share, 14)
        unscored = {"test_loss", "validation_loss", "validation_score", "test_images", "test_metrics"}
        unscored.add("test_examples")
        assert set(row) | unscored == set(Row.__dataclass_fields__)
        self.change_row(settings, row)
        return row

    def _final(self, settings: RunSettings) -> float:
        if self.final_of is not None:
            return self.final_of(settings)
        return self.final_test[settings.label][settings.seed]

    def spectra(self, settings: RunSettings, *, is_last: bool) -> dict[str, Any]:
        """Eight directions in four bins: even at first, then in the first ones, more so in later layers."""
        spectra = {}
        for depth, name in enumerate(self.weights):
            tilt = (0.02 * depth + 0.01 * settings.seed + 0.1 * _is_held(settings.method)) * is_last
            spectra[name] = {
                "edges": [0, 2, 4, 6, 8],
                "energy": [0.25 + tilt, 0.25, 0.25, 0.25 - tilt],
                "variance": [0.7, 0.25, 0.045, 0.005],
                "n_main": 5 + settings.seed % 2,
                "main_energy": 0.625 + tilt,
            }
        return spectra


OPTIMIZERS = (
    OptimizerSpec("sgd", momentum=0.9),
    OptimizerSpec("sgd", momentum=0.0),
    OptimizerSpec("adam"),
    OptimizerSpec("adamw"),
    OptimizerSpec("lion"),
)
DECAYS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
RATES = (0.03, 0.1, 0.3)
AXES_METHODS = (NoTreatment(), WeightDecay(1e-3), WRS())


def axes_spec(
    *, n_seeds: int = 4, n_validation: int = 100, axes: tuple[Axis, ...] = (), **changes: Any
) -> StudySpec:
    """Three methods with five optimizers, unless something else is asked for."""
    tables = tuple((("name", one.name), ("momentum", one.momentum)) for one in OPTIMIZERS)
    recipe = Recipe(n_epochs=50, data=DataSpec(n_validation=n_validation), n_samples=6, off_span=False)
    values = {
        "methods": AXES_METHODS,
        "seeds": tuple(range(n_seeds)),
        "recipe": recipe,
        "axes": axes or (Axis("optimizer", tables),),
        "title": "Methods and optimizers",
        "question": "With which optimizers do the methods differ?",
    }
    return StudySpec(**{**values, **changes})


def sweep_spec(*, n_seeds: int = 3, n_validation: int = 100, **changes: Any) -> StudySpec:
    """Five coefficients of decay beside no decay and WRS, at three learning rates."""
    methods = (NoTreatment(), *(WeightDecay(decay) for decay in DECAYS), WRS())
    defaults = {"axes": (Axis("learning_rate", RATES),), "methods": methods, "title": "Sensitivity"}
    return axes_spec(n_seeds=n_seeds, n_validation=n_validation, **{**defaults, **changes})


def bumpy(settings: RunSettings) -> float:
    """Final accuracy, best at decay 1e-3 and learning rate 0.1, plus a seed's share and a little noise."""
    method, rate = settings.method, settings.recipe.learning_rate
    final = 0.90 - 0.01 * abs(math.log10(rate / 0.1))
    if isinstance(method, WeightDecay):
        final += 0.012 - 0.02 * abs(math.log10(method.weight_decay / 1e-3)) ** 2
    if isinstance(method, WRS):
        final += 0.011
    own = random.Random(settings.key).uniform(-1, 1)
    return (
        final
        + 0.004 * math.sin(settings.seed)
        + 0.0015 * own
        - 0.006 * (settings.recipe.optimizer.name == "adam")
    )


def hot(settings: RunSettings) -> tuple[str, str | None]:
    """Runs with much decay at the largest learning rate diverge, all but the first seed."""
    is_hot = (
        isinstance(settings.method, WeightDecay)
        and settings.method.weight_decay * settings.recipe.learning_rate > 0.02
    )
    return ("diverged", "the loss was not finite at step 17") if is_hot and settings.seed else ("done", None)


def column(study: Study, label: str, read: Callable[[Row], float]) -> np.ndarray:
    """(n_seeds, n_rows): what ``read`` gives for every row of the runs with this label."""
    return np.array([[read(row) for row in run.rows] for run in study.runs if run.label == label])


def _rise(end: float, share: float, speed: float) -> float:
    """From 0.1 to exactly ``end``."""
    return end - (end - 0.1) * (math.exp(-speed * share) - math.exp(-speed) * share)


def _dip(method: Method, share: float) -> float:
    depth = 0.3 if isinstance(method, WeightDecay) and method.weight_decay > 1e-3 else 0.01
    return depth * max(0.0, math.sin(math.pi * (share - 0.15) / 0.6)) if 0.15 < share < 0.75 else 0.0


def _norm(method: Method, share: float, depth: int, seed: int) -> float:
    start = 0.577 * (1 + 0.01 * seed)
    if isinstance(method, WRS):
        return start if method.radius == "init" else method.radius
    if isinstance(method, WeightDecay):
        floor = 0.9 if method.weight_decay < 1e-3 else 0.35
        return start + (floor - start) * (1 - math.exp(-share * (3 + depth)))
    return start * math.exp((1.1 + 0.2 * depth) * (1 - math.exp(-4 * share)))


def _angle(settings: RunSettings, step: int, depth: int) -> float:
    """Balance's under decay, larger in every other layer, smaller in the rest, half of it late; else as η."""
    recipe, method = settings.recipe, settings.method
    learning_rate = recipe.learning_rate_at(step - 1)
    if isinstance(method, WeightDecay):
        balance = math.sqrt(2 * learning_rate * method.weight_decay / (1 + recipe.optimizer.momentum))
        late = 0.5 if step > 0.75 * recipe.n_steps else 1.0
        return balance * late * (1.2 if depth % 2 else 1 / 1.2)
    return 0.2 * learning_rate / (1 if _is_held(method) else 4)


def _is_held(method: Method) -> bool:
    return isinstance(method, WRS)


def _off_span(method: Method, share: float, seed: int) -> float:
    start = 0.80 + 0.004 * seed
    speed = 1.3 if isinstance(method, WRS) else 0.9
    if isinstance(method, WeightDecay):
        speed = 1.0 if method.weight_decay < 1e-3 else 4.0
    return start * math.exp(-speed * share) + 0.002 * seed * share
