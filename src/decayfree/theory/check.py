"""What does one statement of theory come to, once it has been measured?

A residual, its tolerance and a sentence. Measures nothing.
"""

import math
from dataclasses import dataclass

_LEAST = 0.001


@dataclass(frozen=True)
class Check:
    """One statement, measured.

    Args:
        statement: What the law says, in a line.
        source: Where it is from.
        measured: The figure that was measured, with its unit where it has one.
        expected: What it should be.
        residual: How far the two are apart; no unit. NaN where nothing could be measured, which does not
            pass.
        tolerance: The largest residual that still passes.
        sentence: What was done and found.
        caution: Where the algebra limits or contradicts what is commonly said, or nothing.
        is_applicable: Whether the model has what the statement speaks of; ``sentence`` says what is missing
            where not.
    """

    statement: str
    source: str
    measured: str
    expected: str
    residual: float
    tolerance: float
    sentence: str
    caution: str = ""
    is_applicable: bool = True

    @property
    def passed(self) -> bool:
        """Whether the residual is within its tolerance; True also where the check does not apply."""
        return not self.is_applicable or self.residual <= self.tolerance

    @property
    def verdict(self) -> str:
        """``holds``, ``fails`` or ``does not apply``."""
        if not self.is_applicable:
            return "does not apply"
        return "holds" if self.passed else "fails"

    def to_dict(self) -> dict[str, object]:
        """Plain values for JSON; None for a residual that is not finite, and for what does not apply."""
        return {
            "statement": self.statement,
            "source": self.source,
            "measured": self.measured,
            "expected": self.expected,
            "residual": self.residual if math.isfinite(self.residual) else None,
            "tolerance": self.tolerance if self.is_applicable else None,
            "verdict": self.verdict,
            "sentence": self.sentence,
            "caution": self.caution,
        }


def equality(
    statement: str, source: str, apart: float, tolerance: float, sentence: str, caution: str = ""
) -> Check:
    """The check that two things are equal, by how far they are apart."""
    return Check(statement, source, f"apart by {figure(apart)}", "0", apart, tolerance, sentence, caution)


def difference(statement: str, source: str, measured: str, size: float, sentence: str) -> Check:
    """The check that something is there, by its size: more than a thousandth is no rounding."""
    residual = _LEAST / size if size else math.inf
    return Check(statement, source, measured, f"above {_LEAST:g}", residual, 1.0, sentence)


def not_applicable(statement: str, source: str, why: str) -> Check:
    """The check of a statement about something that the model does not have."""
    return Check(statement, source, "", "", math.nan, math.nan, why, is_applicable=False)


def figure(value: float) -> str:
    """A residual as it is printed: 3e-15, 0 for nothing."""
    return "0" if value == 0 else f"{value:.0e}" if abs(value) < 1e-3 else f"{value:.3g}"
