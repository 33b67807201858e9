"""What a run of Weights & Biases has kept offline, read from its file: records in LevelDB's log format."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_HEADER, _BLOCK, _RECORD = 7, 1 << 15, 7
_WHOLE, _FIRST, _LAST = 1, 2, 4


def history(path: Path) -> list[dict[str, Any]]:
    """The rows that a run logged, in their order."""
    from wandb.proto.wandb_internal_pb2 import Record

    rows = []
    for content in _records(path.read_bytes()):
        record = Record.FromString(content)
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            rows.append({one.key or "/".join(one.nested_key): json.loads(one.value_json) for one in items})
    return rows


def _records(content: bytes) -> Iterator[bytes]:
    at, parts = _HEADER, b""
    while at + _RECORD <= len(content):
        left = _BLOCK - at % _BLOCK
        if left < _RECORD:  # the rest of a block is filled up
            at += left
            continue
        size, kind = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
        part = content[at + _RECORD : at + _RECORD + size]
        at += _RECORD + size
        parts = part if kind in (_WHOLE, _FIRST) else parts + part
        if kind in (_WHOLE, _LAST):
            yield parts
