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

from decayfree.arguments.address import FORMS, Address, Args
from decayfree.errors import closest
from decayfree.methods.method import ADDED, Method
from decayfree.optimizers import InStudies, in_studies
from decayfree.study.checked_settings import CheckedSettings, SettingsTold
from decayfree.study.own import OWN, own

TaskName = Literal["classification", "segmentation", "detection", "counting"]
DATA_OF_TASK: Mapping[str, tuple[str, ...]] = {
    "classification": (
        *("digits", "opencv-digits", "fashion-mnist", "cifar10", "cifar100", "svhn", "image-folder"),
    ),
    "segmentation": ("scenes", "voc", "cityscapes", "camvid", "coco-stuff"),
    "detection": ("scenes", "coco", "voc", "yolo", "nuclei", "coins", "faces"),
    "counting": ("scenes", "shanghaitech", "ucf-qnrf", "points", "nuclei", "coins"),
}
"""What a task can be trained on; the first is embedded."""
HAVE_A_SIZE = frozenset(DATA_OF_TASK["classification"]) - {"image-folder"}
"""Data whose images are of one size; others are brought to that of the spec."""
if TYPE_CHECKING:
    DataName = str
    OptimizerName = str
else:
    DataName = Literal[tuple(dict.fromkeys(name for names in DATA_OF_TASK.values() for name in names))]
    OptimizerName = Literal[tuple(in_studies())]

MODEL_NAMES: tuple[str, ...] = (
    *("vgg4-bn", "vgg6-bn", "vgg11-bn", "vgg13-bn", "vgg16-bn", "vgg19-bn"),
    *("resnet18", "resnet34", "resnet50", "resnet20", "resnet32", "resnet56"),
    *("preact-resnet18", "preact-resnet20", "wrn-16-4", "wrn-28-10"),
    *("densenet-bc-40-12", "densenet-bc-100-12", "mobilenetv2", "mlp-bn"),
)
"""Our own networks; their builders, in this order, are in ``decayfree.study.models``, which trains."""
LIBRARY_NAMES = ("timm", "torchvision", "smp")
"""Packages whose models are named ``timm:NAME``; smp is segmentation-models-pytorch."""
MODELS_OF_TASK: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "classification": (MODEL_NAMES, ("timm", "torchvision")),
    "segmentation": (("unet-bn", "deeplab-bn"), ("torchvision", "smp")),
    "detection": (("fcos-bn", "ttfnet-bn"), ("torchvision",)),
    "counting": (("csrnet-bn", "mcnn-bn"), ()),
}
"""By task: our own networks, and the libraries that have others."""
OWN_MODELS = tuple(name for own, _ in MODELS_OF_TASK.values() for name in own)


def library_of(model: str) -> str:
    """The library whose model this names; empty for others."""
    library, _, name = model.partition(":")
    return library if library in LIBRARY_NAMES and name else ""


@dataclass(frozen=True)
class DataSpec(CheckedSettings):
    """Which images, how many of them to train on, and what is done to them."""

    name: DataName | Address = "digits"
    n_train: int = 400
    n_validation: int = 0
    """So many more images of the training part are scored and not trained on: settings are chosen by them."""
    n_test: int = 897
    image_size: int = 0
    """Height and width to which images are brought that have no size of their own; 0 where they have."""
    label_noise: float = 0.0
    """Share of the training labels that are drawn anew, uniformly from all classes; seeded by the run."""
    flip: bool = False
    """Mirror each training image left to right with probability 1/2."""
    crop_padding: int = 0
    """Pad training images by so many pixels of the mean color, and cut a random part of their size out."""
    cutout: int = 0
    """Side of a square of the mean color at a random place of each training image; 0 for none."""
    by_seed: bool = field(default=False, metadata=ADDED)
    """Draw the images to train on anew for each seed, the same for all methods; those to validate on stay."""
    first: int = field(default=0, metadata=ADDED)
    """Leave out so many images at the beginning of the training part: others may have been chosen by them."""
    n_pool: int = field(default=0, metadata=ADDED)
    """So many images come after ``first`` for training and validation; 0 for all that there are."""
    blank_border: int = field(default=0, metadata=ADDED)
    """So many outermost pixels are black in all images but those to test with, which have content there."""
    blank_channels: int = field(default=0, metadata=ADDED)
    """The last so many of three channels are black in all images but those to test with."""
    n_tasks: int = field(default=1, metadata=ADDED)
    """So many tasks follow each other evenly over the run: in each but the first the classes change their
    names, by a permutation that is drawn by the run's seed.
    """
    args: Args = field(default=Args(), metadata=ADDED)
    """What a data set of one's own is called with."""
    augmentation: Literal[""] | Address = field(default="", metadata=ADDED)
    """One's own, after the others: it is called with a batch."""
    augmentation_args: Args = field(default=Args(), metadata=ADDED)
    """What it is called with besides."""

    def _check(self, told: SettingsTold) -> None:
        told.only_with_an_address("args", "name")
        told.only_with_an_address("augmentation_args", "augmentation")
        told.each("n_train n_test n_tasks", "at least 1", lambda n: n >= 1)
        told.each("image_size", "at most 4,096 pixels", lambda n: n <= 4096)
        told.each("blank_channels", "at most 2 of the 3", lambda n: n <= 2)
        sizes = "n_validation image_size crop_padding cutout first n_pool blank_border blank_channels"
        told.each(sizes, "at least 0", lambda n: n >= 0)
        told.unless(
            not self.n_pool or self.n_pool >= self.n_train + self.n_validation,
            "n_pool n_train n_validation",
            f"expected at least the {self.n_train + self.n_validation} images that are taken out of it, or 0",
        )
        told.each("label_noise", "a share from 0 to 1", lambda share: 0 <= share <= 1)
        has_a_size = self.name in HAVE_A_SIZE or isinstance(self.name, Address)
        told.unless(
            has_a_size or self.image_size != 0,
            "image_size name",
            f"expected the pixels of a side, since images of {self.name} differ in size; got 0",
        )
        told.unless(
            not has_a_size or self.image_size <= 0,
            "image_size name",
            f"{self.name} has a size of its own, expected 0, got {self.image_size}",
        )


