"""What decides a run: the data, the network, the optimizer and the schedule; one frozen dataclass each.

Does not read files, load data or train. Every class says in ``faults`` what is wrong with its values, one
sentence for each fault.
"""

import dataclasses
import hashlib
import json
import math
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, Literal

from decayfree.methods.method import Method
from decayfree.optimizers import InStudies, in_studies

DataName = Literal["digits", "fashion-mnist", "cifar10", "cifar100", "svhn", "image-folder"]
if TYPE_CHECKING:
    OptimizerName = str
else:
    OptimizerName = Literal[tuple(in_studies())]


@dataclass(frozen=True)
class DataSpec:
    """Which images, how many of them to train on, and what is done to them."""

    name: DataName = "digits"
    n_train: int = 400
    n_validation: int = 0
    """So many more images of the training part are scored and not trained on: settings are chosen by them."""
    n_test: int = 897
    image_size: int = 0
    """Height and width in pixels to which images of a folder are brought; 0 leaves images as they are, which
    other data needs.
    """
    label_noise: float = 0.0
    """Share of the training labels that are drawn anew, uniformly from all classes; seeded by the run."""
    flip: bool = False
    """Mirror each training image left to right with probability 1/2."""
    crop_padding: int = 0
    """Pad each training image by so many pixels on every side with the mean color, and cut a random part of
    its size out of it.
    """
    cutout: int = 0
    """Side of a square, at a random place of each training image, that is set to the mean color;
    0 for none.
    """

    def faults(self) -> list[str]:
        """What is wrong, one sentence each, beginning with the field's name."""
        faults = [
            f"{name}: expected at least 1, got {getattr(self, name)}"
            for name in ("n_train", "n_test")
            if getattr(self, name) < 1
        ]
        faults += [
            f"{name}: expected at least 0, got {getattr(self, name)}"
            for name in ("n_validation", "image_size", "crop_padding", "cutout")
            if getattr(self, name) < 0
        ]
        if not 0 <= self.label_noise <= 1:
            faults.append(f"label_noise: expected a share from 0 to 1, got {self.label_noise}")
        if self.name == "image-folder" and self.image_size == 0:
            faults.append(
                "image_size: expected the pixels of a side, since images of a folder differ in size; got 0"
            )
        if self.name != "image-folder" and self.image_size > 0:
            faults.append(f"image_size: {self.name} has a size of its own, expected 0, got {self.image_size}")
        return faults


@dataclass(frozen=True)
class ModelSpec:
    """Which network and how large."""

    name: str = "vgg4-bn"
    """One of the networks of ``decayfree.study.models``, or ``timm:NAME`` or ``torchvision:NAME``."""
    width_factor: float = 1.0
    """Channels of every layer, as a multiple of the published network's; 1 for timm and torchvision, whose
    width is their own.
    """

    def faults(self) -> list[str]:
        """What is wrong, one sentence each, beginning with the field's name.

        Whether the name is known is for the spec to ask.
        """
        if not 0 < self.width_factor < math.inf:
            return [f"width_factor: expected a finite number above 0, got {self.width_factor}"]
        if ":" in self.name and self.width_factor != 1:
            return [
                f"width_factor: {self.name} has a width of its own, expected 1, got {self.width_factor:g}"
            ]
        return []


@dataclass(frozen=True)
class OptimizerSpec:
    """Which optimizer; settings that it does not have are not looked at."""

    name: OptimizerName = "sgd"
    momentum: float = 0.9
    """Of sgd, rmsprop and muon."""
    nesterov: bool = False
    """Of sgd and muon."""
    beta1: float = 0.9
    """Of adam, adamw, nadam, radam, adamax and lion."""
    beta2: float = 0.999
    """Of the same; lion's authors use 0.99. It is rmsprop's smoothing constant as well."""
    eps: float = 1e-8
    """Of all that divide by gradients they remember."""

    @property
    def in_studies(self) -> InStudies:
        """How it is made."""
        made = in_studies()[self.name].study
        assert made is not None
        return made

    @property
    def label(self) -> str:
        """What a table says: SGD, momentum 0.9."""
        if self.name != "sgd":
            return self.in_studies.label
        if self.momentum == 0:
            return "SGD"
        return f"SGD, {'Nesterov ' if self.nesterov else ''}momentum {self.momentum:g}"

    def faults(self) -> list[str]:
        """What is wrong, one sentence each, beginning with the field's name."""
        faults = [
            f"{name}: expected at least 0 and below 1, got {getattr(self, name)}"
            for name in ("momentum", "beta1", "beta2")
            if not 0 <= getattr(self, name) < 1
        ]
        if self.nesterov and self.momentum == 0 and "nesterov" in self.in_studies.settings:
            faults.append("nesterov: needs a momentum above 0")
        if not 0 <= self.eps < math.inf:
            faults.append(f"eps: expected a finite number from 0, got {self.eps}")
        return faults


