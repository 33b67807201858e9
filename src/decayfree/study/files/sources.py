"""Of which source was what a study took from its user? Said where it is not the same for all runs.

Compares what records say; runs nothing.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

Sources = Mapping[str, Mapping[str, str]]
"""Dotted name of a setting -> ``name``, ``version`` and ``sha256``, as `RunSettings.sources` gives it."""


def differing(of_runs: Iterable[Sources]) -> list[str]:
    """One sentence for each file or package that runs took from several sources.

    Example:
        >>> source = {"name": "./a.py:Net", "version": ""}
        >>> first, second = ({"model.name": {**source, "sha256": one}} for one in "xy")
        >>> differing([first, first, second])
        ['./a.py is not the same in all runs: x in 2, y in 1']
    """
    counts: dict[str, Counter[str]] = {}
    for sources in of_runs:
        for place, said in dict.fromkeys((_place(one), _said(one)) for one in sources.values()):
            counts.setdefault(place, Counter())[said] += 1
    return [
        f"{name} is not the same in all runs: {', '.join(f'{one} in {n}' for one, n in found.items())}"
        for name, found in counts.items()
        if len(found) > 1
    ]


def change(before: Sources, now: Sources) -> str:
    """What has another source now; empty where nothing has."""
    changed = (
        f"{_place(now[path])} was {_said(before[path])}, and is {_said(now[path])}"
        for path in now
        if path in before and before[path] != now[path]
    )
    return "; ".join(dict.fromkeys(changed))


def sources_from(record: Any) -> Sources:
    """What a record says; raises a `TypeError` where that is none of it."""
    names = {"name", "version", "sha256"}
    for source in record.values():
        if set(source) != names or not all(isinstance(text, str) for text in source.values()):
            raise TypeError("sources: expected a name, a version and a sha256 each")
    return dict(record)


def _place(source: Mapping[str, str]) -> str:
    return source["name"].partition(":")[0]


def _said(source: Mapping[str, str]) -> str:
    return ", ".join(filter(None, (source["version"], source["sha256"][:12]))) or "not known"
