"""Spectra of weights as means over seeds: energy and input variance, relative to an even spread.

It writes no text and draws nothing.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

from decayfree.report.numbers.series import Cell
from decayfree.study.files.results import Run, Spectrum


@dataclass(frozen=True)
class MeanSpectrum:
    """One weight at one moment, mean over ``n`` runs; bins of input directions, most variance first."""

    ranks: tuple[float, ...]
    """Where the middle of a bin is among all directions, from 0 to 1."""
    energy: tuple[float, ...]
    """Share of a row's squared norm in the bin, over the share of the directions that are in it: 1 where it
    is spread evenly.
    """
    variance: tuple[float, ...]
    """The same of the input variance."""
    main_energy: float
    """Share of a row's squared norm in the directions that hold 99 % of the input variance."""
    n_main: tuple[int, ...]
    """How many directions these are, in each run."""
    n_directions: int
    n: int


def first_spectrum(methods: Sequence[Cell], weight: str) -> MeanSpectrum | None:
    """The spectrum before the first step, over all runs of these methods; None where it was not recorded."""
    return _mean([run.spectra[0].get(weight) for run in _runs(methods) if 0 in run.spectra])


def last_spectrum(methods: Sequence[Cell], weight: str) -> MeanSpectrum | None:
    """The spectrum after the last step, over all runs of these methods; None where it was not recorded."""
    return _mean(
        [run.spectra[run.n_steps].get(weight) for run in _runs(methods) if run.n_steps in run.spectra]
    )


def _runs(methods: Sequence[Cell]) -> list[Run]:
    return [run for method in methods for run in method.runs.values()]


def _mean(spectra: Sequence[Spectrum | None]) -> MeanSpectrum | None:
    """The mean of those that are there and finite; all are of the same weight and so of the same bins."""
    known = [one for one in spectra if one is not None and all(map(math.isfinite, one.energy + one.variance))]
    if not known:
        return None
    edges, n_directions = known[0].edges, known[0].n_directions
    widths = [(end - begin) / n_directions for begin, end in pairwise(edges)]
    return MeanSpectrum(
        ranks=tuple((begin + end) / 2 / n_directions for begin, end in pairwise(edges)),
        energy=_relative([one.energy for one in known], widths),
        variance=_relative([one.variance for one in known], widths),
        main_energy=fmean(one.main_energy for one in known),
        n_main=tuple(one.n_main for one in known),
        n_directions=n_directions,
        n=len(known),
    )


def _relative(shares: Sequence[Sequence[float]], widths: Sequence[float]) -> tuple[float, ...]:
    return tuple(
        fmean(column) / width for column, width in zip(zip(*shares, strict=True), widths, strict=True)
    )
