"""Do the outputs, or the gradients, show anything but rounding?

Asks every normalization by itself, since in a deep network small changes grow from layer to layer. Knows no
weights.
"""

from collections.abc import Mapping

from torch import Tensor

from decayfree.errors import InvalidInputError
from decayfree.invariance.probe import Probe, Ran

_DECIDED = 1e-2  # rounding decides what it moves by this share


class RoundingDecidesError(Exception):
    """Some normalization sees only the variance of rounding and blows it up: the copy wants a larger ε."""


def moved_by_rounding(probe: Probe, outputs: list[Tensor]) -> float:
    """By how much rounding alone may move the outputs of a deep network, whose gradients grow.

    Args:
        probe: Runs once more.
        outputs: Of its newest run.

    Raises:
        RoundingDecidesError: If a normalization sees nothing but rounding.
        InvalidInputError: If the outputs are nothing but rounding.
    """
    of_a_normalization, of_outputs = probe.jittered(outputs)
    # With a larger ε a few constant channels do no harm.
    if of_a_normalization > (_DECIDED if probe.eps < 1e-20 else 0.5):
        raise RoundingDecidesError
    if of_outputs > _DECIDED:
        raise InvalidInputError(
            f"rounding at the normalizations moves the model's outputs by {of_outputs:.1g}, so nothing can "
            "be measured: its gradients grow with every layer (many layers without shortcuts?)"
        )
    return 30 * of_outputs


def has_constant_channels(ran: Ran, kept: Mapping[str, float]) -> bool:
    """Whether a normalization with running statistics saw no variance in most of its channels.

    Args:
        ran: A run.
        kept: By module, the share of its old running statistics that a run leaves in them.
    """
    for name, share in kept.items():
        start, left = ran.start[name], ran.statistics[name]
        mean, var = left.mean - share * start.mean, left.var - share * start.var
        if 2 * int((var <= 1e-13 * (start.var.abs() + mean.square())).sum()) > len(var):
            return True
    return False
