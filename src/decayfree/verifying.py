"""What `decayfree verify` shows: the statements of theory as a table, with what was measured and the verdicts.

Measures nothing; decayfree.theory does.
"""

from collections.abc import Sequence

import torch
from rich.table import Table
from rich.text import Text
from torch import Tensor

from decayfree.theory import Check

_STYLES = {"holds": "green", "fails": "bold red", "does not apply": "dim"}
_TINT = (1.0, 0.7, 0.4)
_WIDE = 110


def tinted_digits(n_images: int = 500) -> tuple[Tensor, Tensor]:
    """Scanned digits in one ink on white: three channels that differ by a factor, so that 18 of 27 patch directions are never seen.

    Three equal channels would do for SGD, but Adam treats equal channels alike, and would stay in their span.

    Returns:
        (n_images, 3, 8, 8), float64, in standard deviations of the scans' pixels, and (n_images,), int64.

    Raises:
        MissingExtraError: If scikit-learn, which has the digits, is not installed.
    """
    from decayfree.study.data import load
    from decayfree.study.spec import DataSpec

    dataset = load(DataSpec(n_train=n_images))
    images = dataset.to_input(dataset.train.pixels).double()
    return images * torch.tensor(_TINT, dtype=torch.float64).view(1, 3, 1, 1), dataset.train.labels


def table(checks: Sequence[Check], width: int) -> Table:
    """Statement, where it is from, measured, expected, verdict; numbers in brackets refer to the notes.

    Args:
        checks: To show.
        width: Of the terminal, in columns; below 110 everything but the verdict goes under the statement.
    """
    numbers = {note: number for number, note in enumerate(notes(checks), start=1)}
    statements = [
        check.statement + (f" [{numbers[check.caution]}]" if check.caution else "") for check in checks
    ]
    result = Table(box=None, pad_edge=False, header_style="bold")
    if width < _WIDE:
        result.add_column("Verdict", no_wrap=True)
        result.add_column("Statement\nmeasured, expected, where it is from")
        for check, statement in zip(checks, statements, strict=True):
            figures = f"{check.measured}, expected {check.expected}; {check.source}"
            cell = Text.assemble(statement, "\n", (figures if check.is_applicable else check.sentence, "dim"))
            result.add_row(Text(check.verdict, style=_STYLES[check.verdict]), cell)
        return result
    for name in ("Statement", "From", "Measured", "Expected", "Verdict"):
        result.add_column(name)
    for check, statement in zip(checks, statements, strict=True):
        measured, expected = (check.measured, check.expected) if check.is_applicable else ("-", "-")
        cells = (Text(cell) for cell in (statement, check.source, measured, expected))
        result.add_row(*cells, Text(check.verdict, style=_STYLES[check.verdict]))
    return result


def notes(checks: Sequence[Check]) -> list[str]:
    """The cautions, each once, in the order of the statements."""
    return list(dict.fromkeys(check.caution for check in checks if check.caution))


def summary(checks: Sequence[Check], elapsed_s: float) -> str:
    """How many statements hold, in one line."""
    words = {"holds": "hold", "fails": "fail", "does not apply": "do not apply"}
    counts = {verdict: sum(check.verdict == verdict for check in checks) for verdict in _STYLES}
    parts = [
        f"{count} {verdict if count == 1 else words[verdict]}" for verdict, count in counts.items() if count
    ]
    return f"{len(checks)} statements in {elapsed_s:.0f} s: {', '.join(parts)}."
