"""How the source looks: one line length, and comments that leave the line in front of them whole."""

import io
import re
import tokenize
import tomllib
from collections.abc import Iterator
from pathlib import Path
from tokenize import COMMENT, OP, TokenInfo

import pytest

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["ruff"]
LIMIT = SETTINGS["line-length"]
FOLDERS = ("src", "tests", "benchmarks", "examples", "docs", "results")
SOURCES = [
    ROOT / "conftest.py",
    *sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")),
]
SCRIPTS = [ROOT / "Makefile", ROOT / ".ci" / "run"]
# Each of these is spread over three lines by the comment that stands behind it.
BROKEN_BY_ITS_COMMENT = [
    "n_skipped: int | None = (\n    None  # nobody has counted yet\n)\n",
    "kept: dict[\n    str, float\n] = {}  # by name\n",
    "(\n    first,\n    second,\n) = pair  # of the same length\n",
]
# These say something about each line, or do not fit on one.
WHOLE = [
    "pair = (\n    1,  # the first\n    2,  # the second\n)\n",
    "# Nobody has counted yet.\nn_skipped: int | None = None\n",
    f"name = say(\n    {'x' * LIMIT!r}\n)  # a long one\n",
]


def test_code_and_prose_share_one_line_length() -> None:
    assert LIMIT == 110
    assert SETTINGS["lint"].get("pycodestyle", {}).get("max-line-length", LIMIT) == LIMIT


@pytest.mark.parametrize("path", [*SOURCES, *SCRIPTS], ids=lambda path: str(path.relative_to(ROOT)))
def test_no_line_is_too_long(path: Path) -> None:
    assert not list(long_lines(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_comment_breaks_the_line_in_front_of_it(path: Path) -> None:
    assert not list(lines_broken_by_comments(path.read_text(encoding="utf-8")))


def test_a_line_may_be_longer_by_an_address_only() -> None:
    address = f"https://example.org/{'a' * LIMIT}"
    assert not list(long_lines(f"# {address}"))
    assert list(long_lines(f"# {address} {'b' * LIMIT}")) == [1]


@pytest.mark.parametrize("text", BROKEN_BY_ITS_COMMENT)
def test_a_line_that_its_comment_broke_is_found(text: str) -> None:
    assert list(lines_broken_by_comments(text)) == [1]


@pytest.mark.parametrize("text", WHOLE)
def test_comments_elsewhere_are_let_be(text: str) -> None:
    assert not list(lines_broken_by_comments(text))


def long_lines(text: str) -> Iterator[int]:
    """Numbers of lines longer than the limit, but for what has to stand there: addresses and pragmas."""
    for number, line in enumerate(text.splitlines(), 1):
        if len(re.sub(r"https?://\S+|  # (type: ignore|noqa).*", "", line)) > LIMIT:
            yield number


def lines_broken_by_comments(text: str) -> Iterator[int]:
    """Numbers of the lines that end in a bracket only because a comment behind them had no room.

    The formatter does that where code and its trailing comment are too long together: one line becomes
    three, and the comment belongs above it.
    """
    lines = text.splitlines()
    tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
    comment_at = {token.start[0]: token.start[1] for token in tokens if token.type == COMMENT}
    code = [line[: comment_at.get(number)].strip() for number, line in enumerate(lines, 1)]
    for opened, closed in brackets(tokens):
        first, last = opened.start[0], closed.start[0]
        inside = [row for row in range(first + 1, last) if code[row - 1]]
        behind = [row for row in (*inside, last) if row in comment_at]
        is_alone = code[first - 1].endswith(opened.string) and code[last - 1].startswith(closed.string)
        if last > first and is_alone and (behind == [last] or (behind == inside and len(inside) == 1)):
            joined = " ".join(code[row - 1] for row in inside).removesuffix(",")
            indent = len(lines[first - 1]) - len(lines[first - 1].lstrip())
            if indent + len(code[first - 1] + joined + code[last - 1]) <= LIMIT:
                yield first


def brackets(tokens: list[TokenInfo]) -> Iterator[tuple[TokenInfo, TokenInfo]]:
    """Each bracket that is opened, with the one that closes it."""
    opened: list[TokenInfo] = []
    for token in tokens:
        if token.type == OP and token.string in "([{":
            opened.append(token)
        elif token.type == OP and token.string in ")]}":
            yield opened.pop(), token
