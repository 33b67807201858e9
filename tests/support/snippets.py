"""The fenced pieces of code of a page, and how they are run: one after the other, as a reader would."""

import doctest
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import Any

ROOT = Path(__file__).parents[2]
FENCE = re.compile(
    r"(?:^ *<!-- not run: (?P<reason>[^\n]+) -->\n+)?"
    r"^(?P<indent> *)```(?P<kind>\w+)\n(?P<code>.*?)^(?P=indent)```$",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Snippet:
    """A piece of code, what it is written in, and why it cannot run where the page says so."""

    kind: str
    code: str
    line: int
    heading: str
    reason: str

    @property
    def is_session(self) -> bool:
        """Whether it shows what is typed at a prompt, and the answers."""
        return self.code.lstrip().startswith(">>>")


def pages() -> list[Path]:
    """README and every page of docs/ that somebody wrote."""
    written = (path for path in (ROOT / "docs").rglob("*.md") if "reference" not in path.parts)
    return [ROOT / "README.md", *sorted(written)]


def snippets(page: Path) -> Iterator[Snippet]:
    """All of a page, in its order."""
    text = page.read_text(encoding="utf-8")
    for found in FENCE.finditer(text):
        line = text.count("\n", 0, found.start("code")) + 1
        heading = re.findall(r"^##? (.+)$", text[: found.start("code")], re.MULTILINE)[-1:]
        yield Snippet(found["kind"], dedent(found["code"]), line, "".join(heading), found["reason"] or "")


def run(page: Path, names: dict[str, Any], before: Mapping[str, str]) -> int:
    """Run a page's Python that can run, with these names to begin with; how many pieces there were.

    ``before`` is code by the heading below which it is needed.
    """
    n_run, heading = 0, ""
    for snippet in snippets(page):
        if snippet.kind != "python" or snippet.reason:
            continue
        if snippet.heading != heading:
            heading = snippet.heading
            exec(before.get(heading, ""), names)
        where = f"{page.name}:{snippet.line}"
        if snippet.is_session:
            test = doctest.DocTestParser().get_doctest(snippet.code, names, where, page.name, snippet.line)
            test.globs = names
            options = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
            said: list[str] = []
            runner = doctest.DocTestRunner(optionflags=options)
            runner.run(test, out=said.append, clear_globs=False)
            assert runner.failures == 0, "".join(said)
        else:
            exec(compile(snippet.code, where, "exec"), names)
        n_run += 1
    return n_run
