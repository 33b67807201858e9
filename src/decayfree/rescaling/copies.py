"""What becomes of copies of the weights (averages, teachers) that exist when their norms are set?

Scales them by the factors of the live weights, so that an average goes on as if these had been scaled from
the start. Moves no live weight.
"""

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from decayfree.arguments.stored import unsupported_weights
from decayfree.arguments.wrappers import averages_of, model_faults, plain
from decayfree.blocks import norms_of, scale_blocks_
from decayfree.errors import (
    Fault,
    InvalidInputError,
    MismatchError,
    UnsupportedWeightError,
    faults_of,
    listed,
)
from decayfree.invariance.result import Invariance
from decayfree.rescaling.following import follow_statistics_
from decayfree.rescaling.held import Held, held_of, relations_of
from decayfree.rescaling.sharded import Shifts

# An average of vectors of one norm is never longer than they are.
_LONGER = 1e-3
# Factors of all weights within this share of 1 leave an average as it was, for all that it averages.
_UNMOVED = 1e-2


def copies_of(copies: nn.Module | Iterable[nn.Module]) -> list[nn.Module]:
    """Copies as a list, each once, without what people wrap around them; others are left to copy_faults."""
    several = isinstance(copies, Iterable) and not isinstance(copies, nn.Module | Tensor)
    given: Iterable[Any] = copies if several else [copies]  # type: ignore[assignment]
    inside = [plain(one) if isinstance(one, nn.Module) else one for one in given]
    return list({id(one): one for one in inside}.values())


def copy_faults(copies: Sequence[object], found: Invariance) -> list[Fault]:
    """What speaks against scaling these copies along."""
    faults: list[Fault] = []
    live = {id(tensor): "the model" for tensor in found.model.parameters()}
    for index, one in enumerate(copies):
        faults += faults_of(InvalidInputError, (f"of the copies a {fault}" for fault in model_faults(one)))
        if isinstance(one, nn.Module):
            misfits = found.misfits(one)
            faults += faults_of(MismatchError, ["; ".join(misfits[:4])][: len(misfits)])
            parameters = {name: part.weight for name, part in found.parts(one).items()} if not misfits else {}
            shared = [name for name, weight in parameters.items() if id(weight) in live]
            faults += faults_of(
                InvalidInputError,
                [
                    f"copies[{index}] has {listed(shared)} in common with {live[id(parameters[shared[0]])]}, "
                    "so that it would be scaled twice: a copy has weights of its own"
                ]
                if shared
                else [],
            )
            live |= {id(weight): f"copies[{index}]" for weight in parameters.values()}
            faults += faults_of(UnsupportedWeightError, unsupported_weights(parameters))
    return faults


@torch.no_grad()
def scale_copies_(
    copies: Sequence[nn.Module], found: Invariance, factors: Mapping[str, Tensor], *, stacklevel: int
) -> None:
    """Multiply the blocks of copies by factors, by name (n_blocks,), and let their statistics follow.

    Warns of averages of the model that are there and are not among them, where its weights have moved.
    """
    weights = [found[name] for name in factors]
    for model in copies:
        parameters = dict(model.named_parameters())
        follow_statistics_(model, relations_of(weights, factors), Shifts(model, weights).now())
        for weight in weights:
            part = weight.part(parameters)
            for tensor, blocks in zip(part.tensors, (part.blocks, part.blocks.of_bias), strict=False):
                scale_blocks_(tensor, factors[weight.name].to(tensor.device), blocks)
    if all(bool(((values - 1).abs() <= _UNMOVED).all()) for values in factors.values()):
        return
    followed = set(map(id, copies))
    left = [type(one).__name__ for one in averages_of(found.model) if id(plain(one)) not in followed]
    if left:
        warnings.warn(
            f"an {left[0]} of this model keeps weights of their old norms, and will average them with others "
            "by their length: pass it as copies=, or make it after this",
            stacklevel=stacklevel + 1,
        )


def longer(
    copies: Iterable[nn.Module], found: Invariance, held: Sequence[Held], radii: Mapping[str, Tensor]
) -> Iterator[str]:
    """Copies with blocks that are longer than the radius, which an average of held weights never is."""
    for index, model in enumerate(copies):
        faults = copy_faults([model], found)
        if faults:
            yield f"copies[{index}] does not fit: {'; '.join(fault for _, fault in faults)}"
            continue
        names = {one.name for one in held}
        theirs = held_of(model, [weight for weight in found if weight.name in names], radii)
        norms = dict(zip((one.name for one in theirs), norms_of(theirs), strict=True))
        shares = {
            one.name: float((norms[one.name] / one.targets).nan_to_num(0.0, 0.0, 0.0).max()) for one in theirs
        }
        broken = [name for name, values in norms.items() if not bool(torch.isfinite(values).all())]
        if broken:
            yield f"copies[{index}] holds NaN or infinity in {listed(broken)}"
        worst = max(shares, key=lambda name: shares[name], default=None)
        if worst and shares[worst] > 1 + _LONGER:
            yield (
                f"copies[{index}] is {shares[worst]:.3g} times as long as the radius in {worst}, as no "
                "average of held weights is: it was made before they were rescaled; put it on the radius "
                "with decayfree.rescale_(copy, found), or make it anew"
            )
