"""What norm is each block held at?

Turns the ``radius`` argument into one number a block, and collects everything that is wrong with it.
"""

import fnmatch
import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from decayfree.blocks import Blocks, Part, norm_dtype
from decayfree.errors import InvalidInputError, closest

# What float32 holds with room for √rows and for squares.
_LEAST, _MOST = 1e-18, 1e18

Radius = float | Literal["init"] | Mapping[str, float | Literal["init"] | Tensor]


def radius_faults(radius: Radius, names: Sequence[str]) -> list[str]:
    """Everything that is wrong with a ``radius`` argument for weights of these names."""
    if not isinstance(radius, Mapping):
        return _value_faults(radius, "radius")
    if not all(isinstance(pattern, str) for pattern in radius):
        return [f"radius: patterns must be strings, got {list(radius)!r}"]
    faults = [
        fault
        for pattern, value in radius.items()
        for fault in _value_faults(value, f"radius[{pattern!r}]", by_block=True)
    ]
    listed = ", ".join(names[:4]) + (", …" if len(names) > 4 else "")
    unmatched = [pattern for pattern in radius if not fnmatch.filter(names, pattern)]
    return faults + [
        f"radius: {pattern!r} matches none of the {len(names)} weights ({listed}){closest(pattern, names)}"
        for pattern in unmatched
    ]


def is_initial(radius: Radius) -> bool:
    """Whether any radius is what blocks have."""
    said = radius.values() if isinstance(radius, Mapping) else [radius]
    return any(isinstance(one, str) for one in said)


def radius_of(radius: Radius, name: str, part: Part, *, keeps_its_own: bool = False) -> Tensor:
    """Radius of every block, (n_blocks,), norm a row: that of the first pattern that matches, else 1.

    With ``keeps_its_own`` it is the norm that the block has, unless a pattern matches. NaN where it is what
    blocks of a sharded weight have: they are measured all together.

    Raises:
        InvalidInputError: If a tensor of radii is not one for each block.
    """
    weight, blocks = part.weight, part.blocks
    if isinstance(radius, Mapping):
        unnamed: float | Literal["init"] = "init" if keeps_its_own else 1.0
        matching = (value for pattern, value in radius.items() if fnmatch.fnmatchcase(name, pattern))
        value = next(matching, unnamed)
        if not isinstance(value, Tensor):
            return radius_of(value, name, part)
        if value.shape != (blocks.n_blocks,):
            raise InvalidInputError(
                f"radius of {name}: expected one for each of its {blocks.n_blocks} blocks, "
                f"got shape {tuple(value.shape)}"
            )
        return value.detach().to(device=weight.device, dtype=norm_dtype(weight), copy=True)
    if isinstance(radius, str) or keeps_its_own:  # "init"
        own = part.each(Tensor.detach)
        nothing = torch.full((blocks.n_blocks,), math.nan, dtype=norm_dtype(weight), device=weight.device)
        return nothing if part.is_sharded else own.norms() / rows_norm(blocks, weight)
    return torch.full((blocks.n_blocks,), float(radius), dtype=norm_dtype(weight), device=weight.device)


def rows_norm(blocks: Blocks, weight: Tensor) -> Tensor:
    """√(rows of each block), (n_blocks,): the norm of a block of unit radius."""
    return torch.tensor(blocks.block_sizes, dtype=norm_dtype(weight), device=weight.device).sqrt()


def _value_faults(value: object, name: str, *, by_block: bool = False) -> list[str]:
    if isinstance(value, Tensor) and by_block:
        in_range = value.is_floating_point() and bool(((value >= _LEAST) & (value <= _MOST)).all())
        return [] if in_range else [f"{name} must hold positive numbers, one for each block, got {value!r}"]
    if isinstance(value, str) and value == "init":
        return []
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not _LEAST <= float(str(value)) <= _MOST:
        return [f'{name} must be a positive number or "init", got {value!r}']
    return []
