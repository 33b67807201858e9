"""What did the instruments show in a step, and how is that read back from a file?

In full, flat, or in a few numbers. Measures nothing: recorder.py does; sinks.py says where samples go.
"""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

from decayfree.arguments.kinds import checked
from decayfree.errors import InvalidInputError

BRIEF = ("norm", "effective_learning_rate", "angular_update_rad", "radial_share", "distance_to_equilibrium")
"""What `Sample.brief` tells of; the relative update is nearly the angle."""


@dataclass(frozen=True)
class Sample:
    """What the instruments showed in one optimizer step.

    Args:
        run: Letters that tell runs in one file apart; a resumed run keeps them.
        step: The optimizer step that was looked at; the first is 1.
        learning_rates: Of the step, by parameter name.
        weights: By parameter name, instrument and statistic: ``weights["conv1.weight"]["norm"]["mean"]``.
            Statistics run over the blocks of the weight that the instrument is defined for: ``mean``,
            ``min``, ``max``, quantiles such as ``q5``, ``q50``, ``q95`` (in per cent), and ``undefined``, the
            number of blocks that it is not defined for (a block of norm zero has no angle).
    """

    run: str
    step: int
    learning_rates: Mapping[str, float]
    weights: Mapping[str, Mapping[str, Mapping[str, float]]]

    def flat(self, *statistics: str) -> dict[str, float]:
        """One number a key, as loggers want them: ``{"norm/mean/conv1.weight": 1.0, ...}``.

        Args:
            statistics: Only these, such as ``"mean"``; all by default.

        Example:
            >>> Sample("a", 1, {}, {"conv.weight": {"norm": {"mean": 1.0, "max": 2.0}}}).flat("mean")
            {'norm/mean/conv.weight': 1.0}
        """
        return {
            f"{instrument}/{statistic}/{name}": value
            for name, instruments in self.weights.items()
            for instrument, values in instruments.items()
            for statistic, value in values.items()
            if not statistics or statistic in statistics
        }

    def extremes(self) -> dict[str, str]:
        """By instrument of `BRIEF`, the weight whose mean is farthest from the median of all."""
        found = {}
        for instrument in BRIEF:
            means = self._means(instrument)
            if means:
                middle = median(means.values())
                found[instrument] = max(means, key=lambda name: abs(means[name] - middle))
        return found

    def brief(self) -> dict[str, float]:
        """At most 12 numbers, whatever the model: what goes to a logger unless more is asked for.

        Of each instrument of `BRIEF` the mean over all weights of their means, and that of the weight which
        :meth:`extremes` names; the mean learning rate; and the number of readings that are not defined. What
        is not finite is left out.

        Example:
            >>> norms = {name: {"norm": {"mean": norm}} for name, norm in zip("abc", (1.0, 2.0, 6.0))}
            >>> sample = Sample("run", 1, {"a": 0.1}, norms)
            >>> sample.brief()
            {'norm/mean': 3.0, 'norm/extreme': 6.0, 'learning_rate': 0.1, 'undefined': 0.0}
            >>> sample.extremes()
            {'norm': 'c'}
        """
        told: dict[str, float] = {}
        for instrument, name in self.extremes().items():
            means = self._means(instrument)
            told |= {f"{instrument}/mean": fmean(means.values()), f"{instrument}/extreme": means[name]}
        if self.learning_rates:
            told["learning_rate"] = fmean(self.learning_rates.values())
        undefined = (seen.get("undefined", 0.0) for of in self.weights.values() for seen in of.values())
        return told | {"undefined": sum(undefined, start=0.0)}

    def _means(self, instrument: str) -> dict[str, float]:
        means = {name: seen[instrument]["mean"] for name, seen in self.weights.items() if instrument in seen}
        return {name: mean for name, mean in means.items() if math.isfinite(mean)}


@checked()
def read_jsonl(path: str | os.PathLike[str]) -> list[Sample]:
    """Read what `JsonLines` wrote.

    Args:
        path: The file; it may hold several runs.

    Returns:
        The samples in the order of the file, ``null`` as NaN. Of a step that a run took twice (it was resumed
        from before it) the later. Lines that are no sample, such as one that a killed process did not finish,
        are left out with a warning.

    Raises:
        InvalidInputError: If there is no such file.
    """
    file = Path(path)
    if not file.is_file():
        raise InvalidInputError(f"there is no file {file} with samples")
    samples: dict[tuple[str, int], Sample] = {}
    broken = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            sample = Sample(**_with_nan(json.loads(line)))
        except (ValueError, TypeError):
            broken.append(str(number))
            continue
        samples.pop((sample.run, sample.step), None)
        samples[sample.run, sample.step] = sample
    if broken:
        warnings.warn(f"{file}: line {', '.join(broken)} holds no sample and was left out", stacklevel=2)
    return list(samples.values())


def without_nan(value: Any) -> Any:
    """A value for JSON: None for numbers that it does not know, lists for tuples.

    Example:
        >>> without_nan({"norm": (1.0, math.nan), "name": "conv"})
        {'norm': [1.0, None], 'name': 'conv'}
    """
    if isinstance(value, dict):
        return {key: without_nan(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _with_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_nan(part) for key, part in value.items()}
    return math.nan if value is None else value
