"""What a study is: a recipe, the methods to compare, and seeds; one frozen dataclass each, to and from TOML.

Does not load data, build models or train. A file with faults gives one error that lists all of them.
"""

import dataclasses
import hashlib
import json
import math
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from decayfree.errors import DecayFreeError
from decayfree.methods import METHODS, Method


class SpecError(DecayFreeError, ValueError):
    """A study's spec has faults; the message lists all of them."""


@dataclass(frozen=True)
class DataSpec:
    """Which images, how many of them to train on, and what is done to them."""

    name: Literal["digits", "fashion-mnist"] = "digits"
    n_train: int = 400
    n_test: int = 897
    label_noise: float = 0.0
    """Share of the training labels that are drawn anew, uniformly from all classes; seeded by the run."""
    flip: bool = False
    """Mirror each training image left to right with probability 1/2."""


@dataclass(frozen=True)
class ModelSpec:
    """Which network and how large."""

    name: Literal["vgg-bn"] = "vgg-bn"
    width: int = 16
    """Channels of the first stage; each further stage has twice as many."""
    n_stages: int = 2
    """Stages of two convolutions and a pooling by 2."""


@dataclass(frozen=True)
class OptimizerSpec:
    """Which optimizer of ``torch.optim``."""

    name: Literal["sgd"] = "sgd"
    momentum: float = 0.9
    nesterov: bool = False


@dataclass(frozen=True)
class Recipe:
    """All that the runs of a study have in common."""

    task: Literal["classification"] = "classification"
    learning_rate: float = 0.1
    schedule: Literal["cosine", "constant"] = "cosine"
    n_epochs: int = 20
    batch_size: int = 64
    rest_weight_decay: float = 0.0
    """Weight decay of gains, biases, the last layer: of all that is not scale-invariant, for all methods."""
    n_samples: int = 25
    """Rows of metrics, evenly spaced from before the first step to after the last."""
    data: DataSpec = field(default_factory=DataSpec)
    model: ModelSpec = field(default_factory=ModelSpec)
    optimizer: OptimizerSpec = field(default_factory=OptimizerSpec)

    @property
    def n_steps_per_epoch(self) -> int:
        return self.data.n_train // self.batch_size

    @property
    def n_steps(self) -> int:
        return self.n_epochs * self.n_steps_per_epoch

    def learning_rate_at(self, step: int) -> float:
        """The learning rate of step number ``step``, counted from 0; the cosine would reach 0 after the last."""
        if self.schedule == "constant":
            return self.learning_rate
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * step / self.n_steps))


