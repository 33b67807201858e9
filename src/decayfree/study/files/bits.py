"""How is one bit an image written into a line of text?"""

import base64
import binascii

import numpy as np
import numpy.typing as npt

Bits = npt.NDArray[np.bool_]


def text_of_bits(bits: Bits) -> str:
    """(n,), bool, as ``n:`` and base64 of eight of them in a byte; nothing of nothing.

    Example:
        >>> text_of_bits(np.array([True, False, True, True, False, False, False, False, True]))
        '9:sIA='
        >>> bits_of_text('9:sIA=').astype(int).tolist()
        [1, 0, 1, 1, 0, 0, 0, 0, 1]
    """
    packed = np.packbits(bits)
    return f"{len(bits)}:{base64.b64encode(packed.tobytes()).decode()}" if len(bits) else ""


def bits_of_text(text: str) -> Bits:
    """The bits again.

    Raises:
        ValueError: If the text is none of :func:`text_of_bits`.
    """
    if not text:
        return np.zeros(0, dtype=np.bool_)
    number, _, encoded = text.partition(":")
    try:
        packed = np.frombuffer(base64.b64decode(encoded, validate=True), dtype=np.uint8)
        n_bits = int(number)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"expected a number of bits and base64, got {text[:40]!r}") from error
    if not 0 < n_bits <= 8 * len(packed) < n_bits + 8:
        raise ValueError(f"expected {n_bits} bits, got {len(packed)} bytes")
    return np.unpackbits(packed, count=n_bits).astype(np.bool_)
