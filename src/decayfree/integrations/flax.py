"""Which weights of a Flax network have no scale, and how are they put on a radius before training?

Runs a network of NNX or of linen on its trees of arrays; the search for blocks is that of
:func:`decayfree.find_invariant`. Holding norms while it trains is in optax.py beside it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from decayfree.errors import (
    InvalidInputError,
    MismatchError,
    NonFiniteWeightError,
    extra_needed,
    faults_of,
    raise_all,
)
from decayfree.integrations.optax import (
    Arrays,
    Radius,
    TreeInvariance,
    by_name,
    found_faults,
    targets_of,
    weights_in,
)
from decayfree.integrations.tree_probe import Forward, TreeProbe, double, rounded
from decayfree.rescaling.radius import is_initial, radius_faults

with extra_needed("jax", "weights of Flax networks need {}, which is not installed"):
    import jax
    from flax import linen, nnx
    from jax import numpy as jnp

_Network = TypeVar("_Network")

_TINY = 1e-30  # in place of the ε of normalizations


def find_invariant(
    model: Any, inputs: Any, variables: Mapping[str, Any] | None = None, **settings: Any
) -> TreeInvariance:
    """Find the weights of a Flax network that have no scale.

    As :func:`decayfree.find_invariant`: the radial derivatives of random functions of the outputs, in float64
    and with the ε of normalizations set aside, then scaling by random factors. Modules have them as
    attributes, ``epsilon`` and ``dtype``. Nothing of the model is changed.

    Args:
        model: A ``flax.nnx.Module``, after ``model.train()``; or a ``flax.linen.Module``.
        inputs: An array, a tuple (``model(*inputs)``) or a mapping (``model(**inputs)``).
        variables: Of a linen module: ``params``, ``batch_stats`` and others.
        settings: Further arguments of the call, such as ``train=True`` (and of linen's ``apply``: ``rngs``).

    Returns:
        The weights by their path in the parameters, joined by dots.

    Raises:
        InvalidInputError: If ``model`` and ``variables`` are neither, ``inputs`` do not fit, or the outputs
            are no finite floating numbers.

    Example:
        >>> class Net(nnx.Module):
        ...     def __init__(self, rngs):
        ...         self.first, self.norm = nnx.Linear(4, 8, rngs=rngs), nnx.LayerNorm(8, rngs=rngs)
        ...         self.last = nnx.Linear(8, 2, rngs=rngs)
        ...     def __call__(self, x):
        ...         return self.last(self.norm(self.first(x)))
        >>> found = find_invariant(Net(nnx.Rngs(0)), jax.random.normal(jax.random.key(1), (16, 4)))
        >>> [(weight.names, weight.blocks.n_blocks) for weight in found.values()]
        [(('first.kernel', 'first.bias'), 1)]
    """
    with jax.enable_x64(True):
        if isinstance(model, nnx.Module) and variables is None:
            network = _split(model)
            forward = _forward_of_nnx(network, settings)
        elif isinstance(model, linen.Module) and isinstance(variables, Mapping) and "params" in variables:
            network = _split(variables)
            forward = _forward_of_linen(model, network, settings)
        else:
            raise InvalidInputError(
                "expected a flax.nnx.Module, or a flax.linen.Module and its variables with params, got "
                f"{type(model).__name__} and {type(variables).__name__}"
            )
        return TreeProbe(forward, jax.tree.map(double, inputs), network.params, network.state).found()


def rescale(model: _Network, found: TreeInvariance, radius: Radius = 1.0) -> _Network:
    """Put every scale-invariant block onto its radius, without changing what the network computes.

    In training and in eval mode, but for the ε of normalizations: running statistics follow. Before the
    optimizer's state is made.

    Args:
        model: An NNX module, or the variables of a linen module with their ``params``.
        found: From :func:`find_invariant`.
        radius: As for :class:`decayfree.WeightRescaling`, but for ``"init"``.

    Returns:
        A new one; the old one stays as it is.

    Raises:
        InvalidInputError: If an argument is not what it should be.
        MismatchError: If ``found`` is of another network.
        NonFiniteWeightError: If a weight holds NaN or infinity.
    """
    faults = found_faults(found) or radius_faults(radius, list(found))
    if not faults and is_initial(radius):
        faults = ['radius="init" is what the weights have: give a number']
    if not isinstance(model, nnx.Module) and not (isinstance(model, Mapping) and "params" in model):
        faults.append(
            "expected an nnx.Module, or the variables of a linen module with params, got "
            f"{type(model).__name__}"
        )
    raise_all(faults_of(InvalidInputError, faults))
    network = _split(model)
    params, state = dict(network.params), dict(network.state)
    weights = weights_in(found, params)
    lacking = [one.var for weight in weights for one in weight.following if one.var not in state]
    if lacking:
        raise MismatchError(f"expected all variables, which running statistics are of, got no {lacking[0]}")
    for weight in weights:
        norms = weight.norms(network.params)
        if not bool(jnp.isfinite(norms).all()):
            raise NonFiniteWeightError(f"{weight.name} holds NaN or infinity; nothing was rescaled")
        factors = weight.factors(norms, targets_of(weight, network.params, radius))
        params |= rounded(weight.scaled(network.params, factors), params)
        for one in weight.following:
            if not one.is_exact:
                warnings.warn(
                    f"the running statistics {one.var} do not follow {weight.name} by its factor: outputs in "
                    "eval mode change until training has renewed them",
                    stacklevel=2,
                )
                continue
            channels, c = np.array(one.channels), factors[np.array(one.blocks)]
            b = 0 if one.shift is None else network.params[one.shift][np.array(one.shift_rows)]
            mean, var = state[one.mean], state[one.var]
            state |= {
                one.mean: mean.at[channels].set((c * (mean[channels] - b) + b).astype(mean.dtype)),
                one.var: var.at[channels].set((c * c * var[channels]).astype(var.dtype)),
            }
    new: _Network = network.rebuilt(params, state)
    return new


@dataclass(frozen=True)
class _Split:
    """Parameters and everything else of a network by name, and what makes it of them again."""

    params: Arrays
    state: Arrays
    rebuilt: Callable[[Arrays, Arrays], Any]


def _split(network: Any) -> _Split:
    """An NNX module, or the variables of a linen module, in arrays by name."""
    parts: list[Any]
    if isinstance(network, nnx.Module):
        graph, *parts = nnx.split(network, nnx.Param, ...)

        def rebuilt(params: Any, state: Any) -> Any:
            return nnx.merge(graph, params, state, copy=True)  # inside of grad nothing outside may change
    else:
        parts = [network["params"], {name: one for name, one in network.items() if name != "params"}]

        def rebuilt(params: Any, state: Any) -> Any:
            return {"params": params, **state}

    by_names, like = [by_name(part) for part in parts], [jax.tree.structure(part) for part in parts]
    orders = [list(part) for part in by_names]  # jit sorts names

    def of_arrays(*arrays: Arrays) -> Any:
        return rebuilt(
            *(
                jax.tree.unflatten(tree, [part[name] for name in order])
                for tree, order, part in zip(like, orders, arrays, strict=True)
            )
        )

    return _Split(by_names[0], by_names[1], of_arrays)


def _forward_of_nnx(network: _Split, settings: Mapping[str, Any]) -> Forward:
    def forward(inputs: Any, params: Arrays, state: Arrays) -> tuple[list[jax.Array], Arrays]:
        model = network.rebuilt(params, state)
        for _, module in nnx.iter_modules(model):
            _make_exact_(module)
        args, named = _arguments(inputs)
        outputs = model(*args, **named, **settings)
        return _floating(outputs), by_name(nnx.split(model, nnx.Param, ...)[-1])

    return forward


def _forward_of_linen(model: Any, network: _Split, settings: Mapping[str, Any]) -> Forward:
    def exactly(call: Callable[..., Any], args: Any, settings: Any, context: Any) -> Any:
        kept = _make_exact_(context.module)
        try:
            return call(*args, **settings)
        finally:
            for name, value in kept.items():
                object.__setattr__(context.module, name, value)

    def forward(inputs: Any, params: Arrays, state: Arrays) -> tuple[list[jax.Array], Arrays]:
        variables = network.rebuilt(params, state)
        mutable = [name for name in variables if name != "params"]
        args, named = _arguments(inputs)
        with linen.intercept_methods(exactly):
            outputs, changed = model.apply(variables, *args, mutable=mutable, **named, **settings)
        return _floating(outputs), state | by_name(changed)

    return forward


def _arguments(inputs: Any) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    if isinstance(inputs, Mapping):
        return (), inputs
    return (inputs if isinstance(inputs, tuple) else (inputs,)), {}


def _make_exact_(module: Any) -> dict[str, Any]:
    """Set aside a module's ε, and its own precision; what it had."""
    wanted = {"epsilon": _TINY, "dtype": None}
    kept = {name: getattr(module, name) for name in wanted if getattr(module, name, None) is not None}
    for name in kept:
        object.__setattr__(module, name, wanted[name])
    return kept


def _floating(outputs: Any) -> list[jax.Array]:
    arrays = (jnp.asarray(one) for one in jax.tree.leaves(outputs))
    return [one for one in arrays if jnp.issubdtype(one.dtype, jnp.floating)]
