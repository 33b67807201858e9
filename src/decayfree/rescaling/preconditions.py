"""Does what held when a rescaling was attached still hold?

Says in sentences what has changed since: parameters and normalizations that are not where they were, modes,
weights that joined or were thawed. Before every step it looks at objects only, never at values, so that
nothing waits for a device. Repairs nothing.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter, is_
from typing import Any

from torch.optim import Optimizer

from decayfree.arguments.wrappers import plain
from decayfree.errors import MismatchError, faults_of, listed, raise_all
from decayfree.invariance.result import Invariance, layer_faults
from decayfree.optimizers import decay_settings
from decayfree.rescaling.faults import GONE
from decayfree.rescaling.held import Held
from decayfree.shards import is_sharded

# Asked of everything before every step, without a loop in Python.
_is_training, _needs_gradient = attrgetter("training"), attrgetter("requires_grad")

_NEW = "find the weights again, and make the optimizer and its WeightRescaling after it"


class Preconditions:
    """What is looked at before every step of an optimizer; each kind of change is told once.

    Args:
        optimizer: Whose hook asks.
        found: What was found in the model.
        held: The weights of it that are held.
        of_groups: What is wrong with the optimizer's groups, a sentence by kind, empty where nothing is.
            Asked where they have changed.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        found: Invariance,
        held: Sequence[Held],
        of_groups: Callable[[], Mapping[str, str]],
    ) -> None:
        self._found = found
        self._held = list(held)
        self._of_groups = of_groups
        self._told = {kind for kind, message in of_groups().items() if message}
        self._take(optimizer)

    def look(self, optimizer: Optimizer, *, stacklevel: int) -> None:
        """Tell what has changed since the last look.

        Raises:
            MismatchError: If the model computes with other parameters than those that are held, or a
                normalization after them has gone.
        """
        if (
            all(map(is_, map(dict.get, self._registries, self._keys), self._objects))
            and len(optimizer.param_groups) == len(self._groups)
            and all(map(is_, optimizer.param_groups, self._groups))
            and not any(group.get(key) for group in self._watched for key in self._decays)
            and not any(map(_needs_gradient, self._frozen))
            and all(map(_is_training, self._norms))
        ):
            return
        # Names stay those of the model itself where it, or a part of it, was wrapped meanwhile.
        self._found.model = plain(self._found.model)
        faults = replaced(optimizer, self._found, self._held) + gone(self._found, self._held)
        raise_all(faults_of(MismatchError, faults))
        messages = {
            "moved": moved(self._found, self._held),
            "mode": mode(self._found),
            **self._of_groups(),
        }
        for kind, message in messages.items():
            if message and kind not in self._told:
                self._told.add(kind)
                warnings.warn(message, stacklevel=stacklevel + 1)
        self._take(optimizer)

    def _take(self, optimizer: Optimizer) -> None:
        parameters = dict(self._found.model.named_parameters())
        modules = dict(self._found.model.named_modules())
        weights = [self._found[one.name] for one in self._held]
        layers = {layer.name: layer for weight in weights for layer in weight.norm_layers}
        # What running means follow, too; a shift that nobody knows is the name of no parameter.
        shifts = [layer.shift for layer in layers.values() if layer.shift]
        names = dict.fromkeys([name for weight in weights for name in weight.names] + shifts)
        paths = dict.fromkeys(path for name in (*names, *layers) for path in _paths(name))
        # FSDP puts other parameters in the model between forward and backward.
        places: list[tuple[dict[str, Any], str, object]] = [
            (modules[owner]._parameters, leaf, parameters[name])
            for name in names.keys() & parameters.keys()
            if not is_sharded(parameters[name])
            for owner, _, leaf in [name.rpartition(".")]
        ] + [
            (modules[owner]._modules, leaf, modules[path])
            for path in paths.keys() & modules.keys()
            for owner, _, leaf in [path.rpartition(".")]
        ]
        self._registries = [registry for registry, _, _ in places]
        self._keys = [key for _, key, _ in places]
        self._objects = [one for _, _, one in places]
        self._groups = list(optimizer.param_groups)
        held = {id(tensor) for one in self._held for tensor in one.tensors}
        self._decays = decay_settings(optimizer)
        self._watched = [
            group
            for group in self._groups
            if not held.isdisjoint(map(id, group["params"])) and not any(map(group.get, self._decays))
        ]
        self._frozen = [
            parameters[name]
            for name, verdict in self._found.verdicts.items()
            if verdict.verdict == "frozen" and name in parameters and not parameters[name].requires_grad
        ]
        self._norms = [
            modules[name] for name, layer in layers.items() if layer.blocks and modules[name].training
        ]


def lost_since(optimizer: Optimizer, found: Invariance, held: Sequence[Held]) -> list[str]:
    """What the model does not have any more of what was found in it, or not as the optimizer has it."""
    found.model = plain(found.model)
    misfits = found.misfits(found.model)
    return [GONE + "; ".join(misfits)] if misfits else replaced(optimizer, found, held)


def replaced(optimizer: Optimizer, found: Invariance, held: Sequence[Held]) -> list[str]:
    """Held parameters that the model has no more, or in whose place it has others that nobody moves."""
    parameters = dict(found.model.named_parameters())
    known = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    present = {id(parameter) for parameter in parameters.values()}
    names = [
        one.name
        for one in held
        if not is_sharded(one.weight)
        and id(one.weight) not in present
        and id(parameters.get(one.name)) not in known
    ]
    return [
        f"the model has other parameters as {listed(names)} now (load_state_dict(assign=True), a replaced "
        f"module, a parametrization), and the optimizer moves the old ones: {_NEW}"
    ][: len(names)]


def gone(found: Invariance, held: Sequence[Held]) -> list[str]:
    """Normalizations after held weights that the model does not have any more."""
    parameters, modules = dict(found.model.named_parameters()), dict(found.model.named_modules())
    faults = [fault for one in held for fault in layer_faults(found[one.name], parameters, modules)]
    about = "normalizations that took the scale of held weights away have gone or changed"
    return [f"{about} ({listed(list(dict.fromkeys(faults)))}): {_NEW}"][: len(faults)]


def moved(found: Invariance, held: Sequence[Held]) -> str:
    """Held parameters that have another name now."""
    names = {id(parameter): name for name, parameter in found.model.named_parameters()}
    now = {one.name: names.get(id(one.weight), one.name) for one in held}
    others = [f"{name} is {its}" for name, its in now.items() if name != its]
    return (
        f"held weights have other names now (pruned, wrapped or renamed): {listed(others)}; they are held "
        "as before, but results and states know them by their old ones: find the weights again"
        if others
        else ""
    )


def mode(found: Invariance) -> str:
    """Normalizations in eval mode while the model trains: the weights before them have a scale now."""
    modules = dict(found.model.named_modules())
    # Of a model with a wrapper inside, this is a copy with a mode of its own.
    if not any(one.training for one in modules.values() if not one._modules):
        return ""
    names = {layer.name for weight in found for layer in weight.norm_layers if layer.blocks}
    frozen = sorted(name for name in names if name in modules and not modules[name].training)
    return (
        f"{listed(frozen)} went into eval mode while the model trains, so that the weights before do have a "
        "scale now: find the weights again"
        if frozen
        else ""
    )


def _paths(name: str) -> list[str]:
    """Of a name "a.b.weight": "a", "a.b" and itself."""
    parts = name.split(".")
    return [".".join(parts[: depth + 1]) for depth in range(len(parts))]