@dataclass(frozen=True)
class RunSettings:
    """All that decides what one run computes; two runs with equal settings are the same run."""

    method: Method
    seed: int
    recipe: Recipe

    @property
    def key(self) -> str:
        """Hash of the settings: the name of the run's directory."""
        text = json.dumps(self.to_dict(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def label(self) -> str:
        return self.method.label

    @property
    def replayed_run(self) -> "RunSettings | None":
        """The run that must be done first, because this one replays its norms."""
        method = self.method.replays
        return None if method is None else dataclasses.replace(self, method=method)

    def to_dict(self) -> dict[str, Any]:
        """The settings as JSON: the method's name and its own settings beside those of the recipe."""
        method = {"method": self.method.name, **_to_dict(self.method)}
        return {**method, "seed": self.seed, **_to_dict(self.recipe)}


@dataclass(frozen=True)
class StudySpec:
    """A set of runs that answers one question: every method with every seed."""

    methods: tuple[Method, ...]
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    recipe: Recipe = field(default_factory=Recipe)
    title: str = "Study"
    data_dir: str | None = None
    """Where the images lie, for data that is not embedded in a package; no part of a run's settings."""

    def __post_init__(self) -> None:
        faults = _range_faults(self)
        if faults:
            raise SpecError(_fault_text(faults))

    def runs(self) -> tuple[RunSettings, ...]:
        """Every run, seed by seed, in the order of the methods."""
        return tuple(
            RunSettings(method=method, seed=seed, recipe=self.recipe)
            for seed in self.seeds
            for method in self.methods
        )

    def to_toml(self) -> str:
        """The whole spec as TOML text, defaults included."""
        lines = ["# A study of decayfree, resolved: every setting is written out."]
        lines += [f"title = {_toml(self.title)}", f"seeds = {_toml(list(self.seeds))}"]
        if self.data_dir is not None:
            lines.append(f"data_dir = {_toml(self.data_dir)}")
        lines += _toml_tables("recipe", _to_dict(self.recipe))
        for method in self.methods:
            lines += ["", "[[methods]]", f"name = {_toml(method.name)}"]
            lines += [f"{key} = {_toml(value)}" for key, value in _to_dict(method).items()]
        return "\n".join(lines) + "\n"

    @staticmethod
    def from_toml(text: str) -> "StudySpec":
        """Read a spec back.

        Raises:
            SpecError: If the text is not TOML, or has unknown keys, wrong types or values; all at once.
        """
        try:
            table = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise SpecError(f"the spec is not TOML: {error}") from error
        return _study_from(table)

    @staticmethod
    def load(path: Path) -> "StudySpec":
        """Read a spec from a file; a `SpecError` names the file."""
        try:
            return StudySpec.from_toml(path.read_text(encoding="utf-8"))
        except SpecError as error:
            raise SpecError(f"{path}: {error}") from error


def _study_from(table: Mapping[str, Any]) -> StudySpec:
    faults: list[str] = []
    values = _read_values(StudySpec, table, "", faults)
    values["methods"] = _read_methods(table.get("methods"), faults)
    recipe = values.get("recipe")
    if not faults:
        return StudySpec(**values)
    if isinstance(recipe, Recipe):
        faults += _recipe_faults(recipe)
    raise SpecError(_fault_text(faults))


def _read_methods(tables: object, faults: list[str]) -> tuple[Method, ...]:
    if not isinstance(tables, list) or not tables:
        faults.append("methods: expected at least one [[methods]] table")
        return ()
    methods = []
    for index, table in enumerate(tables):
        where = f"methods[{index}]."
        name = table.get("name") if isinstance(table, dict) else None
        if name not in METHODS:
            faults.append(f"{where}name: expected one of {', '.join(METHODS)}; got {name!r}")
            continue
        n_faults = len(faults)
        options = {key: value for key, value in table.items() if key != "name"}
        values = _read_values(METHODS[name], options, where, faults)
        if len(faults) == n_faults:
            methods.append(METHODS[name](**values))
            faults += [f"{where}{fault}" for fault in methods[-1].faults()]
    return tuple(methods)


def _read_values(cls: type, table: Mapping[str, Any], where: str, faults: list[str]) -> dict[str, Any]:
    """The arguments for ``cls`` out of a TOML table; whatever is wrong is appended to ``faults``."""
    hints = typing.get_type_hints(cls)
    fields = {entry.name: entry for entry in dataclasses.fields(cls)}
    known = ", ".join(fields) or "none"
    faults += [f"{where}{key}: no such key; known keys: {known}" for key in table if key not in fields]
    values = {}
    for name, entry in fields.items():
        if name == "methods":
            continue  # tables of different kinds, which _read_methods reads
        if name in table:
            values[name] = _read_value(hints[name], table[name], f"{where}{name}", faults)
        elif entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING:
            faults.append(f"{where}{name}: missing")
    return values


def _read_value(hint: Any, value: object, where: str, faults: list[str]) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, dict):
            faults.append(f"{where}: expected a table, got {value!r}")
            return None
        n_faults = len(faults)
        values = _read_values(hint, value, f"{where}.", faults)
        return hint(**values) if len(faults) == n_faults else None
    if typing.get_origin(hint) is types.UnionType:
        hint = next(kind for kind in typing.get_args(hint) if kind is not type(None))
    if typing.get_origin(hint) is Literal:
        choices = typing.get_args(hint)
        if value not in choices:
            faults.append(f"{where}: expected one of {', '.join(map(str, choices))}; got {value!r}")
        return value
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, list) or not all(type(item) is int for item in value):
            faults.append(f"{where}: expected a list of whole numbers, got {value!r}")
            return ()
        return tuple(value)
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        faults.append(f"{where}: expected {_KINDS[hint]}, got {value!r}")
    return value


