"""What must something of the user's own be, that a study names by where it is?

One row for each kind, and how it is called. Loads nothing before it is asked for.
"""

import types
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from decayfree.arguments.address import Address, Args
from decayfree.errors import InvalidInputError
from decayfree.methods.method import Method


@dataclass(frozen=True)
class OwnKind:
    """What something of the user's own must be.

    Attributes:
        called: How it is called, in words.
        gives: What it then gives, in words.
        kinds: The same as classes; empty where only a file that trains knows them.
    """

    called: str
    gives: str
    kinds: tuple[type, ...] = ()


OWN: Mapping[str, OwnKind] = {
    "model.name": OwnKind(
        "NAME(**args), and with n_classes and image_size, (height, width), where it has these parameters",
        "a torch.nn.Module that takes images, (n, 3, height, width), and gives what its task looks at; for "
        "classification logits, (n, n_classes)",
        (nn.Module,),
    ),
    "optimizer.name": OwnKind(
        "NAME(groups, lr=learning_rate, **args); each group has its params and their weight_decay",
        "a torch.optim.Optimizer",
        (Optimizer,),
    ),
    "method.name": OwnKind("NAME(**args)", "a decayfree.methods.Method", (Method,)),
    "data.name": OwnKind(
        "NAME(**args), and with data_dir where it has this parameter",
        "(images, truth) to train on and (images, truth) to test with; images are uint8, (n, height, width) "
        "or (n, 3, height, width), and truth for classification (n,), whole numbers from 0",
        (tuple, list),
    ),
    "task": OwnKind(
        "NAME(**args)", "an object with build, outputs, loss and evaluate, as decayfree.study.tasks has"
    ),
    "schedule": OwnKind(
        "NAME(share_done, **args); of the steps of a cycle, from 0 to below 1",
        "what the learning rate is multiplied by, a finite number from 0",
        (int, float),
    ),
    "data.augmentation": OwnKind(
        "NAME(images, generator, **args); a batch to train on, float32, standardized, "
        "(n, 1 or 3, height, width), and a torch.Generator on the CPU, seeded by the run's seed and the step",
        "images of the same shape and dtype",
        (Tensor,),
    ),
}
"""By the setting that names it."""


def own(
    kind: str,
    address: Address,
    *given: Any,
    args: Args,
    also: Mapping[str, Any] = types.MappingProxyType({}),
    gives: type | None = None,
) -> Any:
    """What something of the user's own makes.

    Args:
        kind: One of `OWN`.
        address: Where it is.
        given: Its first arguments.
        args: By name.
        also: By name too, where it has parameters of these names.
        gives: A class in place of that in `OWN`.

    Raises:
        InvalidInputError: If it is not what it must be; begins with the name of the setting.
    """
    asked = OWN[kind]
    kinds = (gives,) if gives else asked.kinds
    try:
        return address.call(*given, args=args.to_dict(), also=also, gives=kinds, said=asked.gives)
    except InvalidInputError as error:
        raise InvalidInputError(f"{kind}: {error}") from error


def source_of(name: str) -> tuple[str, ...]:
    """For caches: where this is another, the name is another thing; empty if it is built in."""
    if not isinstance(name, Address):
        return ()
    source = name.source()
    return source.version, source.sha256, *map(str, source.files.values())
