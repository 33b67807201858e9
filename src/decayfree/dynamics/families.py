"""How does an optimizer's step depend on the size of the gradient?

Told from its class, the classes that it derives from, and the names of well-known ones. Says nothing about
how good any is.
"""

import re
from typing import Literal

from torch.optim import Optimizer

from decayfree.errors import InvalidInputError

Family = Literal["sgd", "adam", "sign"]

# Class names in lower case without underscores. A gradient that doubles doubles the step of the first family;
# it leaves those of the others alone, which divide by what they remember of the gradient, or take its sign or
# its directions only.
_FAMILIES: dict[Family, str] = {
    "sgd": "sgd asgd sgdp sgdw accsgd aggmo qhm",
    "adam": (
        "adam adamw nadam nadamw radam adamax sparseadam adagrad adadelta rmsprop rmsproptf adamp adan "
        "adabelief adopt ademamix laprop qhadam soap shampoo stableadamw nvnovograd novograd "
        "yogi mars adafactorbigvision"
    ),
    "sign": "rprop lion tiger signsgd signum muon dion",
}
_FAMILY_OF: dict[str, Family] = {
    name: family for family, names in _FAMILIES.items() for name in names.split()
}
_RELATIVE = (
    "it makes every step a share of the weight's own norm, so that no effective learning "
    "rate depends on that norm"
)
_REFUSED = {
    **dict.fromkeys(("lars", "lamb", "larc", "nero", "fromage", "adafactor"), _RELATIVE),
    "lbfgs": "it takes the length of its step from the curvature, not from the learning rate alone",
    "adahessian": "it takes the length of its step from the curvature, not from the learning rate alone",
    **dict.fromkeys(
        ("dadaptsgd", "dadaptadam", "dadaptlion", "dadaptadagrad", "prodigy"),
        "its learning rate is a factor of one that it estimates",
    ),
}
_SCHEDULE_FREE = (
    "it takes gradients at another point than where the weights are, "
    "and its weights change between train and eval mode"
)
# The same rule in another implementation: FusedAdam, PagedAdamW8bit, DeepSpeedCPUAdam, SingleDeviceMuon.
_IMPLEMENTATIONS = re.compile(
    r"^(fused|paged|distributed|deepspeed|cpu|singledevice)+|(8bit|4bit|32bit|fp8|legacy|foreach)+$"
)


def update_family(optimizer: Optimizer) -> Family:
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
    kinds = [kind.__name__ for kind in type(optimizer).__mro__]
    for kind in kinds:
        name = kind.lower().replace("_", "")
        if "schedulefree" in name:
            raise InvalidInputError(_refusal(kind, _SCHEDULE_FREE))
        name = _IMPLEMENTATIONS.sub("", name)
        if name in _REFUSED:
            raise InvalidInputError(_refusal(kind, _REFUSED[name]))
        if name in _FAMILY_OF:
            return _FAMILY_OF[name]
    raise InvalidInputError(
        f"nobody knows how the step of {kinds[0]} depends on the gradient's size, "
        "so its effective learning rate is unknown: say "
        'family="sgd" if a gradient that doubles doubles the step, '
        '"adam" or "sign" if it leaves the step alone'
    )


def _refusal(kind: str, reason: str) -> str:
    return f"{kind} has no effective learning rate of the form η/‖w‖² or η/‖w‖: {reason}"