_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


def _range_faults(spec: StudySpec) -> list[str]:
    faults = _recipe_faults(spec.recipe)
    for index, method in enumerate(spec.methods):
        faults += [f"methods[{index}].{fault}" for fault in method.faults()]
        if method.replays is not None and method.replays not in spec.methods:
            faults.append(
                f"methods[{index}]: {method.label} replays the runs of {method.replays.label}, "
                "which is not among the methods"
            )
    if not spec.methods:
        faults.append("methods: expected at least one")
    if len(set(spec.methods)) < len(spec.methods):
        faults.append("methods: the same method with the same settings is there twice")
    if not spec.seeds:
        faults.append("seeds: expected at least one")
    if len(set(spec.seeds)) < len(spec.seeds):
        faults.append(f"seeds: expected each once, got {list(spec.seeds)}")
    if any(seed < 0 for seed in spec.seeds):
        faults.append(f"seeds: expected whole numbers from 0, got {list(spec.seeds)}")
    return faults


def _recipe_faults(recipe: Recipe) -> list[str]:
    data, model = recipe.data, recipe.model
    at_least_1 = {
        "recipe.n_epochs": recipe.n_epochs,
        "recipe.batch_size": recipe.batch_size,
        "recipe.data.n_train": data.n_train,
        "recipe.data.n_test": data.n_test,
        "recipe.model.width": model.width,
        "recipe.model.n_stages": model.n_stages,
    }
    faults = [f"{key}: expected at least 1, got {value}" for key, value in at_least_1.items() if value < 1]
    if recipe.n_samples < 2:
        faults.append(f"recipe.n_samples: expected at least 2 (start and end), got {recipe.n_samples}")
    if not 0 < recipe.learning_rate < float("inf"):
        faults.append(f"recipe.learning_rate: expected a finite number above 0, got {recipe.learning_rate}")
    if not 0 <= recipe.rest_weight_decay < float("inf"):
        faults.append(
            f"recipe.rest_weight_decay: expected a finite number from 0, got {recipe.rest_weight_decay}"
        )
    if not 0 <= data.label_noise <= 1:
        faults.append(f"recipe.data.label_noise: expected a share from 0 to 1, got {data.label_noise}")
    if not 0 <= recipe.optimizer.momentum < 1:
        faults.append(
            f"recipe.optimizer.momentum: expected at least 0 and below 1, got {recipe.optimizer.momentum}"
        )
    if recipe.optimizer.nesterov and recipe.optimizer.momentum == 0:
        faults.append("recipe.optimizer.nesterov: needs a momentum above 0")
    if recipe.batch_size > data.n_train >= 1:
        faults.append(
            f"recipe.batch_size: expected at most the {data.n_train} training images, got {recipe.batch_size}"
        )
    return faults


def _fault_text(faults: list[str]) -> str:
    return f"{len(faults)} fault{'s' * (len(faults) != 1)} in the study's spec:\n  " + "\n  ".join(faults)


def _to_dict(settings: Any) -> dict[str, Any]:
    return dataclasses.asdict(settings)


def _toml_tables(name: str, table: Mapping[str, Any]) -> list[str]:
    values = {key: value for key, value in table.items() if not isinstance(value, dict)}
    lines = ["", f"[{name}]", *(f"{key} = {_toml(value)}" for key, value in values.items())]
    for key, value in table.items():
        if isinstance(value, dict):
            lines += _toml_tables(f"{name}.{key}", value)
    return lines


def _toml(value: object) -> str:
    """A TOML value; JSON writes text, booleans, whole numbers and lists the same way, and repr the floats."""
    return repr(value) if isinstance(value, float) else json.dumps(value)
