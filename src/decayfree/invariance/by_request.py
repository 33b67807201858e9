"""Which weights shall be held, or looked at, though they have a scale?

Those that a user names, in the blocks that he says. Measures nothing: whether a weight has a scale,
discovery.py says.
"""

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Literal

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from decayfree.errors import InvalidInputError, closest, faults_of, raise_all
from decayfree.invariance.verdict import ScaleInvariantWeight

By = Literal["row", "whole"] | int
"""Each row by itself, the weight as a whole, or so many equal blocks of rows, such as heads."""


def requested(model: nn.Module, by: Mapping[str, By]) -> dict[str, ScaleInvariantWeight]:
    """The matrices and kernels that the patterns match, by name, each in the blocks of its first pattern.

    Args:
        model: Its trained parameters of two and more dimensions are looked at.
        by: From glob patterns over their names to the blocks.

    Raises:
        InvalidInputError: If a pattern matches none of them, or the rows of one cannot be divided so.
    """
    if not isinstance(by, Mapping) or not all(isinstance(pattern, str) for pattern in by):
        raise InvalidInputError(
            f'by must map patterns over names to "row", "whole" or a number of blocks, got {by!r:.60}'
        )
    trained = {name: one for name, one in model.named_parameters() if one.requires_grad}
    matrices = {name: one for name, one in trained.items() if one.ndim > 1}
    first = {name: next((key for key in by if fnmatchcase(name, key)), None) for name in matrices}
    chosen = {name: by[key] for name, key in first.items() if key is not None}
    unmatched = [key for key in by if not any(fnmatchcase(name, key) for name in matrices)]
    listed = ", ".join(list(matrices)[:4]) + (", …" if len(matrices) > 4 else "")
    faults = [
        f"{key!r} matches none of the {len(matrices)} trained matrices and kernels ({listed})"
        f"{closest(key, matrices)}"
        for key in unmatched
    ]
    faults += [fault for name, how in chosen.items() for fault in _faults(name, matrices[name], how, model)]
    raise_all(faults_of(InvalidInputError, faults))
    return {name: _weight(name, matrices[name], how, model) for name, how in chosen.items()}


def _faults(name: str, matrix: Tensor, how: object, model: nn.Module) -> Iterator[str]:
    if how in ("row", "whole"):
        return
    axis, groups = _layout(model, name)
    n_rows = matrix.shape[axis] * groups
    if not isinstance(how, int) or isinstance(how, bool) or how < 1:
        yield f'{name} wants "row", "whole" or a number of blocks, got {how!r}'
    elif n_rows % how:
        yield f"{name} has {n_rows} rows, which are no {how} equal blocks"


def _weight(name: str, matrix: Tensor, how: By, model: nn.Module) -> ScaleInvariantWeight:
    axis, groups = _layout(model, name)
    n_rows = matrix.shape[axis] * groups
    n_blocks = how if isinstance(how, int) else {"row": n_rows, "whole": 1}[how]
    sizes = (n_rows // n_blocks,) * n_blocks
    return ScaleInvariantWeight(name, None, axis, sizes, (), float("nan"), groups=groups, by_request=True)


def _layout(model: nn.Module, name: str) -> tuple[int, int]:
    """Along which dimension rows run, and how many groups a transposed convolution has."""
    module = model.get_submodule(name.rpartition(".")[0])
    return (1, module.groups) if isinstance(module, _ConvNd) and module.transposed else (0, 1)
