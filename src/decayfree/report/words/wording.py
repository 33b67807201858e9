"""How numbers and lists are written in the page's text, the same way everywhere.

It knows nothing of studies: numbers in, a few words out.
"""

from collections.abc import Callable, Mapping, Sequence

MINUS = "\N{MINUS SIGN}"
SPACE = "\N{NO-BREAK SPACE}"
Figures = Mapping[str, Mapping[str, tuple[float, str]]]
"""The numbers behind a paragraph: what a column is called -> by method, a number and how it is written."""
NOTHING = "No run is done, so there is nothing to see."


def percent(share: float, decimals: int = 1) -> str:
    """A share as a percentage: 0.8765 is 87.7 %."""
    return f"{_signed_zero_free(100 * share, decimals)}{SPACE}%"


def fine_percent(share: float) -> str:
    """A share as a percentage with at least two digits, so that only zero is 0.0 %: 12.6 %, 0.0042 %."""
    if share != 0 and abs(share) < 0.01:
        return f"{significant(100 * share, 2)}{SPACE}%"
    return percent(share)


def percent_range(low: float, high: float, decimals: int = 1) -> str:
    """Two shares as a range: 86.9 to 88.5 %."""
    return f"{_signed_zero_free(100 * low, decimals)} to {percent(high, decimals)}"


def clipped(ends: tuple[float, float], mean: float) -> tuple[float, float]:
    """An interval of a share within 0 and 1, beyond which t intervals of few seeds reach.

    A mean below 0 says that its score may be, as that of counts: such an interval keeps its lower end.
    """
    low, high = ends
    return (max(low, 0.0) if mean >= 0 else low, min(high, 1.0))


def points(share: float, decimals: int = 1) -> str:
    """A difference of shares, without its sign, in percentage points."""
    text = f"{abs(100 * share):.{decimals}f}"
    if float(text) == 0 and share != 0:
        return f"less than {10**-decimals:.{decimals}f}{SPACE}points"
    return f"{text}{SPACE}{'point' if float(text) == 1 else 'points'}"


def detectable_points(share: float, decimals: int = 1) -> str:
    """A difference that a study would have seen; beyond 100 points it says no more than that."""
    return points(share, decimals) if share <= 1 else f"more than 100{SPACE}points"


def signed_points(share: float, decimals: int = 1) -> str:
    """A difference of shares with its sign, in percentage points and without the unit: +1.2, −0.3."""
    text = _signed_zero_free(100 * share, decimals)
    return text if text.startswith(MINUS) or float(text) == 0 else f"+{text}"


def signed_interval(low: float, high: float, decimals: int = 1) -> str:
    """An interval of differences with signs, in points: −0.3 to +2.1."""
    return f"{signed_points(low, decimals)} to {signed_points(high, decimals)}"


def factor(ratio: float) -> str:
    """A ratio with three digits: ×3.14."""
    return f"×{significant(ratio)}"


def significant(number: float, n_digits: int = 3) -> str:
    """A number with so many significant digits, zeros kept: 1.00, 0.0312, 4.20e−7; from 1,000 on 12,345."""
    if number == 0:
        return "0"
    if 1e-4 <= abs(number) < 10**n_digits - 0.5:
        return f"{number:#.{n_digits}g}".rstrip(".").replace("-", MINUS)
    if 1e-4 <= abs(number) < 1e6:
        return f"{number:,.0f}".replace("-", MINUS)
    mantissa, exponent = f"{number:.{n_digits - 1}e}".split("e")
    return f"{mantissa}e{int(exponent)}".replace("-", MINUS)


def p_value(p: float) -> str:
    """A p value with two digits from a thousandth on: 0.032, 0.50, < 0.001."""
    if p < 0.001:
        return f"<{SPACE}0.001"
    return f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def listing(items: Sequence[str], separator: str = ", ") -> str:
    """Items as a sentence lists them: a, b and c."""
    if not items:
        return "none"
    head = separator.join(items[:-1])
    return f"{head}{' and ' if separator == ', ' else separator}{items[-1]}" if head else items[-1]


def by_method(values: Mapping[str, float], wording: Callable[[float], str]) -> str:
    """A number for each of two methods, of more the lowest and the highest; a table behind it has all.

    Example:
        >>> by_method({"a": 0.5, "b": 2.0, "c": 1.0}, factor)
        '×0.500 (a) to ×2.00 (b)'
    """
    if len(values) <= 2:
        return listing([f"{wording(value)} ({name})" for name, value in values.items()])
    ends = (min(values, key=lambda name: values[name]), max(values, key=lambda name: values[name]))
    low, high = (wording(values[name]) for name in ends)
    return f"{low} (all)" if low == high else f"{low} ({ends[0]}) to {high} ({ends[1]})"


def sentences(*parts: str) -> str:
    """Parts as one paragraph: empty ones are left out, each begins with a capital."""
    return " ".join(part[0].upper() + part[1:] for part in parts if part)


def count(number: int, singular: str) -> str:
    """A number and its noun: 1 seed, 5 seeds."""
    return f"{number}{SPACE}{singular}{'' if number == 1 else 's'}"


def _signed_zero_free(number: float, decimals: int) -> str:
    text = f"{number:.{decimals}f}"
    if float(text) == 0:
        text = text.lstrip("-")  # −0.0 would claim a sign that the digits do not show
    return text.replace("-", MINUS)
