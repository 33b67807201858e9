"""Has anybody written to weights since they were last looked at?

Tells by the parameters' version counters and addresses, without a pass over memory. What is written through
``.data``, through numpy or by a kernel that raises no version stays unseen.
"""

from collections.abc import Sequence

from torch import Tensor

from decayfree.blocks import is_sharded


class LastLook:
    """What was to be seen of some tensors when they were last looked at; nothing before the first look."""

    def __init__(self) -> None:
        self._seen: list[tuple[int, int]] | None = None

    def look(self, tensors: Sequence[Tensor]) -> None:
        """Take them as they are now."""
        self._seen = [_mark(tensor) for tensor in tensors]

    def is_as_seen(self, tensors: Sequence[Tensor]) -> bool:
        """Whether nobody has written to them, or moved them, since the last look."""
        return self._seen == [_mark(tensor) for tensor in tensors]


def _mark(tensor: Tensor) -> tuple[int, int]:
    part: Tensor = tensor.to_local() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]
    return 0 if tensor.is_inference() else tensor._version, part.data_ptr()
