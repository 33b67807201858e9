"""How does optax hold norms of arrays in a tree? By a transformation that comes last in its chain.

And what scale-invariant weights of a tree are, as flax.py finds them. Looks for none.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from decayfree.blocks import Blocks
from decayfree.columns import aligned
from decayfree.errors import (
    InvalidInputError,
    MismatchError,
    NonFiniteWeightError,
    extra_needed,
    faults_of,
    listed,
    raise_all,
)
from decayfree.invariance.verdict import Verdict
from decayfree.invariance.words import describe, others_of
from decayfree.rescaling.radius import radius_faults

with extra_needed("jax", "holding norms with optax needs {}, which is not installed"):
    import jax
    import optax
    from jax import numpy as jnp

Arrays = dict[str, jax.Array]
Radius = float | Literal["init"] | Mapping[str, float | Literal["init"]]

# How far norms may be from their radius when training begins.
_OFF = 1e-3


@dataclass(frozen=True)
class Following:
    """Running statistics that follow the scale of a weight: ``mean`` becomes c(m − b) + b, ``var`` c²·var.

    Args:
        mean: Of a normalization, by its path.
        var: Its variance, likewise.
        channels: Those that follow.
        blocks: For each of ``channels`` the block whose factor is c.
        shift: The path of b, a bias that is added on the way and not scaled along; None where there is none.
        shift_rows: For each of ``channels`` the entry of ``shift``.
        is_exact: Whether that is how they follow; else b is no parameter, or they follow in another way.
    """

    mean: str
    var: str
    channels: tuple[int, ...]
    blocks: tuple[int, ...]
    shift: str | None = None
    shift_rows: tuple[int, ...] = ()
    is_exact: bool = True


@dataclass(frozen=True)
class TreeWeight:
    """An array of a tree whose blocks can be scaled by any positive factors without changing the outputs.

    Args:
        name: Its path in the parameters, joined by dots.
        bias: The bias that is scaled along, where they only work together.
        axes: The axes along which the rows (output channels) run, from the end: (-1,) for most kernels,
            (-2, -1) for those of attention, whose last axes are heads and channels.
        blocks: How the rows, in the order of the flattened ``axes``, are divided. Its own ``axis`` is 0.
        following: Running statistics that must follow it.
        residual: Largest radial derivative of a block as a share of what it could have been; no unit.

    Example:
        >>> weight = TreeWeight("kernel", None, (-1,), Blocks(axis=0, block_sizes=(1, 1)))
        >>> kernel = jnp.array([[3.0, 0.0], [4.0, 2.0]])
        >>> weight.norms({"kernel": kernel}).tolist()
        [5.0, 2.0]
        >>> weight.scaled({"kernel": kernel}, jnp.array([2.0, 0.5]))["kernel"].tolist()
        [[6.0, 0.0], [8.0, 1.0]]
    """

    name: str
    bias: str | None
    axes: tuple[int, ...]
    blocks: Blocks
    following: tuple[Following, ...] = ()
    residual: float = 0.0

    @property
    def names(self) -> tuple[str, ...]:
        """Of the array, and of its bias where they only work together."""
        return (self.name,) if self.bias is None else (self.name, self.bias)

    def norms(self, values: Mapping[str, jax.Array]) -> jax.Array:
        """(n_blocks,): L2 norms among arrays by name; in float32, of float64 in float64."""
        weight = _wide(values[self.name])
        inner = tuple(axis for axis in range(weight.ndim) if axis - weight.ndim not in self.axes)
        squares = jnp.square(weight).sum(inner).reshape(-1)
        if self.bias is not None:
            squares += jnp.square(_wide(values[self.bias])).reshape(-1)
        sums = [
            # No slice of all rows: they may be on several devices.
            (squares if self.blocks.n_rows == len(squares) == run.n_blocks * run.size else squares[rows])
            .reshape(-1, run.size)
            .sum(1)
            for run in self.blocks.runs
            for rows in [slice(run.first_row, run.first_row + run.n_blocks * run.size)]
        ]
        return jnp.sqrt(sums[0] if len(sums) == 1 else jnp.concatenate(sums))

    def scaled(self, values: Mapping[str, jax.Array], factors: jax.Array) -> Arrays:
        """The array, and its bias, with every block multiplied by its factor, (n_blocks,); not rounded."""
        weight, of_rows = _wide(values[self.name]), factors
        if not self.blocks.rows_are_blocks:
            spread_out, at = [], 0
            for run in self.blocks.runs:
                of_run = factors if run.n_blocks == len(factors) else factors[at : at + run.n_blocks]
                spread_out.append(jnp.broadcast_to(of_run[:, None], (run.n_blocks, run.size)).reshape(-1))
                at += run.n_blocks
            of_rows = spread_out[0] if len(spread_out) == 1 else jnp.concatenate(spread_out)
        rows = tuple(weight.shape[axis] for axis in self.axes)
        if self.blocks.is_partial:
            every_row = jnp.ones(int(np.prod(rows)), factors.dtype)
            of_rows = every_row.at[np.array(self.blocks.rows)].set(of_rows)
        spread = [size if dim - weight.ndim in self.axes else 1 for dim, size in enumerate(weight.shape)]
        scaled = {self.name: weight * of_rows.reshape(spread)}
        if self.bias is not None:
            scaled[self.bias] = _wide(values[self.bias]) * of_rows.reshape(rows)
        return scaled

    def factors(self, norms: jax.Array, targets: jax.Array) -> jax.Array:
        """(n_blocks,): what brings norms to targets; 1 where a norm is zero or not finite."""
        has_direction = (norms > 0) & jnp.isfinite(norms)
        return jnp.where(has_direction, targets / jnp.where(has_direction, norms, 1), 1)


class TreeInvariance(Mapping[str, TreeWeight]):
    """The scale-invariant weights among the parameters of a network by name, with a verdict on each of these.

    Printing it shows a table.

    Args:
        weights: Those that can be held.
        verdicts: One for every parameter.
        confirmed_to: Relative movement of the outputs when the weights were scaled by random factors.
    """

    def __init__(
        self, weights: Sequence[TreeWeight], verdicts: Mapping[str, Verdict], *, confirmed_to: float
    ) -> None:
        self._weights = {weight.name: weight for weight in weights}
        self.verdicts = dict(verdicts)
        self.confirmed_to = confirmed_to

    def __getitem__(self, name: str) -> TreeWeight:
        return self._weights[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)

    @property
    def held(self) -> frozenset[str]:
        """Names of all that is scaled: weights, and the biases that go with them."""
        return frozenset(name for weight in self.values() for name in weight.names)

    def __repr__(self) -> str:
        rows = [("weight", "shape", "blocks", "residual")]
        for one in self.values():
            shape = self.verdicts[one.name].shape
            blocks = describe(one.blocks, rows_first(shape, one.axes)) + (", with bias" if one.bias else "")
            rows.append((one.name, str(shape), blocks, f"{one.residual:.0e}"))
        head = f"{len(self)} scale-invariant weights among {len(self.verdicts)} parameters."
        if self:
            head += f"\nScaled at random, they moved the outputs by {self.confirmed_to:.0e} (relative).\n"
        return "\n".join([head, *(aligned(rows) if self else []), *others_of(self.verdicts, self.held)])


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class HeldNorms:
    """What :func:`hold_norms` keeps in the state of the optimizer, and so in its checkpoints.

    Args:
        targets: By weight the norms of its blocks, (n_blocks,).
    """

    targets: Arrays


def hold_norms(found: TreeInvariance, radius: Radius = 1.0) -> optax.GradientTransformation:
    """Hold the norms of scale-invariant weights (weight rescaling); the last of a chain.

    What comes before takes its step, and every block is put back on its norm: the update of w by u becomes
    R(w + u)/‖w + u‖ − w. Rows that are whole on a device need no communication.

    What is held must not be decayed, which cannot be seen from here: see :func:`decay_mask`.

    Args:
        found: The scale-invariant weights.
        radius: As for :class:`decayfree.WeightRescaling`. Weights must be on it when the state is made:
            :func:`decayfree.integrations.flax.rescale` puts them there.

    Raises:
        InvalidInputError: If ``found`` or ``radius`` is not what it should be. At ``init``, if a norm is not
            at its radius; at ``update``, without ``params``.
        MismatchError: At ``init``, if none of the weights is in the parameters, or one has another shape.

    Example:
        >>> weight = TreeWeight("kernel", None, (-1,), Blocks(axis=0, block_sizes=(1,)))
        >>> found = TreeInvariance([weight], {}, confirmed_to=0.0)
        >>> chain = optax.chain(optax.sgd(1.0), hold_norms(found, radius=5.0))
        >>> params = {"kernel": jnp.array([[3.0], [4.0]])}
        >>> updates, _ = chain.update({"kernel": jnp.array([[-3.0], [-4.0]])}, chain.init(params), params)
        >>> bool(jnp.abs(updates["kernel"]).max() < 1e-6)
        True
    """
    raise_all(faults_of(InvalidInputError, found_faults(found) or radius_faults(radius, list(found))))

    def init(params: Any) -> HeldNorms:
        values = by_name(params)
        weights = weights_in(found, values)
        targets = {one.name: targets_of(one, values, radius) for one in weights}
        norms = {one.name: one.norms(values) for one in weights}
        far = [name for name, norm in norms.items() if _is_off(norm, targets[name])]
        if far:
            raise InvalidInputError(
                f"expected norms at their radius when training begins, got others in {listed(far)}: call "
                'rescale(model, found, radius) of decayfree.integrations.flax first, or hold at radius="init"'
            )
        return HeldNorms(targets)

    def update(updates: Any, state: HeldNorms, params: Any = None) -> tuple[Any, HeldNorms]:
        if params is None:
            raise InvalidInputError("norms are held with the parameters: update(updates, state, params)")
        values, steps = by_name(params), by_name(updates)
        for weight in (found[name] for name in state.targets):
            new = {name: _wide(values[name]) + steps[name] for name in weight.names}
            factors = weight.factors(weight.norms(new), state.targets[weight.name])
            for name, value in weight.scaled(new, factors).items():
                steps[name] = (value - values[name]).astype(steps[name].dtype)
        return jax.tree.unflatten(jax.tree.structure(updates), list(steps.values())), state

    return optax.GradientTransformation(init, update)


def decay_mask(found: TreeInvariance) -> Callable[[Any], Any]:
    """Where weight decay may act: everywhere but on what is held.

    Args:
        found: The scale-invariant weights.

    Returns:
        For ``optax.adamw(rate, weight_decay=…, mask=…)`` and for ``optax.masked``: from parameters to a tree
        like them of True and False.

    Example:
        >>> weight = TreeWeight("kernel", None, (-1,), Blocks(axis=0, block_sizes=(1,)))
        >>> found = TreeInvariance([weight], {}, confirmed_to=0.0)
        >>> decay_mask(found)({"kernel": jnp.ones((2, 1)), "scale": jnp.ones(1)})
        {'kernel': False, 'scale': True}
    """
    raise_all(faults_of(InvalidInputError, found_faults(found)))
    return lambda params: jax.tree_util.tree_map_with_path(
        lambda path, _: name_of(path) not in found.held, params
    )


def rows_first(shape: Sequence[int], axes: Sequence[int]) -> tuple[int, ...]:
    """The shape of an array once its rows, along some axes from the end, are flattened and come first.

    Example:
        >>> rows_first((8, 2, 4), (-2, -1)), rows_first((3, 3, 16, 32), (-1,))
        ((8, 8), (32, 3, 3, 16))
    """
    n_rows = int(np.prod([shape[axis] for axis in axes]))
    return (n_rows, *(size for dim, size in enumerate(shape) if dim - len(shape) not in axes))


def found_faults(found: object) -> list[str]:
    """Say of what is no result of find_invariant for trees that it must be one."""
    if isinstance(found, TreeInvariance):
        return []
    return [
        "found must be what find_invariant of decayfree.integrations.flax returns, got "
        f"{type(found).__name__}"
    ]


def name_of(path: Sequence[Any]) -> str:
    """A path in a tree, joined by dots, without the box around a leaf (``nnx.Param``)."""
    is_boxed = bool(path) and isinstance(path[-1], jax.tree_util.GetAttrKey)
    return jax.tree_util.keystr(tuple(path[:-1] if is_boxed else path), simple=True, separator=".")


def by_name(tree: Any) -> Arrays:
    """The leaves of a tree by name, in their order."""
    return {name_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def weights_in(found: TreeInvariance, values: Mapping[str, jax.Array]) -> list[TreeWeight]:
    """Those of the weights that are among arrays by name; what optax does not update, nothing moves.

    Raises:
        MismatchError: If none is, or one has another shape.
    """
    weights = [one for one in found.values() if all(name in values for name in one.names)]
    if found and not weights:
        raise MismatchError(
            f"expected parameters such as {listed(list(found), 2)}, got {listed(list(values), 2)}: of the "
            'variables of a linen module, variables["params"]'
        )
    faults = [
        f"{one.name} was {shape} when it was looked at, and is {values[one.name].shape}"
        for one in weights
        if (verdict := found.verdicts.get(one.name))
        and (shape := verdict.shape) != tuple(values[one.name].shape)
    ]
    raise_all(faults_of(MismatchError, faults))
    return weights


def targets_of(weight: TreeWeight, values: Mapping[str, jax.Array], radius: Radius) -> jax.Array:
    """(n_blocks,): the norms to hold: the first pattern that matches, else radius 1, times √(rows)."""
    norms, chosen = weight.norms(values), radius
    if isinstance(radius, Mapping):
        matching = (one for pattern, one in radius.items() if fnmatch.fnmatchcase(weight.name, pattern))
        chosen = next(matching, 1.0)
    if chosen == "init":
        return norms
    return jnp.sqrt(jnp.array(weight.blocks.block_sizes, norms.dtype)) * jnp.array(chosen, norms.dtype)


def _is_off(norms: jax.Array, targets: jax.Array) -> bool:
    if isinstance(norms, jax.core.Tracer):
        return False
    if not bool(jnp.isfinite(norms).all()):
        raise NonFiniteWeightError("a weight holds NaN or infinity")
    return bool(((norms > 0) & (jnp.abs(norms / targets - 1) > _OFF)).any())


def _wide(array: jax.Array) -> jax.Array:
    return array.astype(jnp.promote_types(array.dtype, jnp.float32))