@dataclass(frozen=True)
class ModelSpec(CheckedSettings):
    """Which network and how large."""

    name: str = "vgg4-bn"
    """One of the networks of ``decayfree.study.models``, ``timm:NAME`` and the like, or one's own."""
    width_factor: float = 1.0
    """Channels of each layer over the published network's; 1 for those of libraries, which set theirs."""
    batch_norm: Literal["live", "frozen"] = field(default="live", metadata=ADDED)
    """``frozen``: BatchNorms of the backbone stay in eval mode, their gains and biases as they are."""
    backbone: str = field(default="", metadata=ADDED)
    """A file with the state of the backbone to begin with, as ``torch.save`` writes it; none where empty."""
    args: Args = field(default=Args(), metadata=ADDED)
    """What a library's network, or one's own, is built with besides."""

    def _named(self, value: Any) -> Any:
        return str(value) if isinstance(value, str) and library_of(value) else Address.taken(value)

    def _check(self, told: SettingsTold) -> None:
        is_ours = ":" not in self.name
        told.unless(
            not (is_ours and self.args), "args name", f"{self.name} takes none, got {dict(self.args)}"
        )
        if self.name not in OWN_MODELS and not library_of(self.name) and not isinstance(self.name, Address):
            known = _one_of((*OWN_MODELS, *(f"{one}:NAME" for one in LIBRARY_NAMES), *FORMS))
            meant = closest(self.name, OWN_MODELS)
            told.unless(False, "name", f"expected {known}; got {self.name!r}{meant}")
        told.each("width_factor", "a finite number above 0", lambda factor: 0 < factor < math.inf)
        told.each("width_factor", "at most 100", lambda factor: not 100 < factor < math.inf)
        told.unless(
            ":" not in self.name or self.width_factor == 1 or not 0 < self.width_factor < math.inf,
            "width_factor name",
            f"{self.name} has a width of its own, expected 1, got {self.width_factor:g}",
        )


@dataclass(frozen=True)
class OptimizerSpec(CheckedSettings):
    """Which optimizer; settings that it does not have are not looked at."""

    name: OptimizerName | Address = "sgd"
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
    args: Args = field(default=Args(), metadata=ADDED)
    """Of one's own."""

    @property
    def in_studies(self) -> InStudies:
        """How it is made, unless it is one's own."""
        made = in_studies()[self.name].study
        assert made is not None
        return made

    @property
    def label(self) -> str:
        """What a table says: SGD, momentum 0.9."""
        if isinstance(self.name, Address):
            return self.name.label(self.args)
        if self.name != "sgd":
            return self.in_studies.label
        if self.momentum == 0:
            return "SGD"
        return f"SGD, {'Nesterov ' if self.nesterov else ''}momentum {self.momentum:g}"

    def _check(self, told: SettingsTold) -> None:
        told.only_with_an_address("args", "name")
        told.each("momentum beta1 beta2", "at least 0 and below 1", lambda share: 0 <= share < 1)
        told.unless(
            not self.nesterov
            or self.momentum != 0
            or isinstance(self.name, Address)
            or "nesterov" not in self.in_studies.settings,
            "nesterov momentum name",
            "needs a momentum above 0",
        )
        told.each("eps", "a finite number from 0", lambda eps: 0 <= eps < math.inf)


