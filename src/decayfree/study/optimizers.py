"""Which optimizer trains a run, and can a method work with it?

Settings and parameter groups in, an optimizer out. Writes no optimizer: torch has all but Lion, and Muon for
matrices only; those two come from ``pytorch_optimizer``.

Which class has which of the study's settings, and what ``weight_decay`` in a parameter group does with it, is
said by the table of optimizers, ``decayfree.optimizers``.

**Muon** orthogonalizes the momentum of every matrix but the last one, which classifies; kernels of
convolutions are flattened to matrices (output channels × the rest). Gains, biases and the last layer are
AdamW's, with ``beta1``, ``beta2`` and ``eps``. Both have one learning rate: Muon's updates are multiplied by
0.2·√(larger side), which makes them as large as AdamW's.

References:
    Chen et al., "Symbolic Discovery of Optimization Algorithms", 2023, arXiv 2302.06675: Lion.
    Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024.
    Liu et al., "Muon is Scalable for LLM Training", 2025, arXiv 2502.16982: the factor 0.2·√(larger side).
"""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from decayfree.arguments.address import Address, Args
from decayfree.arguments.kinds import checked
from decayfree.equilibrium import Equilibrium, sgd
from decayfree.errors import InvalidInputError, MissingExtraError, faults_of, raise_all
from decayfree.methods.method import Method
from decayfree.methods.weight_decay import WeightDecay
from decayfree.optimizers import in_studies
from decayfree.study.own import own
from decayfree.study.run_settings import OptimizerSpec, Recipe

ParamGroups = list[dict[str, Any]]


def build_optimizer(
    spec: OptimizerSpec, groups: ParamGroups, *, learning_rate: float, method: Method
) -> Optimizer:
    """Make the optimizer of a run.

    Args:
        spec: Which one; settings that it does not have are not looked at.
        groups: From the method's ``param_groups``: parameters in the model's order, with their
            ``weight_decay``.
        learning_rate: Of all groups, in the optimizer's own units.
        method: May put an optimizer of its own in its place.

    Raises:
        InvalidInputError: If the method cannot work with it.
        MissingExtraError: If it comes from a package that is not there.
    """
    raise_all(faults_of(InvalidInputError, optimizer_faults(spec, method)))
    settings = {"lr": learning_rate}
    if not isinstance(spec.name, Address):
        settings |= _settings(spec, spec.in_studies.settings)
    replaced = method.optimizer(spec.name, groups, settings)
    if replaced is not None:
        return replaced
    if isinstance(spec.name, Address):
        return _own(spec, groups, learning_rate)
    made = spec.in_studies
    kind = _class(made.package, in_studies()[spec.name].classes.split()[0])
    if made.is_for_matrices:
        return kind(_with_adamw(groups, spec, learning_rate))
    return kind(groups, **settings, **made.fast)


def _own(spec: OptimizerSpec, groups: ParamGroups, learning_rate: float) -> Optimizer:
    """The user's; one that would not decay what it is asked to decay is refused."""
    assert isinstance(spec.name, Address)
    args = Args.of({"lr": learning_rate, **dict(spec.args)})
    optimizer: Optimizer = own("optimizer.name", spec.name, groups, args=args)
    if "weight_decay" not in optimizer.defaults and any(group["weight_decay"] for group in groups):
        raise InvalidInputError(
            f"optimizer.name: {spec.name} has no weight_decay among its defaults, so it would not decay what "
            "is to be decayed: use a method without decay and rest_weight_decay = 0"
        )
    return optimizer


def optimizer_faults(spec: OptimizerSpec, method: Method) -> list[str]:
    """Why a method cannot work with an optimizer, one sentence each; nothing where it can."""
    return [f"optimizer.name: {fault}" for fault in method.optimizer_faults(spec.name)]


def _settings(spec: OptimizerSpec, settings: Mapping[str, str | tuple[str, str]]) -> dict[str, Any]:
    """Arguments of the class, from the study's settings."""
    return {
        argument: getattr(spec, name) if isinstance(name, str) else tuple(getattr(spec, one) for one in name)
        for argument, name in settings.items()
    }


def _with_adamw(groups: ParamGroups, spec: OptimizerSpec, learning_rate: float) -> ParamGroups:
    """Each group in two: its matrices but for the last of all groups, and what is AdamW's."""
    last = next(
        (one for group in reversed(groups) for one in reversed(group["params"]) if _is_matrix(one)), None
    )
    split = []
    for group in groups:
        matrices = [one for one in group["params"] if _is_matrix(one) and one is not last]
        others = [one for one in group["params"] if not _is_matrix(one) or one is last]
        shared = {"lr": learning_rate, "weight_decay": group["weight_decay"]}
        muon = {"params": matrices, "use_muon": True, "use_adjusted_lr": True}
        muon |= _settings(spec, spec.in_studies.settings)
        adamw = {
            "params": others,
            "use_muon": False,
            **_settings(spec, OptimizerSpec("adamw").in_studies.settings),
        }
        split += [{**shared, **part} for part in (muon, adamw) if part["params"]]
    return split


def _is_matrix(parameter: Tensor) -> bool:
    """Whether it has rows and columns: lengths of weight normalization have (rows, 1, 1, 1)."""
    return parameter.ndim >= 2 and 1 < len(parameter) < parameter.numel()


def _class(package: str, name: str) -> Callable[..., Optimizer]:
    try:
        module = import_module(package)
    except ImportError as error:
        raise MissingExtraError(
            f"{name} is in the package {package}, which is not there: pip install decayfree[study]"
        ) from error
    made: Callable[..., Optimizer] = getattr(module, name)
    return made


@checked()
def equilibrium_at(method: Method, recipe: Recipe, step: int) -> Equilibrium | None:
    """Where decay and gradients would be in balance at the learning rate of step number ``step``.

    Args:
        method: How scale-invariant weights are treated.
        recipe: The learning rate, its schedule and the momentum.
        step: Counted from 0.

    Returns:
        The angle of a step at that balance, √(2ηλ/(1+μ)) to first order in ηλ, and how many steps it takes to
        come there; None under a method without decay, which has no such balance, for optimizers other than
        SGD, under a schedule of the user's own, which is not run for it, and where decay alone would turn a
        weight around in one step.

    References:
        Wan et al., "Spherical Motion Dynamics", 2021, arXiv 2006.08419.
        Kosson et al., "Rotational Equilibrium", 2024, arXiv 2305.17212.
    """
    optimizer = recipe.optimizer
    if not isinstance(method, WeightDecay) or method.weight_decay == 0 or optimizer.name != "sgd":
        return None
    if isinstance(recipe.schedule, Address):
        return None
    learning_rate = recipe.learning_rate_at(step)
    if learning_rate * method.weight_decay >= 1:
        return None
    return sgd(
        learning_rate,
        method.weight_decay,
        momentum=optimizer.momentum,
        nesterov=optimizer.nesterov,
        decoupled=method.form == "decoupled",
    )
