"""A search over learning rate and weight decay: Optuna proposes, ordinary runs answer by validation accuracy.

Never looks at a test accuracy. What a killed search asked it asks again, since proposals are seeded, and
finds it answered: runs are kept by their settings, so nothing is trained twice and no state but theirs needs
to survive.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from decayfree.arguments.kinds import SEED, checked
from decayfree.errors import InvalidInputError, extra_needed
from decayfree.study.disk import replace_text
from decayfree.study.files.checkpoint import read_state
from decayfree.study.files.integrity import full_disk_explained
from decayfree.study.files.results import ROWS_FILE, read_rows, run_directory
from decayfree.study.run_settings import RunSettings
from decayfree.study.runner.run_study import GO_ON, Clock, Progress, StudyOutcome, run_study
from decayfree.study.search.searches import DECAY, Search, Trial, best_spec, decay_of, labels_of, searched_for
from decayfree.study.spec.checks import MAX_RUNS
from decayfree.study.spec.study_spec import StudySpec

TRIALS_FOLDER, TRIALS_FILE, BEST_FILE = "tuning", "tuning.jsonl", "best.toml"
_N_RANDOM = 5
"""So many random proposals for each searched setting, before the sampler has anything to learn from."""
_DIGITS = 3
"""Proposals are rounded to so many digits: nobody needs more of a learning rate."""


@dataclass(frozen=True)
class Ranges:
    """Between which values to search, evenly on a logarithmic scale."""

    learning_rate: tuple[float, float] | None = None
    """None for a decade to either side of the spec's."""
    weight_decay: tuple[float, float] = (1e-5, 1e-1)

    def __post_init__(self) -> None:
        for name in ("learning_rate", "weight_decay"):
            ends = getattr(self, name)
            if ends is not None and not 0 < ends[0] < ends[1] < math.inf:
                raise InvalidInputError(
                    f"{name}: expected two finite numbers above 0, the smaller first, got "
                    f"{ends[0]:g},{ends[1]:g}"
                )


@dataclass(frozen=True)
class TuneOutcome:
    """How a search ended."""

    searches: tuple[Search, ...]
    left_out: tuple[str, ...]
    """Methods that replay the norms of other runs: they have no settings of their own to search for."""
    best_file: Path | None
    """The spec that evaluates what was found; None where the search did not come to its end."""
    stopped_by: StudyOutcome | None = None
    """How the runs of the last trial ended, where that ended the search: by Ctrl-C, or by a failed run, since
    settings are not to be blamed for a missing file.
    """

    @property
    def n_trials(self) -> int:
        """Trials that are done."""
        return sum(len(search.trials) for search in self.searches)


@checked(seed=SEED)
def tune(
    spec: StudySpec,
    out: str | Path,
    *,
    n_trials: int,
    methods: Sequence[str] | None = None,
    ranges: Ranges | None = None,
    n_test_seeds: int = 5,
    seed: int = 0,
    n_jobs: int = 2,
    on_progress: Callable[[Progress], None] | None = None,
    on_stopping: Callable[[], None] | None = None,
    **elsewhere: Any,
) -> TuneOutcome:
    """Search the learning rate and any weight decay of every method and axis value of ``spec``.

    Its values of the two settings are where the search begins; its seeds are trained in every trial.

    Args:
        spec: What to search for; of its methods, only ``methods`` where these are named.
        out: Its ``tuning`` folder gets the runs, ``tuning.jsonl`` the trials, ``best.toml`` the spec that
            evaluates what was found, with ``n_test_seeds`` seeds that ``spec`` does not have.
        n_trials: For each search, proposed from ``seed`` on; calling again with more goes on.
        elsewhere: Passed on to `run_study`, as the jobs and the callbacks are; ``n_done`` counts trials.

    Raises:
        InvalidInputError: If nothing can be searched for, or there is no validation data to choose by.
        MissingExtraError: If optuna is not installed.
        DiskFullError: As `run_study`.
    """
    out = Path(out)
    if n_trials < 1:
        raise InvalidInputError(f"n_trials must be at least 1, got {n_trials}")
    if n_test_seeds < 1:
        raise InvalidInputError(f"n_test_seeds must be at least 1, got {n_test_seeds}")
    if n_test_seeds > MAX_RUNS:
        raise InvalidInputError(f"n_test_seeds must be at most {MAX_RUNS:,}, got {n_test_seeds}")
    starts, left_out = searched_for(spec, methods)
    proposers = [_Proposer(start, ranges or Ranges(), seed) for start in starts]
    watch = _Watch(len(starts) * n_trials, on_progress or (lambda progress: None))
    searches = [Search(label, start) for label, start in zip(labels_of(starts), starts, strict=True)]
    if starts:  # what cannot be written down at the end is not searched for
        best_spec(spec, [_untried(search) for search in searches], n_seeds=n_test_seeds)
    for number in range(n_trials):  # every search gets its turn, so that a stopped one has something of each
        for index, proposer in enumerate(proposers):
            proposed = proposer.propose()
            watch.label = f"{searches[index].label}, trial {number + 1} of {n_trials}"
            outcome = run_study(
                _trial_spec(spec, proposed),
                out / TRIALS_FOLDER,
                n_jobs=n_jobs,
                on_progress=watch.look,
                on_stopping=on_stopping,
                **elsewhere,
            )
            if outcome.interrupted or outcome.n_failed:
                return TuneOutcome(tuple(searches), left_out, None, stopped_by=outcome)
            trial = _trial(number, proposed, spec.seeds, out / TRIALS_FOLDER)
            proposer.tell(trial.validation_score)
            searches[index] = dataclasses.replace(searches[index], trials=(*searches[index].trials, trial))
            with full_disk_explained(out, GO_ON):
                replace_text(out / TRIALS_FILE, _records(searches))
            watch.trial_is_done()
    best = best_spec(spec, searches, n_seeds=n_test_seeds)
    with full_disk_explained(out, GO_ON):
        replace_text(out / BEST_FILE, best.to_toml())
    return TuneOutcome(tuple(searches), left_out, out / BEST_FILE)


