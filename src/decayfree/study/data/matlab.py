"""How much does a MATLAB file hold, before it is read?

Reads no arrays; scipy does.
"""

import struct
import zlib
from pathlib import Path

from decayfree.study.disk import read_bytes

_PACKED, _CHUNK, _HEADER = 15, 1 << 20, 128


def check_size(path: Path, *, at_most: int) -> None:
    """Raise where the parts of a file hold more bytes than it can have: some may be packed.

    Raises:
        OSError: If it cannot be read or is larger itself.
        ValueError: If its parts are.
    """
    content = read_bytes(path, at_most=at_most)
    start, n_left = _HEADER, at_most
    while start + 8 <= len(content):
        kind, n_bytes = struct.unpack_from("<II", content, start)
        if kind == _PACKED:
            part, decoder = content[start + 8 : start + 8 + n_bytes], zlib.decompressobj()
            while part and n_left > 0 and not decoder.eof:
                n_left -= len(decoder.decompress(part, _CHUNK))
                part = decoder.unconsumed_tail
        if n_left <= 0:
            raise ValueError(f"it unpacks to more than {at_most:,} bytes")
        start += 8 + n_bytes
