"""What is known of an optimizer? One row each; a new one is one more row.

Facts only, with where each was verified. Uses none of them and imports no optimizer: `dynamics.families`
tells an optimizer's family from a row, `rescaling.following` what its state does when a weight is scaled,
`methods.weight_decay` what its own decay is, `conversion` where that settles, and `study.optimizers` makes
it.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any, Literal

from decayfree import equilibrium
from decayfree.equilibrium import Equilibrium

UpdateFamily = Literal["sgd", "adam", "sign"]
DecayForm = Literal["coupled", "decoupled"]
"""g ← g + λw, or w ← (1 − ηλ)w beside the step."""

Correlation = Callable[[Mapping[str, Any], Mapping[str, Any]], float]
"""Of the parameter group and the state of a weight, after a step."""


@dataclass(frozen=True)
class InStudies:
    """How a study makes an optimizer.

    Args:
        name: In a study's file.
        label: In a legend.
        settings: Argument of the class -> the study's setting that it gets, or a pair of them.
        package: Where the class is; it is the row's first.
        fast: Arguments that change nothing but the time of a step. Measured on one thread of a CPU, 8
            convolutions of a VGG11 at an eighth of its width, a step in microseconds as a loop over
            parameters, with foreach and fused: Adam 924, 669, 370; AdamW 1065, 809, 365; Adagrad 663, 503,
            269; RAdam 2409, 849; RMSprop 1221, 582. SGD (246, 192, 199), NAdam and Adamax have nothing to
            gain, and at full width the loop is the fastest for SGD.
        is_for_matrices: Whether it takes matrices only and has AdamW inside for the rest.
    """

    name: str
    label: str
    settings: Mapping[str, str | tuple[str, str]]
    package: str = "torch.optim"
    fast: Mapping[str, bool] = field(default_factory=dict)
    is_for_matrices: bool = False


@dataclass(frozen=True)
class KnownOptimizer:
    """What is known of one optimizer.

    Args:
        classes: What its class is called, in one implementation or the other, with blanks between; the size
            of letters and underscores do not count.
        family: ``"sgd"``: a gradient that doubles doubles the step. ``"adam"``: it leaves the step alone,
            since that is divided by what is remembered of gradients. ``"sign"``: it does too, since the step
            knows signs or directions of gradients only. None where neither is so.
        verified: By which test the family, the state bit by bit and the decay without gradients were
            measured, or which paper says so.
        refused: Why it has no family, in words.
        decay: What its own ``weight_decay`` does, unless a setting ``decoupled_weight_decay`` or
            ``weight_decouple`` says otherwise; None where it has none, or does something else.
        decay_in: The package that this is known of; others call other rules by the same name. Empty for any.
        state: What it remembers by key, as tensors of the weight's shape -> how many powers of the gradient
            it holds. It is divided by c to that power when the weight is multiplied by c, because the
            gradient is divided by c; what grows with the weight, a step or a weight, has -1, and what does
            not depend on its scale 0.
        twins: Which of these keys hold the weight at another point, from where the optimizer goes on: they
            are scaled with it after every rescale, whatever becomes of moments.
        factored: The two keys of a second moment that is kept by its rows and its columns.
        equilibrium: The function of `decayfree.equilibrium` that says where its decay settles.
        correlation: For how many steps the noise of one gradient lives on (`equilibrium.correlation_time`).
        study: How a study makes it; None where none does.
    """

    classes: str
    family: UpdateFamily | None
    verified: str = "tests/test_optimizers.py"
    refused: str = ""
    decay: DecayForm | None = None
    decay_in: str = ""
    state: Mapping[str, int] = field(default_factory=dict)
    twins: tuple[str, ...] = ()
    factored: tuple[str, str] | None = None
    equilibrium: Callable[..., Equilibrium] | None = None
    correlation: Correlation | None = None
    study: InStudies | None = None


_RELATIVE = (
    "it makes every step a share of the weight's own norm, so that no effective learning "
    "rate depends on that norm"
)
_CURVATURE = "it takes the length of its step from the curvature, not from the learning rate alone"
_ESTIMATED = "its learning rate is a factor of one that it estimates"

_ADAM = {"exp_avg": 1, "exp_avg_sq": 2}
_BETAS: dict[str, str | tuple[str, str]] = {"betas": ("beta1", "beta2"), "eps": "eps"}
_MOMENTUM: dict[str, str | tuple[str, str]] = {"momentum": "momentum", "nesterov": "nesterov"}


def _none(group: Mapping[str, Any], state: Mapping[str, Any]) -> float:
    return 1.0


def _of_momentum(group: Mapping[str, Any], state: Mapping[str, Any]) -> float:
    if not group.get("use_muon", True):
        return _of_beta1(group, state)  # the AdamW inside
    momentum = float(group["momentum"])
    is_nesterov = bool(group.get("nesterov", False))
    return equilibrium.correlation_time(momentum, of_buffer=momentum if is_nesterov else 1.0)


def _of_beta1(group: Mapping[str, Any], state: Mapping[str, Any]) -> float:
    return equilibrium.correlation_time(float(group["betas"][0]))


def _of_nadam(group: Mapping[str, Any], state: Mapping[str, Any]) -> float:
    # Its share of the average grows from about ½ to β₁ while it trains.
    beta1, n_steps = float(group["betas"][0]), float(state.get("step", 0))
    share = beta1 * (1 - 0.5 * 0.96 ** ((n_steps + 1) * group["momentum_decay"]))
    return equilibrium.correlation_time(beta1, of_buffer=share)


def _of_signs(group: Mapping[str, Any], state: Mapping[str, Any]) -> float:
    return equilibrium.correlation_time_of_signs((float(group["betas"][0]), float(group["betas"][1])))


_coupled = partial(KnownOptimizer, decay="coupled", decay_in="torch")

OPTIMIZERS: tuple[KnownOptimizer, ...] = (
    _coupled(
        *("SGD", "sgd"),
        correlation=_of_momentum,
        state={"momentum_buffer": 1},
        equilibrium=equilibrium.sgd,
        study=InStudies("sgd", "SGD", _MOMENTUM),
    ),
    KnownOptimizer(
        *("SGDW", "sgd"),
        decay="decoupled",
        state={"momentum_buffer": 1},
        equilibrium=equilibrium.sgd,
        correlation=_of_momentum,
    ),
    _coupled(
        *("Adam", "adam"),
        correlation=_of_beta1,
        state={**_ADAM, "max_exp_avg_sq": 2},
        equilibrium=equilibrium.adam_l2,
        study=InStudies("adam", "Adam", _BETAS, fast={"fused": True}),
    ),
    KnownOptimizer(
        *("AdamW", "adam"),
        correlation=_of_beta1,
        decay="decoupled",
        decay_in="torch",
        state={**_ADAM, "max_exp_avg_sq": 2},
        equilibrium=equilibrium.adamw,
        study=InStudies("adamw", "AdamW", _BETAS, fast={"fused": True}),
    ),
    _coupled("NAdam", "adam", state=_ADAM, correlation=_of_nadam, study=InStudies("nadam", "NAdam", _BETAS)),
    _coupled(
        "RAdam",
        "adam",
        state=_ADAM,
        correlation=_of_beta1,
        study=InStudies("radam", "RAdam", _BETAS, fast={"foreach": True}),
    ),
    _coupled(
        *("RMSprop", "adam"),
        correlation=_of_momentum,
        # Its buffer holds gradients divided by their size.
        state={"square_avg": 2, "grad_avg": 1, "momentum_buffer": 0},
        study=InStudies(
            *("rmsprop", "RMSprop"),
            {"alpha": "beta2", "momentum": "momentum", "eps": "eps"},
            fast={"foreach": True},
        ),
    ),
    _coupled(
        *("Adamax", "adam"),
        state={"exp_avg": 1, "exp_inf": 1},
        correlation=_of_beta1,
        study=InStudies("adamax", "Adamax", _BETAS),
    ),
    _coupled(
        *("Adagrad", "adam"),
        correlation=_none,
        state={"sum": 2},
        study=InStudies("adagrad", "Adagrad", {"eps": "eps"}, fast={"fused": True}),
    ),
    KnownOptimizer(
        *("Lion", "sign"),
        correlation=_of_signs,
        decay="decoupled",
        state={"exp_avg": 1},
        equilibrium=equilibrium.lion,
        study=InStudies("lion", "Lion", {"betas": ("beta1", "beta2")}, package="pytorch_optimizer"),
    ),
    KnownOptimizer(
        *("Muon", "sign"),
        correlation=_of_momentum,
        decay="decoupled",
        state={"momentum_buffer": 1},
        study=InStudies("muon", "Muon", _MOMENTUM, package="pytorch_optimizer", is_for_matrices=True),
    ),
    # Others of torch. Adadelta's acc_delta holds squares of steps, ASGD's ax is the average of the weights.
    KnownOptimizer("Adadelta", "adam", state={"square_avg": 2, "acc_delta": -2}),
    KnownOptimizer("Rprop", "sign", state={"prev": 1, "step_size": -1}),
    KnownOptimizer("ASGD", "sgd", state={"ax": -1}),
    KnownOptimizer("SparseAdam", "adam", state=_ADAM),
    KnownOptimizer(
        "Adafactor", None, refused=_RELATIVE, state={"variance": 2}, factored=("row_var", "col_var")
    ),
    KnownOptimizer("LBFGS", None, "Liu, Nocedal, 1989", refused=_CURVATURE),
    # The family of SGD, from elsewhere. AccSGD's buffer is a weight.
    KnownOptimizer("SGDP", "sgd", state={"momentum": 1}),
    KnownOptimizer("AccSGD", "sgd", state={"momentum_buffer": -1}),
    KnownOptimizer("QHM", "sgd", state={"momentum_buffer": 1}),
    KnownOptimizer("AggMo", "sgd"),
    # That of Adam. ADOPT, AdafactorBigVision, NovoGrad and Shampoo average gradients that are divided by
    # their size already; LaProp, and timm's RMSprop, average steps, learning rate and all.
    KnownOptimizer("AdamP", "adam", state=_ADAM),
    KnownOptimizer("NAdamW", "adam", state=_ADAM),
    KnownOptimizer("Adan", "adam", state={**_ADAM, "exp_avg_diff": 1, "previous_grad": 1, "neg_pre_grad": 1}),
    KnownOptimizer("AdaBelief", "adam", state={"exp_avg": 1, "exp_avg_var": 2}),
    KnownOptimizer("ADOPT", "adam", state={"exp_avg": 0, "exp_avg_sq": 2}),
    KnownOptimizer("AdEMAMix", "adam", state={**_ADAM, "exp_avg_slow": 1}),
    KnownOptimizer("LaProp", "adam", state={"exp_avg": -1, "exp_avg_sq": 2}),
    KnownOptimizer("QHAdam", "adam", state=_ADAM),
    KnownOptimizer("StableAdamW", "adam", state=_ADAM),
    KnownOptimizer("Yogi", "adam", state=_ADAM),
    KnownOptimizer("NvNovoGrad", "adam", state={"exp_avg": 0, "exp_avg_sq": 2}),
    KnownOptimizer("NovoGrad", "adam", state={"moments": 0, "grads_ema": 2}),
    KnownOptimizer("Shampoo", "adam"),
    KnownOptimizer("SOAP", "adam"),
    KnownOptimizer("MARS", "adam"),
    KnownOptimizer("AdafactorBigVision", "adam", state={"exp_avg": 0, "exp_avg_sq": 2}),
    KnownOptimizer("RMSpropTF", "adam", state={"square_avg": 2, "grad_avg": 1, "momentum_buffer": -1}),
    # Schedule-free: gradients are taken at y, steps at z, and x is averaged. The weight is y, or x.
    KnownOptimizer(
        "SGDScheduleFree SGDScheduleFreeClosure ScheduleFreeSGD", "sgd", state={"z": -1}, twins=("z",)
    ),
    KnownOptimizer(
        "AdamWScheduleFree AdamWScheduleFreeClosure AdamWScheduleFreePaper ScheduleFreeAdamW",
        "adam",
        state={"z": -1, "exp_avg_sq": 2},
        twins=("z",),
    ),
    KnownOptimizer(
        "RAdamScheduleFree RAdamScheduleFreeClosure ScheduleFreeRAdam",
        "adam",
        state={"z": -1, "exp_avg_sq": 2},
        twins=("z",),
    ),
    # That of signs.
    KnownOptimizer("Tiger", "sign", state={"exp_avg": 1}),
    KnownOptimizer("SignSGD", "sign", state={"momentum_buffer": 1}),
    KnownOptimizer("Signum", "sign", "Bernstein et al., 2018, arXiv 1802.04434"),
    KnownOptimizer("Dion", "sign", "Ahn et al., 2025, arXiv 2504.05295"),
    # None.
    KnownOptimizer("LARS", None, "You et al., 2017, arXiv 1708.03888", refused=_RELATIVE),
    KnownOptimizer("LARC", None, "You et al., 2017, arXiv 1708.03888", refused=_RELATIVE),
    KnownOptimizer("LAMB", None, "You et al., 2019, arXiv 1904.00962", refused=_RELATIVE),
    KnownOptimizer("Nero", None, "Liu et al., 2021, arXiv 2102.07227", refused=_RELATIVE),
    KnownOptimizer("Fromage", None, "Bernstein et al., 2020, arXiv 2002.03432", refused=_RELATIVE),
    KnownOptimizer("AdaHessian", None, "Yao et al., 2020, arXiv 2006.00719", refused=_CURVATURE),
    KnownOptimizer(
        "DAdaptSGD DAdaptAdam DAdaptLion DAdaptAdaGrad",
        None,
        "Defazio, Mishchenko, 2023, arXiv 2301.07733",
        refused=_ESTIMATED,
    ),
    KnownOptimizer("Prodigy", None, "Mishchenko, Defazio, 2023, arXiv 2306.06101", refused=_ESTIMATED),
)

# The same rule in another implementation: FusedAdam, PagedAdamW8bit, DeepSpeedCPUAdam, SingleDeviceMuon.
_IMPLEMENTATIONS = re.compile(
    r"^(fused|paged|distributed|deepspeed|cpu|singledevice)+|(8bit|4bit|32bit|fp8|legacy|foreach)+$"
)


def row_of(kind: type, *, in_any_implementation: bool = False) -> KnownOptimizer | None:
    """What is known of a class by its name; nothing of the classes that it derives from.

    Args:
        kind: A class of optimizers.
        in_any_implementation: Whether a fused, paged or 8-bit one counts as well: it follows the same rule,
            but may remember it in another way.
    """
    name = _plain(kind.__name__)
    if in_any_implementation:
        name = _IMPLEMENTATIONS.sub("", name)
    return row_called(name)


def nearest_row(kind: type) -> KnownOptimizer | None:
    """What is known of a class, or of the nearest of those that it derives from."""
    return next((row for one in kind.__mro__ if (row := row_of(one)) is not None), None)


def twins_in(optimizer: object) -> tuple[str, ...]:
    """Keys of an optimizer's state that hold the weight at another point."""
    row = nearest_row(type(optimizer))
    return () if row is None else row.twins


