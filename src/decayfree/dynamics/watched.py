"""Which weights do the instruments look at, where those without a scale are not all?

Every matrix of a model, in blocks. Measures nothing: recorder.py does.
"""

from collections.abc import Mapping

import torch
from torch import nn

from decayfree.arguments.wrappers import model_faults, plain
from decayfree.attachment import found_faults
from decayfree.errors import InvalidInputError, faults_of, raise_all
from decayfree.invariance.by_request import By
from decayfree.invariance.result import Invariance
from decayfree.invariance.verdict import Verdict


class Watched:
    """Every trained matrix and kernel of a model, for :class:`decayfree.Recorder`; nobody holds them.

    Args:
        weights: Those that have a scale by request, in the blocks that they are looked at in.
    """

    def __init__(self, weights: Invariance) -> None:
        self.weights = weights

    def __repr__(self) -> str:
        n_blocks = sum(weight.blocks.n_blocks for weight in self.weights)
        n_invariant = sum(not weight.by_request for weight in self.weights)
        return f"Watched({len(self.weights)} weights, {n_invariant} without a scale, {n_blocks:,} blocks)"


def watch(
    model: nn.Module, found: Invariance | None = None, *, by: Mapping[str, By] | None = None
) -> Watched:
    """What the instruments need of every trained matrix and kernel of a model, whether it has a scale or not.

    Nothing is probed, so that it costs nothing and wants no inputs.

    Args:
        model: Parameters of two and more dimensions are looked at.
        found: From :func:`decayfree.find_invariant`: its weights are looked at in their blocks, and have an
            effective learning rate and a gradient at unit radius, which nothing with a scale has.
        by: For the others, from glob patterns over names to ``"row"``, ``"whole"``, or a number of equal
            blocks of rows (attention heads); rows where no pattern matches.

    Raises:
        InvalidInputError: If ``model`` is no model, a pattern matches no matrix, or the rows of one cannot be
            divided so.
        MismatchError: If ``found`` does not fit ``model``.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> watch(model, by={"2.*": "whole"})
        Watched(2 weights, 0 without a scale, 9 blocks)
    """
    faults = model_faults(model) + ([] if found is None else found_faults(found))
    raise_all(faults_of(InvalidInputError, faults))
    model = plain(model)
    if found is None:
        verdicts = {
            name: Verdict(name, "undecided", "nobody has probed it", float("nan"), tuple(one.shape))
            for name, one in model.named_parameters()
        }
        found = Invariance(model, [], verdicts, dtype=torch.get_default_dtype(), confirmed_to=float("nan"))
    else:
        found.check_fits(model)
        found = Invariance.from_dict(found.to_dict(), model) if found.model is not model else found
    by = {} if by is None else by
    return Watched(found.by_request({**by, "*": by.get("*", "row")} if isinstance(by, Mapping) else by))