def _untried(search: Search) -> Search:
    """The search as if its start were all that it has tried."""
    start = search.start
    trial = Trial(0, start.recipe.learning_rate, decay_of(start.method), 0.0, ())
    return dataclasses.replace(search, trials=(trial,))


class _Proposer:
    """Optuna's sampler for one search, in memory: same seed and same answers give the same proposals."""

    def __init__(self, start: RunSettings, ranges: Ranges, seed: int) -> None:
        self._start, self._optuna = start, _optuna()
        center = start.recipe.learning_rate
        self._ranges = {"learning_rate": ranges.learning_rate or (center / 10, center * 10)}
        started_at = {"learning_rate": center}
        decay = decay_of(start.method)
        if decay is not None:
            self._ranges[DECAY] = ranges.weight_decay
            started_at[DECAY] = decay
        sampler = self._optuna.samplers.TPESampler(seed=seed, n_startup_trials=_N_RANDOM * len(self._ranges))
        self._study = self._optuna.create_study(direction="maximize", sampler=sampler)
        if all(low <= started_at[name] <= high for name, (low, high) in self._ranges.items()):
            self._study.enqueue_trial(started_at)

    def propose(self) -> RunSettings:
        """The settings to train next."""
        self._asked = self._study.ask()
        values = {
            name: float(f"{self._asked.suggest_float(name, *ends, log=True):.{_DIGITS}g}")
            for name, ends in self._ranges.items()
        }
        recipe = dataclasses.replace(self._start.recipe, learning_rate=values.pop("learning_rate"))
        method = dataclasses.replace(self._start.method, **values)  # type: ignore[type-var]
        return RunSettings(method, self._start.seed, recipe)

    def tell(self, accuracy: float) -> None:
        """What came of the settings proposed last."""
        self._study.tell(self._asked, accuracy)


class _Watch:
    """How far all searches together are, from how far the study of the present trial is."""

    def __init__(self, n_total: int, on_progress: Callable[[Progress], None]) -> None:
        self.label = ""
        self._n_done, self._n_total, self._on_progress = 0, n_total, on_progress
        self._clock: Clock | None = None

    def look(self, progress: Progress) -> None:
        fraction = (self._n_done + progress.fraction) / self._n_total
        if self._clock is None and progress.fraction < 1:  # the trials before this one were there already
            self._clock = Clock(fraction)
        left = None if self._clock is None else self._clock.seconds_left(fraction)
        self._on_progress(Progress(self._n_done, self._n_total, fraction, self.label, left))

    def trial_is_done(self) -> None:
        self._n_done += 1


def _trial_spec(spec: StudySpec, proposed: RunSettings) -> StudySpec:
    return StudySpec(
        methods=(proposed.method,),
        seeds=spec.seeds,
        recipe=proposed.recipe,
        title=f"{spec.title}: one trial of a search",
        data_dir=spec.data_dir,
        source_dir=spec.source_dir,
    )


def _trial(number: int, proposed: RunSettings, seeds: Sequence[int], out: Path) -> Trial:
    keys = tuple(dataclasses.replace(proposed, seed=seed).key for seed in seeds)
    accuracies = [_validation_score(run_directory(out, key)) for key in keys]
    return Trial(
        number=number,
        learning_rate=proposed.recipe.learning_rate,
        weight_decay=decay_of(proposed.method),
        validation_score=sum(accuracies) / len(accuracies),
        runs=keys,
    )


def _validation_score(directory: Path) -> float:
    """After the last step; 0 for a run that diverged, since no run is worse."""
    if read_state(directory) != "done":
        return 0.0
    accuracy = read_rows(directory / ROWS_FILE, may_be_cut=False)[-1].validation_score
    return accuracy if math.isfinite(accuracy) else 0.0


def _records(searches: Sequence[Search]) -> str:
    """One line for each trial: for readers; the search itself reads the runs."""
    trials = [(search.label, trial) for search in searches for trial in search.trials]
    records = ({"search": label, **dataclasses.asdict(trial)} for label, trial in trials)
    return "".join(json.dumps(record) + "\n" for record in records)


def _optuna() -> Any:
    with extra_needed("tune", "the search needs {}, which is not installed"):
        import optuna
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # it tells every trial; the caller does that
    return optuna
