"""How does an optimizer's step depend on the size of the gradient?

Told from its class, the classes that it derives from, and the table of well-known ones, optimizers.py. Says
nothing about how good any is.
"""

from torch.optim import Optimizer

from decayfree.errors import InvalidInputError
from decayfree.optimizers import UpdateFamily, row_of

_SCHEDULE_FREE = (
    "it takes gradients at another point than where the weights are, "
    "and its weights change between train and eval mode"
)


def update_family(optimizer: Optimizer) -> UpdateFamily:
    """Which way an optimizer's step depends on the gradient's size.

    And with it the effective learning rate on the norm.

    Args:
        optimizer: Any; the nearest of its class and the classes that it derives from that is known by name
            counts.

    Returns:
        ``"sgd"``: the step grows with the gradient, so that the effective learning rate is η/‖w‖².
        ``"adam"``: the step is divided by the gradient's remembered size; ``"sign"``: it knows the gradient's
        signs or directions only; for both η/‖w‖.

    Raises:
        InvalidInputError: If the optimizer is unknown, or follows neither rule: LARS, LAMB and torch's
            Adafactor (steps relative to the norm), schedule-free ones, L-BFGS, those that estimate their
            learning rate.

    Example:
        >>> import torch
        >>> weight = torch.nn.Parameter(torch.ones(2))
        >>> update_family(torch.optim.SGD([weight], lr=0.1)), update_family(torch.optim.AdamW([weight]))
        ('sgd', 'adam')
    """
    if not isinstance(optimizer, Optimizer):
        raise InvalidInputError(f"optimizer must be a torch.optim.Optimizer, got {optimizer!r:.60}")
    for kind in type(optimizer).__mro__:
        if "schedulefree" in kind.__name__.lower().replace("_", ""):
            raise InvalidInputError(_refusal(kind, _SCHEDULE_FREE))
        row = row_of(kind, in_any_implementation=True)
        if row is not None and row.family is None:
            raise InvalidInputError(_refusal(kind, row.refused))
        if row is not None and row.family is not None:
            return row.family
    raise InvalidInputError(
        f"nobody knows how the step of {type(optimizer).__name__} depends on the gradient's size, "
        "so its effective learning rate is unknown: say "
        'family="sgd" if a gradient that doubles doubles the step, '
        '"adam" or "sign" if it leaves the step alone'
    )


def _refusal(kind: type, reason: str) -> str:
    return f"{kind.__name__} has no effective learning rate of the form η/‖w‖² or η/‖w‖: {reason}"
