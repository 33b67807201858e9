"""What can go wrong, by name.

Each error is a :class:`DecayFreeError` and also the built-in that fits. The file that finds a fault says it;
only what many files say alike is said here.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from numbers import Real


class DecayFreeError(Exception):
    """Any error that decayfree raises on purpose."""


class InvalidInputError(DecayFreeError, ValueError):
    """An argument is outside what is allowed, or the inputs do not fit the model."""


class WeightDecayError(DecayFreeError, ValueError):
    """The optimizer decays a weight whose norm is held."""


class UnsupportedWeightError(DecayFreeError, TypeError):
    """A weight is stored in a way that cannot be rescaled: flattened, sparse, quantized, without data."""


class NonFiniteWeightError(DecayFreeError, ArithmeticError):
    """A weight holds NaN or infinity."""


class AlreadyAttachedError(DecayFreeError, RuntimeError):
    """The norm of a weight is held already by another :class:`decayfree.WeightRescaling`."""


class MismatchError(DecayFreeError, KeyError, ValueError):
    """Names, shapes or optimizers of two things that should belong together do not."""

    __str__ = Exception.__str__  # KeyError would print the message in quotes


class MissingExtraError(DecayFreeError, ImportError):
    """A package that an extra installs is not there."""


Fault = tuple[type[DecayFreeError], str]


def faults_of(kind: type[DecayFreeError], messages: Iterable[str]) -> list[Fault]:
    """Several faults of one kind."""
    return [(kind, message) for message in messages]


def raise_all(faults: Sequence[Fault], *, about: str = "") -> None:
    """Raise one error with all faults, after what they are about; its class is that of the first."""
    if faults:
        raise faults[0][0](about + "; ".join(message for _, message in faults))


def listed(names: Sequence[str], most: int = 4) -> str:
    """The first names, and how many more there are.

    Example:
        >>> listed(["a", "b", "c"], 2), listed(["a", "b"], 2)
        ('a, b and 1 more', 'a, b')
    """
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


@contextmanager
def extra_needed(extra: str, sentence: str) -> Iterator[None]:
    """Imports inside are of what an extra installs; where it is not there, the error says so.

    Args:
        extra: Its name.
        sentence: What needs which package, ``{}`` being the one that is missing, and that it is not there.

    Raises:
        MissingExtraError: In place of the `ImportError`, with the extra to install.
    """
    try:
        yield
    except ImportError as error:
        raise MissingExtraError(f"{sentence.format(error.name)}: pip install 'decayfree[{extra}]'") from error


def whole_number_faults(name: str, value: object, *, least: int = 1) -> list[str]:
    """Say of a setting that is no whole number of at least ``least`` that it must be one.

    Example:
        >>> whole_number_faults("every", 2), whole_number_faults("every", 0.5)
        ([], ['every must be a whole number of at least 1, got 0.5'])
    """
    is_one = isinstance(value, int) and not isinstance(value, bool) and value >= least
    return [] if is_one else [f"{name} must be a whole number of at least {least}, got {value!r}"]


def number_faults(name: str, value: object, *, least: float = -math.inf) -> list[str]:
    """Say of a setting that is no finite number of at least ``least`` that it must be one.

    Example:
        >>> number_faults("eps", 0.5), number_faults("weight_decay", "a", least=0)
        ([], ["weight_decay must be a number of at least 0, got 'a'"])
    """
    number = math.nan if isinstance(value, bool) or not isinstance(value, Real) else float(value)
    bound = "" if least == -math.inf else f" of at least {least:g}"
    is_one = math.isfinite(number) and number >= least
    return [] if is_one else [f"{name} must be a number{bound}, got {value!r}"]


def choice_faults(name: str, value: object, choices: Iterable[str]) -> list[str]:
    """Say of a value that is none of some texts that it must be one, and which may have been meant.

    Example:
        >>> choice_faults("shape", "cosin", ("cosine", "step"))
        ["shape must be one of 'cosine', 'step', got 'cosin'; did you mean cosine?"]
    """
    known = tuple(choices)
    if value in known:
        return []
    return [f"{name} must be one of {', '.join(map(repr, known))}, got {value!r}{closest(value, known)}"]


def closest(name: object, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: what may have been meant; nothing of what is no text.

    Example:
        >>> closest("resnet19", ["resnet18", "vgg16"])
        '; did you mean resnet18?'
        >>> closest("wsr", ["WRS"]), closest("x", ["resnet18"])
        ('; did you mean WRS?', '')
    """
    import difflib  # rarely needed, and slow to import

    if not isinstance(name, str):
        return ""
    spelled = {one.lower(): one for one in known}
    matches = [spelled[one] for one in difflib.get_close_matches(name.lower(), spelled, n=3)]
    return f"; did you mean {' or '.join(matches)}?" if matches else ""
