"""What norm, or what learning rate at unit norm, does what weight decay does in equilibrium?

The answer for an optimizer's settings, and weight by weight. Changes no optimizer and no weight;
converted_rescaling.py does.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from decayfree.conversion.decay_rule import DecayRule, name_of, settings_of
from decayfree.conversion.explained import rows_of, text_of, title_of
from decayfree.conversion.weight_recipe import WeightRecipe
from decayfree.display.notebook import titled
from decayfree.equilibrium import Equilibrium
from decayfree.errors import Fault, InvalidInputError, MismatchError, faults_of, raise_all
from decayfree.invariance.result import Invariance
from decayfree.invariance.verdict import ScaleInvariantWeight


@dataclass(frozen=True)
class FixedNormRecipe:
    """The fixed-norm recipe of a weight-decay recipe.

    Printing it shows the derivation, the table and the limits.

    Args:
        weights: One for each weight that is held.
    """

    weights: tuple[WeightRecipe, ...]

    @classmethod
    def of(
        cls,
        found: Invariance,
        rules: Mapping[str, DecayRule],
        gradient_norms: Mapping[str, Tensor] | None = None,
    ) -> "FixedNormRecipe":
        """Work out the recipe for the weights that have a rule.

        Args:
            found: From :func:`decayfree.find_invariant`.
            rules: Name of a weight -> the settings it is trained with.
            gradient_norms: Name of a weight -> (n_blocks,), as :class:`decayfree.GradientNorms` measures it.

        Raises:
            InvalidInputError: If a rule has no equilibrium, or gradient norms are needed and missing.
            MismatchError: If gradient norms do not fit the weights. All faults at once.
        """
        weights = [weight for weight in found if weight.name in rules]
        raise_all(_faults(weights, rules, gradient_norms))
        return cls(tuple(_converted(found, weight, rules[weight.name], gradient_norms) for weight in weights))

    @property
    def radii(self) -> dict[str, Tensor]:
        """Radius of every block by weight, as ``WeightRescaling.radii`` has it."""
        return {one.name: one.radii for one in self.weights}

    def __repr__(self) -> str:
        return text_of(self.weights)

    def _repr_html_(self) -> str:
        """What a notebook shows: the table of each rule."""
        rules = dict.fromkeys(one.rule for one in self.weights)
        note = "Hold blocks at these radii at the same learning rate; print(recipe) says why, and its limits."
        tables = [
            titled(title_of(rule), rows_of([one for one in self.weights if one.rule == rule]), note)
            for rule in rules
        ]
        return "".join(tables) or titled(repr(self), [])

    def to_dict(self) -> dict[str, Any]:
        """All of it in types that JSON knows."""
        return {"weights": [_to_dict(one) for one in self.weights]}


def _faults(
    weights: Sequence[ScaleInvariantWeight], rules: Mapping[str, DecayRule], gradient_norms: Any
) -> list[Fault]:
    faults: list[Fault] = []
    for rule, name in {rules[weight.name]: weight.name for weight in reversed(weights)}.items():
        try:
            rule.equilibrium(fan_in=1.0, gradient_norm=1.0)
        except InvalidInputError as fault:
            faults.append((InvalidInputError, f"{name}: {fault}"))
    asking = [weight for weight in weights if rules[weight.name].needs_gradient_norm]
    if asking and gradient_norms is None:
        said = (
            f"the norms at which {name_of(rules[asking[0].name])} settles depend on how large gradients are: "
            "measure them in a few hundred steps of your own training, `with decayfree.GradientNorms("
            "optimizer, found) as measured: ...`, and pass gradient_norms=measured"
        )
        faults.append((InvalidInputError, said))
    elif gradient_norms is not None and not isinstance(gradient_norms, Mapping):
        said = f"gradient_norms must map names to tensors (n_blocks,), got {gradient_norms!r}"
        faults.append((InvalidInputError, said))
    elif gradient_norms is not None:
        names = {weight.name for weight in weights}
        others = [key for key in gradient_norms if not isinstance(key, str)]
        if others or (len(gradient_norms) and names.isdisjoint(gradient_norms)):
            keys = ", ".join(map(repr, others or [*gradient_norms][:3]))
            said = f"gradient_norms must map names of weights ({weights[0].name}, …) to tensors, got {keys}"
            faults.append((MismatchError, said))
        for weight in weights:
            if weight in asking or weight.name in gradient_norms:
                faults += faults_of(MismatchError, _norm_faults(weight, gradient_norms))
    return faults


def _norm_faults(weight: ScaleInvariantWeight, gradient_norms: Mapping[str, Any]) -> list[str]:
    try:
        norms = gradient_norms[weight.name]
    except MismatchError as fault:  # GradientNorms says it itself
        return [str(fault)]
    except KeyError:
        return [f"{weight.name}: gradient_norms has no entry for it"]
    if not isinstance(norms, Tensor):
        return [f"{weight.name}: expected a tensor of gradient norms, one for each block, got {norms!r}"]
    if norms.shape != (weight.blocks.n_blocks,):
        return [
            f"{weight.name}: expected gradient norms of shape ({weight.blocks.n_blocks},), one for each "
            f"block, got {tuple(norms.shape)}"
        ]
    if not bool((torch.isfinite(norms) & (norms >= 0)).all()):
        return [f"{weight.name}: gradient norms must be finite and not negative"]
    return []


@torch.no_grad()
def _converted(
    found: Invariance,
    weight: ScaleInvariantWeight,
    rule: DecayRule,
    gradient_norms: Mapping[str, Tensor] | None,
) -> WeightRecipe:
    part = found.parts()[weight.name]
    norms = gradient_norms[weight.name] if gradient_norms is not None and rule.needs_gradient_norm else None
    settled = _settled(rule, weight.block_sizes, part.fan_in, norms)
    row_norms = part.norms().cpu().double() / _sizes(weight).sqrt()
    columns = torch.tensor(
        [
            (math.nan, 0.0, math.inf)
            if one is None
            else (one.fixed_norm or math.nan, one.angle_rad, one.time_constant_steps)
            for one in settled
        ],
        dtype=torch.float64,
    )
    radii = columns[:, 0] / _sizes(weight).sqrt()
    kept = torch.where(row_norms > 0, row_norms, 1.0)
    return WeightRecipe(
        name=weight.name,
        shape=tuple(part.weight.shape),
        rule=rule,
        fan_in=part.fan_in,
        gradient_norms=norms,
        radii=torch.where(torch.isnan(radii), kept, radii),
        angles_rad=columns[:, 1],
        time_constants_steps=columns[:, 2],
    )


def _settled(
    rule: DecayRule, block_sizes: Sequence[int], fan_in: int, norms: Tensor | None
) -> list[Equilibrium | None]:
    """The equilibrium of every block; None without gradient. Equal blocks are worked out once."""
    sizes = [size * fan_in for size in block_sizes]
    values = [None] * len(sizes) if norms is None else norms.cpu().double().tolist()
    known = {
        pair: None if pair[1] == 0 else rule.equilibrium(fan_in=pair[0], gradient_norm=pair[1])
        for pair in set(zip(sizes, values, strict=True))
    }
    return [known[pair] for pair in zip(sizes, values, strict=True)]


def _sizes(weight: ScaleInvariantWeight) -> Tensor:
    return torch.tensor(weight.block_sizes, dtype=torch.float64)


def _to_dict(one: WeightRecipe) -> dict[str, Any]:
    rule = {key: getattr(one.rule, key) for key in settings_of(one.rule)}
    columns = ("gradient_norms", "radii", "lr_at_radius_1", "angles_rad", "time_constants_steps")
    values = {key: getattr(one, key) for key in columns}
    record = {"name": one.name, "shape": list(one.shape), **rule, "fan_in": one.fan_in}
    return record | {key: None if value is None else value.tolist() for key, value in values.items()}
