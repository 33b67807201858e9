"""Thousand random changes of specs and command lines: each is one clear error, soon, or valid.

Nothing trains and nothing may be written. How soon is counted in calls of functions, not in seconds.
"""

import random
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from decayfree.study.builtin import builtin_text
from support.command_line import call
from support.study_stand_in import SPEC, written

_MOST_CALLS = 3_000_000
"""About a second. A spec of the most characters, all of them values, takes half of it."""
_OF_BOTH = [
    "",
    "nan",
    "-inf",
    "-1",
    "0",
    "1e400",
    "9" * 5000,
    "1" * 30,
    "[",
    "{}",
    "2020-01-01",
    "true",
    "\0",
]
VALUES = [
    *_OF_BOTH,
    *("[]", "[[]]", "[nan, nan]", "[1, 1]", '["a", "a"]', '""', '"\\u0000"', '"' + "a" * 100_000 + '"'),
    *("0x" + "f" * 5000, "-9223372036854775808", "18446744073709551616", "-0.0", "1979-05-27T07:32:00Z"),
    *("[" * 600 + "]" * 600, "{a=" * 600, "{a = {b = 1}}", "{a.b.c.d = 1}", "a" + ".a" * 3000, '"vgg4-bm"'),
    *(str(list(range(3000))), str([i / 1000 for i in range(1, 3000)]), str(list(range(200_000)))),
]
WORDS = [
    *_OF_BOTH,
    *("a" * 10_000, "\udcff", "é", "--", "-", "None", "1,2,3", ",", "1e400,2", "nan,1", "9" * 400 + ",1"),
    *("../..", "*", "/", "/dev/null", "figure1", "0.5", "--help", "--json", "x:y", "1000000000000"),
]
SPECS = [
    SPEC.to_toml(),
    builtin_text("sensitivity"),
    'seeds = [0, 1]\n[[axes]]\npath = "optimizer"\nvalues = [{name = "sgd"}, {name = "adamw"}]\n'
    '[[axes]]\npath = "learning_rate"\nvalues = [0.03, 0.1]\n[[methods]]\nname = "wrs"\nradius = [1, 2]\n'
    '[[overrides]]\nwhen = {"optimizer.name" = "adamw", seed = 1}\nset = {learning_rate = 1e-3}\n'
    '[[overrides]]\nwhen = {"method.name" = "wrs", learning_rate = [0.1]}\nskip = true\n',
]
COMMANDS = [
    "study run mine.toml --out out --seeds 2 --jobs 2 --data-dir images --device cpu",
    "study run figure1 --size small --out out",
    "study list finished --json",
    "study show figure1 --size paper --resolved",
    "study report finished --reference wrs",
    "study tune mine.toml --trials 2 --out out --method wrs --lr 0.1,1 --weight-decay 1e-5,1 --test-seeds 2",
    "demo --data digits --seeds 2 --epochs 1 --width 8 --out out --jobs 1",
    "inspect tiny:model --input 4,3 --include * --exclude x --seed 0 --json",
    "convert --optimizer lion --lr 0.1 --weight-decay 1 --betas 0,0.9 --steps 9 --schedule step --fan-in 9",
    "convert --optimizer sgd --lr 0.1 --weight-decay 1e-4 --momentum 0.9 --dampening 0 --gradient-norm 1",
    "verify tiny:model --input 4,3 --steps 2 --seed 1",
]
TINY = "from torch import nn\ndef model():\n    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))\n"


class _Enough(BaseException):
    """More was done than an error is worth."""


class _Trained(BaseException):
    """All checks were passed."""


