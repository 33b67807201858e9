"""``decayfree watch``: what a recorder writes, drawn in the terminal while a training runs.

Trains nothing. Reads the file again where it has grown, and writes its page at the end.
"""

import time
import warnings
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Annotated

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from decayfree.cli.options import errors_told, flag, option
from decayfree.dynamics.samples import Sample, read_jsonl
from decayfree.errors import InvalidInputError

BARS = "▁▂▃▄▅▆▇█"
INSTRUMENTS = {
    "norm": "norm",
    "angular_update_rad": "angle, rad",
    "effective_learning_rate": "eff. rate",
}
"""In the order in which columns are given up where the terminal is narrow, the last first."""
_LEAST_LINE, _MOST_LINE = 10, 40  # as wide as its heading, at least
_ROUNDING = 1e-3
"""Of a value; what moves by less is drawn flat."""
_NUMBER, _LEAST_NAME, _MEAN = 10, 14, "mean of all"


def watch(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What a Recorder writes: dynamics.jsonl.")],
    once: Annotated[bool, flag("--once", "Draw what is there and stop.")] = False,
    page: Annotated[
        Path | None, option("FILE", "Where the page goes; by default beside the file, named like it.")
    ] = None,
    every: Annotated[float, option("SECONDS", "Look at the file again after so long.", min=0.1)] = 2.0,
) -> None:
    """Draw norms, angles and effective learning rates of a training while it runs.

    Lines are those of the run that wrote last, over its steps, each from its own least to its own most.
    Ctrl-C ends it and writes the page.
    """
    console = Console()
    with errors_told():
        if once:
            console.print(_drawn(read_jsonl(file), console.width, console.height))
        else:
            _follow(file, console, every)
        from decayfree.report.page import write_samples

        written = write_samples(file, page)
    console.print(f"The page: {escape(str(written))}", highlight=False, soft_wrap=True)


def _follow(file: Path, console: Console, every_s: float) -> None:
    """Draw anew whenever the file has grown, until Ctrl-C; waits for a file that is not there, or empty."""
    if not file.is_file():
        console.print(f"Waiting for {file}, which is not there yet", highlight=False, markup=False)
    n_bytes = -1
    with Live(console=console, auto_refresh=False) as live:
        try:
            while True:
                size = file.stat().st_size if file.is_file() else -1
                if size != n_bytes:
                    n_bytes = size
                    samples = _written_so_far(file)
                    if samples:
                        live.update(_drawn(samples, console.width, console.height), refresh=True)
                time.sleep(every_s)
        except KeyboardInterrupt:
            return


def _written_so_far(file: Path) -> list[Sample]:
    """The samples that are there; a line that is being written is read when it is whole."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return read_jsonl(file) if file.is_file() else []


def _drawn(samples: Sequence[Sample], width: int, height: int) -> Group:
    """A line a weight, as many as fit: the mean of all first, then the others in the model's order."""
    if not samples:
        raise InvalidInputError("the file holds no sample yet")
    from decayfree.report.pages.samples import means, over_weights

    run = samples[-1].run
    own = [sample for sample in samples if sample.run == run]
    seen = {instrument: means(own, instrument) for instrument in INSTRUMENTS}
    names = list(own[-1].weights)
    of_names = min(max(map(len, (_MEAN, *names))), max(_LEAST_NAME, width // 4))
    kept = [instrument for instrument in INSTRUMENTS if seen[instrument]]
    while len(kept) > 1 and (width - of_names) // len(kept) - _NUMBER < _LEAST_LINE:
        kept.pop()
    length = max(min((width - of_names) // max(len(kept), 1) - _NUMBER, _MOST_LINE, len(own)), 1)
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("weight", no_wrap=True, width=of_names)
    for instrument in kept:
        table.add_column(INSTRUMENTS[instrument], no_wrap=True, width=max(length, _LEAST_LINE))
        table.add_column("now", justify="right", no_wrap=True, width=_NUMBER - 2)
    rows = {_MEAN: {key: over_weights(seen[key]) for key in kept}} if len(names) > 1 else {}
    rows |= {name: {key: seen[key].get(name, []) for key in kept} for name in names}
    n_shown = max(height - 4, 3)
    for name, of in list(rows.items())[:n_shown]:
        cells = []
        for key in kept:
            values = [value for _, value in of[key]]
            cells += [sparkline(values, length), f"{values[-1]:.3g}" if values else ""]
        table.add_row(Text(_short(name, of_names)), *cells)
    head = f"run {run}, step {own[-1].step}, {len(own)} samples"
    more = len(rows) - n_shown
    return Group(Text(head), table, *([Text(f"and {more} more weights, on the page")] if more > 0 else []))


def sparkline(values: Sequence[float], length: int) -> str:
    """Values as bars, the newest last; of more values than places, means of equal parts.

    Example:
        >>> sparkline([1.0, 2.0, 3.0, 8.0], 4), sparkline([1.0, 1.0], 4), sparkline([], 4)
        ('▁▂▃█', '▁▁', '')
    """
    n = len(values)
    if n > length:
        cuts = [index * n // length for index in range(length + 1)]
        values = [fmean(values[first:last]) for first, last in pairwise(cuts)]
    low, high = min(values, default=0.0), max(values, default=0.0)
    span = max(high - low, _ROUNDING * abs(high)) or 1.0
    return "".join(BARS[round((value - low) / span * (len(BARS) - 1))] for value in values)


def _short(name: str, length: int) -> str:
    """A name in so many letters: its beginning above all; that it is a weight goes without saying."""
    name, head = name.removesuffix(".weight"), 2 * length // 3
    return name if len(name) <= length else f"{name[:head]}…{name[head + 1 - length :]}"
