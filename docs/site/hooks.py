"""What Sphinx is told before it reads: pages of the reference, links out of docs/, marks in docstrings."""

import re
from pathlib import Path
from typing import Any

import reference
from sphinx.application import Sphinx

DOCS = Path(__file__).resolve().parents[1]
REPOSITORY = "https://github.com/decayfree/decayfree"
OUTSIDE = re.compile(r"\]\(\.\./([^)#]+)(#[^)]*|)\)")


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect all of them."""
    app.connect("builder-inited", lambda app: reference.write(DOCS / "reference"))
    app.connect("source-read", link_outside)
    app.connect("autodoc-process-docstring", take_stars_as_they_are, priority=100)  # before napoleon
    return {"parallel_read_safe": True}


def link_outside(app: Sphinx, page: str, source: list[str]) -> None:
    """Make links that lead out of docs/ ones to the repository."""
    source[0] = OUTSIDE.sub(linked, source[0])


def linked(match: re.Match[str]) -> str:
    """A link to the same file or folder in the repository."""
    kind = "tree" if (DOCS.parent / match[1]).is_dir() else "blob"
    return f"]({REPOSITORY}/{kind}/main/{match[1]}{match[2]})"


def take_stars_as_they_are(
    app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]
) -> None:
    """Escape stars and bars outside of examples; what a constant's type says of itself is left out."""
    if what == "data":
        lines.clear()
    is_example = False
    for number, line in enumerate(lines):
        is_example = bool(line.strip()) and (is_example or line.lstrip().startswith(">>>"))
        if not is_example:
            lines[number] = reference.in_words(line)
