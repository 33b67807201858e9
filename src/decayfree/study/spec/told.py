"""What is wrong with a spec, and which of its values could not be read.

Judges nothing: whoever finds a fault says where, what was wanted and what was there, and the text is made
here, once.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from decayfree.errors import closest
from decayfree.study.spec.bounds import shown


@dataclass(frozen=True)
class Fault:
    """A value that is not what is wanted."""

    where: str
    """Dotted name: ``recipe.batch_size``."""
    wanted: str
    """What was expected: a whole number."""
    got: object
    more: str = ""
    """The end of the sentence: what may have been meant."""

    def __str__(self) -> str:
        separator = ";" if ", " in self.wanted else ","  # a list of choices has commas of its own
        return f"{self.where}: expected {self.wanted}{separator} got {shown(self.got)}{self.more}"


@dataclass
class Told:
    """Grows while a spec is read."""

    faults: list[Fault | str] = field(default_factory=list)
    unread: set[str] = field(default_factory=set)
    """Dotted names of settings whose value could not be read, so that nothing can be said of it."""

    def misfit(self, fault: Fault) -> None:
        """Tell a value that is not what is wanted."""
        self.faults.append(fault)
        self.unread.add(fault.where)

    def missing(self, where: str) -> None:
        """Tell a setting that is not there."""
        self.faults.append(f"{where}: missing")
        self.unread.add(where)


def no_such_key(where: str, key: str, known: Iterable[str]) -> str:
    """The fault of a key that nobody knows.

    Example:
        >>> no_such_key("recipe.", "batch_sise", ["n_epochs", "batch_size"])
        'recipe.batch_sise: no such key; known keys: n_epochs, batch_size; did you mean batch_size?'
    """
    known = list(known)
    return f"{where}{key}: no such key; known keys: {', '.join(known) or 'none'}{closest(key, known)}"