@contextmanager
def bounded() -> Iterator[None]:
    """Raise in what calls too many functions."""
    n_calls = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal n_calls
        n_calls += event == "call"
        if n_calls > _MOST_CALLS:
            sys.setprofile(None)
            raise _Enough

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        yield
    finally:
        sys.setprofile(before)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where commands are typed: with a spec, a finished study and a module; what would train stops here."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "mine.toml").write_text(SPEC.to_toml(), encoding="utf-8")
    (tmp_path / "tiny.py").write_text(TINY, encoding="utf-8")
    written(tmp_path / "finished", spec=SPEC)

    def trained(*_: Any, **__: Any) -> None:
        raise _Trained

    for name in (
        "study.runner.run_study.run_study",
        "study.search.tuning.run_study",
        "report.page.write_report",
    ):
        monkeypatch.setattr(f"decayfree.{name}", trained)
    monkeypatch.setattr("decayfree.theory.verification.verify", trained)
    monkeypatch.setattr("decayfree.theory.verification.verify_model", trained)
    monkeypatch.setattr("decayfree.cli.study._look_for_data", lambda *_, **__: None)
    return tmp_path


def answered(*words: str) -> None:
    """Nothing but an error in words, or valid."""
    try:
        with bounded():
            code, _, errors = call(*words)
    except _Trained:
        return
    assert code in (0, 2)
    assert (code == 2) == bool(errors.strip())


def contents(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_size for path in folder.rglob("*") if "__pycache__" not in path.parts}


def with_another_value(text: str, draw: random.Random) -> str:
    places = [match.span(1) for match in re.finditer(r"= *(.*?)$", text, re.MULTILINE)]
    start, end = draw.choice(places or [(0, 0)])
    return text[:start] + draw.choice(VALUES) + text[end:]


def with_another_name(text: str, draw: random.Random) -> str:
    places = [match.span(1) for match in re.finditer(r"^\[*([\w.]+)", text, re.MULTILINE)]
    start, end = draw.choice(places or [(0, 0)])
    return (
        text[:start] + draw.choice(["a", "a.a", '"\\n"', "seeds", "recipe", "name", "a" * 5000]) + text[end:]
    )


def with_lines_mixed(text: str, draw: random.Random) -> str:
    lines = text.splitlines(keepends=True)
    line = lines.pop(draw.randrange(len(lines)))
    for _ in range(draw.choice([0, 1, 2, 1000])):
        lines.insert(draw.randrange(len(lines)), line)
    return "".join(lines)


def with_a_piece_gone(text: str, draw: random.Random) -> str:
    start = draw.randrange(len(text))
    return text[:start] + text[start + draw.choice([1, 1, 10, len(text)]) :]


def with_a_character(text: str, draw: random.Random) -> str:
    at = draw.randrange(len(text))
    return text[:at] + draw.choice("[]{}\"'=.,#\n\0 é\ufeff\x7f-9_\\") * draw.choice([1, 3, 5000]) + text[at:]


CHANGES: list[Callable[[str, random.Random], str]] = [
    *([with_another_value] * 3),
    *(with_another_name, with_lines_mixed, with_a_piece_gone, with_a_character),
]


@pytest.mark.parametrize("part", range(6))
def test_a_changed_spec_is_one_error_or_valid(part: int, folder: Path) -> None:
    draw = random.Random(part)
    before = contents(folder)
    for number in range(100):
        text = draw.choice(SPECS)
        for _ in range(draw.choice([1, 1, 2])):
            text = draw.choice(CHANGES)(text or "a", draw)
        content = text.encode()
        if draw.random() < 0.1:
            content = content[: len(content) // 2] + b"\xff" + content[len(content) // 2 :]
        path = folder.parent / f"spec-{number}.toml"
        path.write_bytes(content)
        answered("study", "run", str(path), "--out", "out")
        assert contents(folder) == before, text


@pytest.mark.parametrize("part", range(4))
def test_a_changed_command_is_one_error_or_valid(part: int, folder: Path) -> None:
    draw = random.Random(part)
    before = contents(folder)
    for _ in range(100):
        words = draw.choice(COMMANDS).split()
        for _ in range(draw.choice([1, 1, 2])):
            at = draw.randrange(len(words))
            words[at : at + draw.choice([0, 1, 1, 1])] = draw.choice(
                [[draw.choice(WORDS)], [draw.choice(WORDS)], [], [words[at]] * 2]
            )
            words = words or ["study"]
        answered(*words)
        assert contents(folder) == before, words
