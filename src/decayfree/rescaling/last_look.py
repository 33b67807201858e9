"""Has anybody written to weights since they were last looked at?

Tells by the parameters' version counters and addresses, without a pass over memory. What is written through
``.data``, through numpy or by a kernel that raises no version stays unseen.
"""

from collections.abc import Sequence
from operator import attrgetter

from torch import Tensor, nn

from decayfree.shards import is_sharded

_version = attrgetter("_version")


class LastLook:
    """What was to be seen of some tensors when they were last looked at; nothing before the first look."""

    def __init__(self) -> None:
        self._seen: list[int] | None = None

    def look(self, tensors: Sequence[Tensor]) -> None:
        """Take them as they are now."""
        self._seen = _marks(tensors)

    def is_as_seen(self, tensors: Sequence[Tensor]) -> bool:
        """Whether nobody has written to them, or moved them, since the last look."""
        return self._seen == _marks(tensors)


def _marks(tensors: Sequence[Tensor]) -> list[int]:
    """Versions and addresses; made in inference mode, a tensor has no version."""
    try:
        versions = list(map(_version, tensors))
    except RuntimeError:
        versions = [0 if tensor.is_inference() else tensor._version for tensor in tensors]
    return versions + [
        tensor.data_ptr() if type(tensor) is nn.Parameter else _address(tensor) for tensor in tensors
    ]


def _address(tensor: Tensor) -> int:
    part: Tensor = tensor.to_local() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]
    return part.data_ptr()
