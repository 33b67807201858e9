"""How is what each image adds to a score written into a line of text? As bits where it is right or wrong."""

import base64
import binascii
from typing import Any

import numpy as np
import numpy.typing as npt

OfImages = npt.NDArray[np.bool_] | npt.NDArray[np.float32]
"""(n_images,)."""
_IS_NUMBERS = "f"


def text_of_images(values: npt.NDArray[Any]) -> str:
    """(n,), bool or floating, as ``n:`` and base64 of eight bits in a byte, or ``fn:`` and that of float32.

    Nothing of nothing.

    Example:
        >>> text_of_images(np.array([True, False, True, True, False, False, False, False, True]))
        '9:sIA='
        >>> images_of_text('9:sIA=').astype(int).tolist()
        [1, 0, 1, 1, 0, 0, 0, 0, 1]
        >>> text_of_images(np.array([0.5, -2.0]))
        'f2:AAAAPwAAAMA='
    """
    if not len(values):
        return ""
    is_bits = values.dtype == np.bool_
    packed = np.packbits(values) if is_bits else values.astype("<f4")
    return f"{'' if is_bits else _IS_NUMBERS}{len(values)}:{base64.b64encode(packed.tobytes()).decode()}"


def images_of_text(text: str) -> OfImages:
    """The bits, or the numbers in float32, again.

    Raises:
        ValueError: If the text is none of :func:`text_of_images`.
    """
    if not text:
        return np.zeros(0, dtype=np.bool_)
    number, _, encoded = text.removeprefix(_IS_NUMBERS).partition(":")
    try:
        packed = np.frombuffer(base64.b64decode(encoded, validate=True), dtype=np.uint8)
        n_images = int(number)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"expected a number of images and base64, got {text[:40]!r}") from error
    if text.startswith(_IS_NUMBERS):
        values = packed.view("<f4") if len(packed) == 4 * n_images > 0 else np.full(1, np.nan, "<f4")
        if not np.isfinite(values).all():
            raise ValueError(f"expected {n_images} finite numbers of 4 bytes, got {len(packed)} bytes")
        return values.astype(np.float32)
    if not 0 < n_images <= 8 * len(packed) < n_images + 8:
        raise ValueError(f"expected {n_images} bits, got {len(packed)} bytes")
    return np.unpackbits(packed, count=n_images).astype(np.bool_)
