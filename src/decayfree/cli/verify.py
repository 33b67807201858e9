"""What `decayfree verify` shows: statements of theory in a table, what was measured, and the verdicts.

Measures nothing; decayfree.theory does.
"""

from collections.abc import Sequence

import torch
from rich.table import Table
from rich.text import Text
from torch import Tensor

from decayfree.theory.check import Check, figure

_STYLES = {"holds": "green", "fails": "bold red", "does not apply": "dim"}
_TINT = (1.0, 0.7, 0.4)
_WIDE = 110


def tinted_digits(n_images: int = 500) -> tuple[Tensor, Tensor]:
    """Scanned digits in one ink: three channels that differ by a factor never show 18 of 27 patch directions.

    Three equal channels would do for SGD, but Adam treats equal channels alike, and would stay in their span.

    Returns:
        (n_images, 3, 8, 8), float64, in standard deviations of the scans' pixels, and (n_images,), int64.

    Raises:
        MissingExtraError: If scikit-learn, which has the digits, is not installed.
    """
    from decayfree.study.data.loading import load
    from decayfree.study.run_settings import DataSpec

    dataset = load(DataSpec(n_train=n_images))
    images = dataset.to_input(dataset.train.pixels).double()
    return images * torch.tensor(_TINT, dtype=torch.float64).view(1, 3, 1, 1), dataset.train.classes


def table(checks: Sequence[Check], width: int) -> Table:
    """Statement, source, measured, expected, residual and tolerance, verdict; numbers in brackets are notes.

    In a terminal narrower than 110 columns everything but the verdict goes under the statement.
    """
    numbers = {note: number for number, note in enumerate(notes(checks), start=1)}
    shown = [check for check in checks if check.is_applicable]
    statements = [
        check.statement + (f" [{numbers[check.caution]}]" if check.caution else "") for check in shown
    ]
    result = Table(box=None, pad_edge=False, header_style="bold")
    if width < _WIDE:
        result.add_column("Verdict", no_wrap=True)
        result.add_column("Statement\nmeasured, expected, residual and its limit, where it is from")
        for check, statement in zip(shown, statements, strict=True):
            figures = f"{check.measured}, expected {check.expected}; {_limit(check)}; {check.source}"
            cell = Text.assemble(statement, "\n", (figures, "dim"))
            result.add_row(Text(check.verdict, style=_STYLES[check.verdict]), cell)
        return result
    for name in ("Statement", "From", "Measured", "Expected", "Residual", "Verdict"):
        result.add_column(name)
    for check, statement in zip(shown, statements, strict=True):
        texts = (statement, check.source, check.measured, check.expected, _limit(check))
        result.add_row(*map(Text, texts), Text(check.verdict, style=_STYLES[check.verdict]))
    return result


def _limit(check: Check) -> str:
    return f"{figure(check.residual)} {'≤' if check.passed else '>'} {figure(check.tolerance)}"


def what_does_not_apply(checks: Sequence[Check]) -> list[str]:
    """Each reason once, with the statements that it is for."""
    reasons = dict.fromkeys(check.sentence for check in checks if not check.is_applicable)
    return [
        f"{reason} So nothing was measured of: "
        + "; ".join(check.statement for check in checks if check.sentence == reason)
        + "."
        for reason in reasons
    ]


SOURCES = (
    "Numbers are arXiv ids. The paper is 2102.03497: Liu, Cui, Wan, Mao, Chan, The Implicit Biases of "
    "Stochastic Gradient Descent on Deep Neural Networks with Batch Normalization (v1, 2021), "
    "Weight Rescaling (v2, 2022)."
)


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