@dataclass(frozen=True)
class Recipe:
    """All that decides a run beside its method and its seed."""

    task: Literal["classification"] = "classification"
    learning_rate: float = 0.1
    schedule: Literal["cosine", "constant", "step"] = "cosine"
    """``step`` is a tenth after half of the steps and a hundredth after three quarters."""
    n_warmup_epochs: float = 0.0
    """The learning rate rises linearly over so many epochs, and then follows the schedule as if it had from
    the beginning.
    """
    n_epochs: int = 20
    batch_size: int = 64
    label_smoothing: float = 0.0
    rest_weight_decay: float = 0.0
    """Weight decay of gains, biases, the last layer: of all that is not scale-invariant,
    whatever the method.
    """
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the forward pass in training; ``bfloat16`` is torch's autocast, weights stay float32."""
    channels_last: bool = True
    compile: bool = False
    """Train with ``torch.compile``."""
    device: str = "cpu"
    """Where to train, in torch's words: cpu, cuda."""
    n_samples: int = 25
    """Rows of metrics, evenly spaced from before the first step to after the last."""
    off_span: bool = True
    """Follow the off-span part of the first layer, and take the spectra of all weights before the first step
    and after the last.
    """
    data: DataSpec = field(default_factory=DataSpec)
    model: ModelSpec = field(default_factory=ModelSpec)
    optimizer: OptimizerSpec = field(default_factory=OptimizerSpec)

    @property
    def n_steps_per_epoch(self) -> int:
        """Whole batches in an epoch; what is left over is dropped."""
        return self.data.n_train // self.batch_size

    @property
    def n_steps(self) -> int:
        """Optimizer steps of the run."""
        return self.n_epochs * self.n_steps_per_epoch

    def learning_rate_at(self, step: int) -> float:
        """The learning rate of step number ``step``, counted from 0.

        The cosine would reach 0 after the last.
        """
        n_warmup_steps = self.n_warmup_epochs * self.n_steps_per_epoch
        warmup = min(1.0, (step + 1) / n_warmup_steps) if n_warmup_steps else 1.0
        return self.learning_rate * warmup * self._scheduled(step / max(self.n_steps, 1))

    def _scheduled(self, share_done: float) -> float:
        if self.schedule == "constant":
            return 1.0
        if self.schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * share_done))
        return 1.0 if share_done < 0.5 else 0.1 if share_done < 0.75 else 0.01

    def faults(self) -> list[str]:
        """What is wrong here and in the parts, one sentence each, beginning with the field's dotted name."""
        faults = [
            f"{name}: expected at least {least}, got {getattr(self, name)}"
            for name, least in (("n_epochs", 1), ("batch_size", 1))
            if getattr(self, name) < least
        ]
        if self.n_samples < 2:
            faults.append(f"n_samples: expected at least 2 (start and end), got {self.n_samples}")
        if not 0 < self.learning_rate < math.inf:
            faults.append(f"learning_rate: expected a finite number above 0, got {self.learning_rate}")
        for name in ("rest_weight_decay", "n_warmup_epochs"):
            if not 0 <= getattr(self, name) < math.inf:
                faults.append(f"{name}: expected a finite number from 0, got {getattr(self, name)}")
        if not 0 <= self.label_smoothing < 1:
            faults.append(f"label_smoothing: expected at least 0 and below 1, got {self.label_smoothing}")
        for name, part in (("data", self.data), ("model", self.model), ("optimizer", self.optimizer)):
            faults += [f"{name}.{fault}" for fault in part.faults()]
        if self.batch_size > self.data.n_train >= 1:
            faults.append(
                f"batch_size: expected at most the {self.data.n_train} training images, got {self.batch_size}"
            )
        return faults


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
        """What the method is called."""
        return self.method.label

    @property
    def replayed_run(self) -> "RunSettings | None":
        """The run that must be done first, because this one replays its norms."""
        method = self.method.replays
        return None if method is None else dataclasses.replace(self, method=method)

    def to_dict(self) -> dict[str, Any]:
        """The settings as JSON: ``method`` with its name and settings, ``seed``, and all of the recipe."""
        return {
            "method": {"name": self.method.name, **plain(self.method)},
            "seed": self.seed,
            **plain(self.recipe),
        }

    def flat(self) -> dict[str, Any]:
        """The settings by dotted name.

        ``method.name``, ``method.radius``, ``seed``, ``learning_rate``, ``optimizer.name``.
        """
        return dict(self._flat)

    @cached_property
    def _flat(self) -> dict[str, Any]:
        return flattened(self.to_dict())


def plain(settings: Any) -> dict[str, Any]:
    """A dataclass as nested tables.

    Numbers are floats even where they were written 1, so that equal settings are the same text.
    """
    table: dict[str, Any] = {}
    for entry in dataclasses.fields(settings):
        value = getattr(settings, entry.name)
        if dataclasses.is_dataclass(value):
            value = plain(value)
        elif type(value) is int and entry.name in _numbers(settings.__class__):
            value = float(value)
        table[entry.name] = value
    return table


@lru_cache
def _numbers(cls: type) -> frozenset[str]:
    hints = typing.get_type_hints(cls)
    return frozenset(name for name, hint in hints.items() if float in (hint, *typing.get_args(hint)))


def flattened(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested table by dotted names."""
    flat: dict[str, Any] = {}
    for name, value in table.items():
        if isinstance(value, Mapping):
            flat |= flattened(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
