"""What do gradients, and scaling by random factors, say of the arrays of a network?

Finds blocks without a scale and the running statistics that follow them. Knows no framework but JAX: the
network is a function of arrays by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import torch

from decayfree.errors import InvalidInputError, extra_needed, listed
from decayfree.integrations.optax import Arrays, Following, TreeInvariance, TreeWeight, rows_first
from decayfree.invariance.partition import TOLERANCES, Partition, partial_partition, partition
from decayfree.invariance.radial import RadialDerivatives, along_rows
from decayfree.invariance.verdict import Verdict
from decayfree.invariance.words import describe

with extra_needed("jax", "the probe of trees needs {}, which is not installed"):
    import jax
    from jax import numpy as jnp

# From inputs, parameters and everything else, the latter two by name, to the outputs and everything else.
Forward = Callable[[Any, Arrays, Arrays], tuple[list[jax.Array], Arrays]]

_N_PROBES = 3
_NOISE = 0.1  # standard deviation of the perturbation, relative to a parameter's own size


class TreeProbe:
    """Looks at all parameters of a network together, then scales one after the other.

    Args:
        forward: Runs it.
        inputs: Of it, a tree.
        params: By name.
        state: Everything else of it, such as running statistics, by name.

    Raises:
        InvalidInputError: If it does not run, or its outputs are no finite floating numbers.
    """

    def __init__(self, forward: Forward, inputs: Any, params: Arrays, state: Arrays) -> None:
        self.params, self.state = (jax.tree.map(double, part) for part in (params, state))
        try:
            text = str(jax.make_jaxpr(forward)(inputs, self.params, self.state))
        except (TypeError, ValueError, LookupError, AttributeError) as error:
            raise InvalidInputError(f"the model does not run on these inputs: {error}") from error
        # Somewhere in its code, such as in jax.nn.dot_product_attention, is a precision of its own: what is
        # exact in spite of it shows with the small tolerance, what is not with the large one.
        is_rounded = any(f"new_dtype={low}" in text for low in ("float32", "bfloat16", "float16"))
        self.tolerances = [TOLERANCES[torch.float64]] + [TOLERANCES[torch.float32]] * is_rounded
        self.tolerance = self.tolerances[-1]
        self.within = 1e-4 if is_rounded else 1e-6  # of ratios
        self.run = partial(jax.jit(forward), inputs)
        self.moved = jax.jit(_perturbed)

        def functional(params: Arrays, inputs: Any, state: Arrays, of: Any) -> tuple[jax.Array, Any]:
            outputs, _ = forward(inputs, params, state)
            lengths = [jax.lax.stop_gradient(jnp.linalg.norm(jnp.ravel(one))) for one in outputs]
            terms = map(jnp.vdot, of, outputs)
            relative = [term / (length + (length == 0)) for term, length in zip(terms, lengths, strict=True)]
            return jnp.stack([one.astype(jnp.float64) for one in relative]).sum(), lengths

        self.slopes = jax.jit(jax.grad(functional, has_aux=True))
        self.inputs = inputs
        self.outputs = jax.eval_shape(forward, inputs, self.params, self.state)[0]
        self.random = np.random.default_rng(0)
        self.statistics = self._statistics()

    def found(self) -> TreeInvariance:
        """The result."""
        probes = [self._probed() for _ in range(_N_PROBES)]
        said = {name: self._verdict(name, probes) for name in self.params}
        verdicts = {name: verdict for name, (verdict, _) in said.items()}
        weights, movements = [], [0.0]
        for weight, moved, following in self._scaled([one for _, one in said.values() if one is not None]):
            if moved > self.tolerance.confirm:
                reason = f"small growth does not show, but scaling it moved the outputs by {moved:.2g}"
                own = replace(verdicts[weight.name], verdict="not_invariant", reason=reason, measured=moved)
                verdicts[weight.name] = own
            else:
                weights.append(replace(weight, following=following))
                movements.append(moved)
        for weight in weights:
            if weight.bias is not None:
                own = replace(
                    verdicts[weight.bias], verdict="invariant", reason=f"together with {weight.name}"
                )
                verdicts[weight.bias] = own
        return TreeInvariance(weights, verdicts, confirmed_to=max(movements))

    def _statistics(self) -> dict[tuple[str, str], np.ndarray[Any, Any]]:
        """Pairs of running mean and variance by name, with the share of a new batch in each channel.

        Those that a run renews are set to zero, so that it leaves nothing but its own there.
        """
        pairs = [
            (f"{stem}mean", name)
            for name, one in self.state.items()
            for stem in [name.removesuffix("var")]
            if name.split(".")[-1] == "var"
            and f"{stem}mean" in self.state
            and self.state[f"{stem}mean"].shape == one.shape
        ]
        nothing, one = (
            self.state | {name: np.full_like(self.state[name], of) for pair in pairs for name in pair}
            for of in (0.0, 1.0)
        )
        left, more = (self.run(self.params, state)[1] for state in (nothing, one))
        shares = {pair: 1 - (np.ravel(more[pair[1]]) - np.ravel(left[pair[1]])) for pair in pairs}
        self.fixed = [pair[1] for pair, share in shares.items() if not (share > self.within).all()]
        shares = {pair: share for pair, share in shares.items() if pair[1] not in self.fixed}
        self.state |= {name: nothing[name] for pair in shares for name in pair}
        return shares

    def _probed(self) -> tuple[Arrays, Arrays]:
        """Move the parameters a little; their values and the slopes of a random function of the outputs."""
        noise = {name: self.random.standard_normal(one.shape) for name, one in self.params.items()}
        self.params = self.moved(self.params, noise)
        of = [self.random.standard_normal(one.shape).astype(one.dtype) for one in self.outputs]
        slopes, lengths = self.slopes(self.params, self.inputs, self.state, of)
        norms = [*map(float, lengths)]
        if not np.isfinite(norms).all() or not any(norms):
            raise InvalidInputError(
                f"expected outputs that are finite floating numbers and not all zero, got norms {norms}"
            )
        return self.params, slopes

    def _verdict(self, name: str, probes: list[tuple[Arrays, Arrays]]) -> tuple[Verdict, TreeWeight | None]:
        """What the probes say of one parameter, and its blocks where it could be held."""
        value, stem = self.params[name], name.rpartition(".")[0]
        shape = tuple(value.shape)
        if not jnp.issubdtype(value.dtype, jnp.floating) or not shape or not value.size:
            reason = "a single number, or none, or no real ones: it is not measured"
            return Verdict(name, "undecided", reason, 0.0, shape), None
        whole = [_radial(name, None, (-1,), *probe) for probe in probes]
        if max(float(one.magnitude.max()) for one in whole) <= self.tolerance.evidence:
            reason = (
                "no gradient reaches it: a normalization takes it away, as a bias before it, or these inputs "
                "do not reach it"
            )
            return Verdict(name, "undecided", reason, 0.0, shape), None
        bias = f"{stem}.bias" if stem else "bias"
        chosen: tuple[Partition, tuple[int, ...], str | None] | None = None
        for axes in dict.fromkeys([(-1,), *[(-2, -1)] * (len(shape) == 3), (-len(shape),), (-2,)]):
            if len(shape) < -axes[0]:
                continue
            one = self._partition(name, bias, axes, probes)
            if one is not None and (chosen is None or _rank(one[0]) > _rank(chosen[0])):
                chosen = one
        if chosen is None:
            moves = max(abs(float(one.radial.sum())) for one in whole)
            reason = (
                f"scaling it moves the outputs, by {moves:.2g} of its growth: nothing takes the scale away"
            )
            if self.fixed and len(shape) > 1:
                reason += f" ({listed(self.fixed, 1)} is fixed, as in eval mode)"
            return Verdict(name, "not_invariant", reason, moves, shape), None
        blocks, axes, with_bias = chosen[0].blocks, chosen[1], chosen[2]
        if chosen[0].is_mostly_silent:
            reason = f"{chosen[0].n_silent_rows} of its rows got no gradient: try other or more inputs"
            return Verdict(name, "undecided", reason, chosen[0].residual, shape), None
        by_row = rows_first(shape, axes)
        together = f" together with {with_bias}" if with_bias else ""
        reason = f"{describe(blocks, by_row)}{together} without a scale: a normalization takes it away"
        verdict = Verdict(name, "invariant", reason, chosen[0].residual, shape)
        if len(shape) < 2 or (blocks.rows_are_blocks and whole[0].length == 1):
            reason = f"{reason}; left out: its rows are single numbers"
            return replace(verdict, reason=reason, left_out="numbers"), None
        return verdict, TreeWeight(name, with_bias, axes, blocks, residual=chosen[0].residual)

    def _partition(
        self, name: str, bias: str, axes: tuple[int, ...], probes: list[tuple[Arrays, Arrays]]
    ) -> tuple[Partition, tuple[int, ...], str | None] | None:
        """Blocks of the rows along some axes, alone or with the bias; of some rows where not of all."""
        shape = self.params[name].shape
        rows = tuple(shape[axis] for axis in axes)
        partners: list[str | None] = [None]
        if name != bias and len(shape) > 1 and bias in self.params and self.params[bias].shape == rows:
            partners.append(bias)
        radial = {partner: [_radial(name, partner, axes, *probe) for probe in probes] for partner in partners}
        searches = [partial(partition, 0, 1)] + [partial_partition] * (len(shape) > 1)
        for tolerance, search, (partner, of_probes) in product(self.tolerances, searches, radial.items()):
            if (found := search(of_probes, tolerance)) is not None:
                return found, axes, partner
        return None

    def _scaled(
        self, weights: Sequence[TreeWeight]
    ) -> Iterator[tuple[TreeWeight, float, tuple[Following, ...]]]:
        """How far a factor for each of its blocks moves the outputs, and which statistics follow."""
        factors = {
            one.name: self.random.permutation(np.geomspace(1.3, 2.7, one.blocks.n_blocks)) for one in weights
        }
        scaled = jax.jit(
            lambda params, factors: [
                rounded(one.scaled(params, factors[one.name]), params) for one in weights
            ]
        )(self.params, factors)
        outputs, left = self.run(self.params, self.state)
        for weight, own in zip(weights, scaled, strict=True):
            new_outputs, new = self.run(self.params | own, self.state)
            moved = max(
                float(np.linalg.norm(np.subtract(after, before)) / (np.linalg.norm(before) or 1.0))
                for before, after in zip(map(np.ravel, outputs), map(np.ravel, new_outputs), strict=True)
            )
            following = (
                self._following(
                    pair,
                    factors[weight.name],
                    [np.ravel(one[name]) / share for one in (left, new) for name in pair],
                )
                for pair, share in self.statistics.items()
            )
            yield weight, moved, tuple(one for one in following if one is not None)

    def _following(
        self, pair: tuple[str, str], factors: np.ndarray[Any, Any], seen: list[np.ndarray[Any, Any]]
    ) -> Following | None:
        """The channels of one normalization that changed when a weight was scaled.

        Args:
            pair: Their names.
            factors: Of the weight's blocks.
            seen: Mean and variance of the batch before, then after.
        """
        (channels,) = np.nonzero(
            (np.abs(seen[3] - seen[1]) > self.within * seen[1])
            | (np.abs(seen[2] - seen[0]) > self.within * (np.abs(seen[0]) + np.sqrt(np.abs(seen[1]))))
        )
        if not len(channels):
            return None
        mean, var, new_mean, new_var = (one[channels] for one in seen)
        ratios = np.sqrt(new_var / np.where(var > 0, var, np.nan))
        blocks = np.abs(np.subtract.outer(ratios, factors)).argmin(1)
        c = factors[blocks]
        is_exact = bool((np.abs(ratios / c - 1) <= self.within).all())
        shifts = (new_mean - c * mean) / (1 - c)  # b in c(m − b) + b
        near = 10 * self.within * (np.abs(mean) + np.sqrt(np.abs(var)))
        following = Following(*pair, tuple(channels.tolist()), tuple(blocks.tolist()), is_exact=is_exact)
        if (np.abs(shifts) <= near).all():
            return following
        for name, value in self.params.items():
            if value.ndim == 1 and value.size:
                apart = np.abs(np.subtract.outer(shifts, np.asarray(value)))
                if (apart.min(1) <= near).all():
                    return replace(following, shift=name, shift_rows=tuple(apart.argmin(1).tolist()))
        return replace(following, is_exact=False)


def _perturbed(params: Arrays, noise: Arrays) -> Arrays:
    """Parameters that are moved a little, each relative to its own size."""
    sizes = {name: jnp.sqrt(jnp.square(one).mean()) for name, one in params.items()}
    return {
        name: one + _NOISE * jnp.where(sizes[name] > 0, sizes[name], 1) * noise[name]
        if jnp.issubdtype(one.dtype, jnp.floating)
        else one
        for name, one in params.items()
    }


def _rank(found: Partition) -> tuple[bool, int]:
    return not found.blocks.is_partial, found.blocks.n_blocks


def _radial(
    name: str, bias: str | None, axes: tuple[int, ...], values: Arrays, slopes: Arrays
) -> RadialDerivatives:
    """Of every row along some axes, with its entry of the bias."""

    def by_row(array: jax.Array) -> torch.Tensor:
        moved = np.moveaxis(np.asarray(array), axes, range(len(axes)))
        return torch.tensor(moved.reshape(int(np.prod(moved.shape[: len(axes)])), -1))

    of_rows = along_rows(by_row(values[name]), by_row(slopes[name]))
    if bias is None:
        return of_rows
    return of_rows.joined(*(torch.tensor(np.ravel(part[bias])) for part in (values, slopes)))


def rounded(new: Arrays, like: Arrays) -> Arrays:
    """New arrays in the precision of those of the same names."""
    return {name: value.astype(like[name].dtype) for name, value in new.items()}


def double(array: Any) -> Any:
    """In float64, if it holds floating numbers."""
    is_floating = jnp.issubdtype(jnp.result_type(array), jnp.floating)
    return jnp.asarray(array, jnp.float64) if is_floating else jnp.asarray(array)