@dataclass(frozen=True)
class Recipe(CheckedSettings):
    """All that decides a run beside its method and its seed."""

    task: TaskName | Address = "classification"
    learning_rate: float = 0.1
    schedule: Literal["cosine", "constant", "step"] | Address = "cosine"
    """``step`` is a tenth after half of the steps and a hundredth after three quarters; one's own is called
    with the share of the steps that is done.
    """
    n_cycles: int = field(default=1, metadata=ADDED)
    """The schedule runs so many times, one after the other: warm restarts."""
    n_warmup_epochs: float = 0.0
    """The learning rate rises linearly over so many epochs, and then follows the schedule as if it had from
    the beginning.
    """
    n_epochs: int = 20
    batch_size: int = 64
    label_smoothing: float = 0.0
    rest_weight_decay: float = 0.0
    """Weight decay of all that is not scale-invariant (gains, biases, last layer), whatever the method."""
    rest_learning_rate: float = field(default=0.0, metadata=ADDED)
    """Of the same, under the same schedule; 0 for the learning rate of all."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the forward pass in training; ``bfloat16`` is torch's autocast, weights stay float32."""
    channels_last: bool = True
    compile: bool = False
    """Train with ``torch.compile``."""
    device: str = "cpu"
    """Where to train, in torch's words: cpu, cuda."""
    n_samples: int = 25
    """Rows of metrics, evenly spaced from before the first step to after the last; 1 for the last alone."""
    off_span: bool = True
    """Follow the first layer's off-span part, and take spectra of all weights before and after training."""
    clean_off_span: bool = field(default=False, metadata=ADDED)
    """After the last step, take out of every weight what no training image reaches, before it is scored."""
    data: DataSpec = field(default_factory=DataSpec)
    model: ModelSpec = field(default_factory=ModelSpec)
    optimizer: OptimizerSpec = field(default_factory=OptimizerSpec)
    task_args: Args = field(default=Args(), metadata=ADDED)
    """What a task of one's own is called with."""
    schedule_args: Args = field(default=Args(), metadata=ADDED)
    """What a schedule of one's own is called with besides."""

    @property
    def n_steps_per_epoch(self) -> int:
        """Whole batches in an epoch; what is left over is dropped."""
        return self.data.n_train // self.batch_size

    @property
    def n_steps(self) -> int:
        """Optimizer steps of the run."""
        return self.n_epochs * self.n_steps_per_epoch

    def learning_rate_at(self, step: int) -> float:
        """The learning rate of step ``step``, counted from 0; the cosine would reach 0 after the last."""
        n_warmup_steps = self.n_warmup_epochs * self.n_steps_per_epoch
        warmup = min(1.0, (step + 1) / n_warmup_steps) if n_warmup_steps else 1.0
        n_steps = max(self.n_steps, 1)
        share_done = step * self.n_cycles % n_steps / n_steps if step < n_steps else 1.0
        return self.learning_rate * warmup * self._scheduled(share_done)

    def task_at(self, step: int) -> int:
        """The task that step ``step`` belongs to; both counted from 0."""
        return step * self.data.n_tasks // max(self.n_steps, 1)

    def _scheduled(self, share_done: float) -> float:
        if isinstance(self.schedule, Address):
            return float(own("schedule", self.schedule, share_done, args=self.schedule_args))
        if self.schedule == "constant":
            return 1.0
        if self.schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * share_done))
        return 1.0 if share_done < 0.5 else 0.1 if share_done < 0.75 else 0.01

    def _check(self, told: SettingsTold) -> None:
        told.only_with_an_address("task_args", "task")
        told.only_with_an_address("schedule_args", "schedule")
        told.each("n_epochs batch_size n_cycles", "at least 1", lambda n: n >= 1)
        told.each("n_epochs n_samples", "at most 1,000,000", lambda n: n <= 1_000_000)
        told.each("n_samples", "at least 1 (the end)", lambda n: n >= 1)
        told.unless(
            self.n_samples != 1 or not self.off_span,
            "n_samples off_span",
            "expected at least 2 (start and end) with off_span, got 1",
        )
        told.each("learning_rate", "a finite number above 0", lambda rate: 0 < rate < math.inf)
        from_0 = "rest_weight_decay rest_learning_rate n_warmup_epochs"
        told.each(from_0, "a finite number from 0", lambda x: 0 <= x < math.inf)
        told.each("label_smoothing", "at least 0 and below 1", lambda share: 0 <= share < 1)
        for name in ("data", "model", "optimizer"):
            told.part(name)
        self._check_task(told)
        told.unless(
            not self.batch_size > self.data.n_train >= 1,
            "batch_size data.n_train",
            f"expected at most the {self.data.n_train} training images, got {self.batch_size}",
        )

    def _check_task(self, told: SettingsTold) -> None:
        """Tell what data, network or settings are not for the task."""
        known = "classification" if isinstance(self.task, Address) else self.task
        data, (ours, libraries) = DATA_OF_TASK[known], MODELS_OF_TASK[known]
        told.unless(
            self.data.name in data or isinstance(self.data.name, Address),
            "data.name task",
            f"expected {_one_of((*data, *FORMS))} for {self.task}; got {self.data.name!r}"
            f"{closest(self.data.name, data)}",
        )
        models = (*ours, *(f"{one}:NAME" for one in libraries), *FORMS)
        told.unless(
            self.model.name in ours
            or library_of(self.model.name) in libraries
            or isinstance(self.model.name, Address)
            or isinstance(self.task, Address)
            or bool(self.model.faults()),
            "model.name task",
            f"expected {_one_of(models)} for {self.task}; got {self.model.name!r}"
            f"{closest(self.model.name, ours)}",
        )
        if known == "classification":
            return
        for field_name, default in _OF_CLASSIFICATION.items():
            part, _, name = field_name.rpartition(".")
            value = getattr(self.data if part else self, name)
            wanted = default or "none"
            told.unless(value == default, f"{field_name} task", f"{self.task} has {wanted}, got {value}")


