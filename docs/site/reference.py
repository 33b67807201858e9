"""Writes a page for every public name, and one for every face, from which Sphinx makes the reference."""

import inspect
import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from sys import modules

from public import Name, names


def write(folder: Path) -> None:
    """Write the pages into a folder; those that are there already and the same stay untouched."""
    folder.mkdir(exist_ok=True)
    pages = dict(written())
    for old in set(folder.iterdir()) - {folder / file for file in pages}:
        old.unlink()
    for file, text in pages.items():
        if not (folder / file).is_file() or (folder / file).read_text(encoding="utf-8") != text:
            (folder / file).write_text(text, encoding="utf-8")


def written() -> Iterator[tuple[str, str]]:
    """File and text of every page."""
    faces = {face: list(of) for face, of in groupby(names(), lambda name: name.face)}
    yield "index.rst", "\n".join(contents(list(faces)))
    for face, of in faces.items():
        yield f"{face}.rst", "\n".join(face_page(face, of))
        for name in of:
            if name.page == f"{face}.{name.name}":
                also = [other.face for all_ in faces.values() for other in all_ if other.page == name.page][
                    1:
                ]
                yield f"{name.page}.rst", "\n".join(name_page(name, also))


def in_words(line: str) -> str:
    """A line of a docstring with its stars and bars escaped, but for those in code.

    Shapes are written (*shape) and absolute values |x|; reStructuredText has other uses for these.
    """
    parts = re.split(r"(``.+?``|`.+?`)", line)
    return "".join(part if part[:1] == "`" else re.sub(r"[*|]", r"\\\g<0>", part) for part in parts)


def heading(text: str) -> list[str]:
    """A title of a page."""
    return [text, "=" * len(text), ""]


def contents(faces: list[str]) -> Iterator[str]:
    """The page of all faces."""
    yield from heading("Reference")
    yield "Every public name, by the module that shows it, with what its docstring says."
    yield "``import decayfree`` shows the names of the first; the others are imported by their own."
    yield from ("", ".. toctree::", "   :maxdepth: 1", "", *(f"   {face}" for face in faces))


def face_page(face: str, of: list[Name]) -> Iterator[str]:
    """Names and what they are, a line each."""
    yield from heading(face)
    yield (inspect.getdoc(modules[face]) or "").partition("\n\n")[0]
    yield from ("", ".. list-table::", "   :widths: 30 70", "")
    for name in of:
        yield f"   * - :py:obj:`{name.name} <{name.page}>`"
        yield f"     - {in_words(name.summary)}"


def name_page(name: Name, also: list[str]) -> Iterator[str]:
    """One name: how it is imported, and what Sphinx makes of its docstring."""
    # In no table of contents: 260 of them beside every page would be read by nobody.
    yield from (":orphan:", "")
    yield from heading(name.name)
    where = f"``from {name.face} import {name.name}`` (:doc:`all of {name.face} <{name.face}>`)"
    yield where + (f"; also in {', '.join(f'``{one}``' for one in also)}" if also else "")
    yield from ("", f".. auto{name.kind}:: {name.page}")
    if name.kind in ("class", "exception"):
        yield "   :members:"
        yield "   :show-inheritance:"
