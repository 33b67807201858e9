"""A study's files without any training: numbers that a test chooses, in the format that a study leaves.

Nothing here reads the report. Curves are smooth formulas of the step, so that what the page must say can be computed by hand.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from decayfree.methods import WRS, LearningRateScaling, Method, NoTreatment, WeightDecay
from decayfree.study import DataSpec, ModelSpec, Recipe, Row, RunSettings, Study, StudySpec

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


def study_spec(
    *, methods: tuple[Method, ...] = METHODS, n_seeds: int = 5, title: str = "A study"
) -> StudySpec:
    recipe = Recipe(n_epochs=200, data=DataSpec(label_noise=0.2), model=ModelSpec(width=16), n_samples=26)
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
    change_row: Callable[[RunSettings, dict[str, Any]], None] = lambda settings, row: None
    change_spectra: Callable[[RunSettings, dict[str, Any]], None] = lambda settings, spectra: None

    def write(self) -> Path:
        self.out.mkdir(parents=True, exist_ok=True)
        (self.out / "study.toml").write_text(self.spec.to_toml(), encoding="utf-8")
        for settings in self.spec.runs():
            if (settings.label, settings.seed) not in self.not_begun:
                self._write_run(settings)
        return self.out

    def _write_run(self, settings: RunSettings) -> None:
        state, reason = self.states.get((settings.label, settings.seed), ("done", None))
        folder = self.out / "runs" / settings.key
        folder.mkdir(parents=True)
        n_steps = settings.recipe.n_steps
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
        }
        (folder / "run.json").write_text(json.dumps(record), encoding="utf-8")
        n_rows = self.n_intervals + 1 if state == "done" else 7
        rows = [self.row(settings, round(index * n_steps / self.n_intervals)) for index in range(n_rows)]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "metrics.jsonl").write_text(text, encoding="utf-8")
        steps = (0, n_steps) if state == "done" else (0,)
        spectra = {str(step): self.spectra(settings, is_last=step > 0) for step in steps}
        self.change_spectra(settings, spectra)
        (folder / "spectra.json").write_text(json.dumps(spectra), encoding="utf-8")

    def row(self, settings: RunSettings, step: int) -> dict[str, Any]:
        share = step / settings.recipe.n_steps
        final = self.final_test[settings.label][settings.seed]
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
            "train_accuracy": _rise(0.985 + 0.001 * settings.seed, share, 9),
            "test_accuracy": _rise(final, share, 14) - _dip(settings.method, share),
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
        assert set(row) == set(Row.__dataclass_fields__)
        self.change_row(settings, row)
        return row

    def spectra(self, settings: RunSettings, *, is_last: bool) -> dict[str, Any]:
        """Eight directions in four bins: even before the training, then in the first ones, the more so the later the layer."""
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
        return method.radius
    if isinstance(method, WeightDecay):
        floor = 0.9 if method.weight_decay < 1e-3 else 0.35
        return start + (floor - start) * (1 - math.exp(-share * (3 + depth)))
    return start * math.exp((1.1 + 0.2 * depth) * (1 - math.exp(-4 * share)))


def _angle(settings: RunSettings, step: int, depth: int) -> float:
    """Under decay that of balance, larger in one half of the layers and as much smaller in the other, half of it late; else as η is."""
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