_OF_CLASSIFICATION: Mapping[str, Any] = {
    "label_smoothing": 0.0,
    **{f"data.{name}": 0 for name in ("label_noise", "crop_padding", "cutout", "blank_border")},
    "data.blank_channels": 0,
    "data.n_tasks": 1,
}
"""Settings that other tasks do not have, and what they are there."""


def _one_of(names: tuple[str, ...]) -> str:
    return f"one of {', '.join(names[:-1])} or {names[-1]}" if len(names) > 1 else names[0]


@dataclass(frozen=True)
class RunSettings:
    """All that decides what one run computes; two runs with equal settings are the same run."""

    method: Method
    seed: int
    recipe: Recipe

    @cached_property
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
        return self._tables(is_key=True)

    def at(self, name: str) -> Any:
        """One of the settings of `flat` by its dotted name; None where there is none of it."""
        head, *rest = name.split(".")
        value: Any = getattr(self, head) if head in ("seed", "method") else getattr(self.recipe, head, None)
        for part in rest:
            table = dict(value) if isinstance(value, Args) else None
            value = getattr(value, part, None) if table is None else table.get(part)
        return value

    def addresses(self) -> dict[str, Address]:
        """What of it is the user's own, by the dotted name of the setting."""
        named = {path: self.at(path) for path in OWN}
        return {path: value for path, value in named.items() if isinstance(value, Address)}

    def sources(self) -> dict[str, dict[str, str]]:
        """Of which source that is, and of which version a library's network; runs nothing."""
        found = {path: {"name": str(one), **one.source().to_dict()} for path, one in self.addresses().items()}
        library = library_of(self.recipe.model.name)
        if library:
            package = "segmentation_models_pytorch" if library == "smp" else library
            source = Address(f"{package}:NAME").source()
            found["model.name"] = {"name": self.recipe.model.name, "version": source.version, "sha256": ""}
        return found

    def flat(self) -> dict[str, Any]:
        """All settings by dotted name: ``method.name``, ``method.radius``, ``seed``, ``optimizer.name``."""
        return dict(self._flat)

    @cached_property
    def _flat(self) -> dict[str, Any]:
        return flattened(self._tables(is_key=False))

    def _tables(self, *, is_key: bool) -> dict[str, Any]:
        return {
            "method": {"name": self.method.name, **plain(self.method, is_key=is_key)},
            "seed": self.seed,
            **plain(self.recipe, is_key=is_key),
        }


def plain(settings: Any, *, is_key: bool = False) -> dict[str, Any]:
    """A dataclass as nested tables; numbers are floats, 1 too, so that equal settings are the same text.

    A key leaves out settings that came later, where they are at their default: runs keep their names.
    """
    table: dict[str, Any] = {}
    for entry in dataclasses.fields(settings):
        value = getattr(settings, entry.name)
        if is_key and "is_added" in entry.metadata and value == entry.default:
            continue
        if isinstance(value, Args):
            value = value.to_dict()
        elif dataclasses.is_dataclass(value):
            value = plain(value, is_key=is_key)
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