def row_called(name: str) -> KnownOptimizer | None:
    """What is known of the optimizer whose class is called so, whatever the size of its letters."""
    return _row_called(_plain(name))


def own_decay_of(kind: type) -> DecayForm | None:
    """What ``weight_decay`` does in a class, or in the nearest that it derives from and that is known."""
    for one in kind.__mro__:
        row = row_of(one)
        if row is not None and row.decay_in in ("", one.__module__.split(".")[0]):
            return row.decay
    return None


def decays_in(optimizer: object, group: Mapping[str, Any]) -> dict[str, float]:
    """The settings by which a parameter group shrinks its weights, where they are not 0.

    Args:
        optimizer: Whose group it is: ASGD's ``lambd`` is a decay, Rprop's or Adafactor's settings are none.
        group: Of its ``param_groups``.
    """
    values = {key: float(group.get(key) or 0.0) for key in decay_settings(optimizer)}
    return {key: value for key, value in values.items() if value != 0.0}


def decay_settings(optimizer: object) -> tuple[str, ...]:
    """The settings of a group by which this optimizer shrinks weights."""
    is_asgd = any(kind.__name__ == "ASGD" for kind in type(optimizer).__mro__)
    return ("weight_decay", "lambd") if is_asgd else ("weight_decay",)


def decay_form_in(optimizer_kind: type, group: Mapping[str, object]) -> DecayForm | None:
    """What ``weight_decay`` does in a parameter group of this class; None where nobody knows."""
    flags = [bool(group[key]) for key in ("decoupled_weight_decay", "weight_decouple") if key in group]
    if any(flags):
        return "decoupled"
    form = own_decay_of(optimizer_kind)
    return "coupled" if form and flags else form


def in_studies() -> dict[str, KnownOptimizer]:
    """The rows that studies can train with, by their names there."""
    return {row.study.name: row for row in OPTIMIZERS if row.study is not None}


def settling() -> dict[str, Callable[..., Equilibrium]]:
    """Of those whose decay is known to settle, by their names in studies: where, as `equilibrium` says."""
    return {name: row.equilibrium for name, row in in_studies().items() if row.equilibrium is not None}


@lru_cache
def _row_called(name: str) -> KnownOptimizer | None:
    return next((row for row in OPTIMIZERS if name in map(_plain, row.classes.split())), None)


def _plain(name: str) -> str:
    return name.lower().replace("_", "")
