"""``decayfree doctor``: what works on this machine, what is missing and how to get it.

Asks and tries; installs nothing and changes nothing.
"""

import importlib
import importlib.metadata
import os
import platform
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from decayfree.cli.options import FAILED, JsonOption, print_json
from decayfree.errors import DecayFreeError

State = Literal["ok", "missing", "broken"]
_MARKS = {"ok": "[green]✓[/]", "missing": "[yellow]–[/]", "broken": "[red]✗[/]"}
_OF_DEVELOPERS = {"test", "lint", "release", "site", "benchmarks", "docs"}
_OF_OLD_PYTHONS = re.compile(r"python_version < ['\"]3\.(\d+)['\"]")
_REQUIREMENT = re.compile(r"([\w.-]+)(?:\[([\w,-]+)\])?\s*(?:>=([\w.]+))?.*?extra == ['\"]([\w-]+)['\"]")


@dataclass(frozen=True)
class Finding:
    """What was found about one thing.

    Args:
        name: Of the thing.
        state: ``missing`` where nothing is wrong, but something could be installed; ``broken`` where it is
            there and does not work.
        answer: What was found.
        cure: What to do about it; empty where nothing has to be done.
    """

    name: str
    state: State
    answer: str
    cure: str = ""


def doctor(as_json: JsonOption = False) -> None:
    """Say what works on this machine, what is missing, and how to get it.

    That is torch, devices, extras, whether torchvision can be imported, data, and where results can be
    written. Exit code 1 where something that is installed does not work.
    """
    findings = list(examined())
    if as_json:
        print_json([asdict(one) for one in findings])
    else:
        _show(findings)
    if any(one.state == "broken" for one in findings):
        raise typer.Exit(FAILED)


def examined() -> Iterator[Finding]:
    """One finding after the other, the quick ones first."""
    yield Finding(
        "decayfree", "ok", f"{importlib.metadata.version('decayfree')}, Python {platform.python_version()}"
    )
    yield _torch()
    yield _device()
    yield from _extras()
    yield _torchvision()
    yield from _data()
    yield from (_writable(*place) for place in _places())


def _show(findings: list[Finding]) -> None:
    table = Table.grid(padding=(0, 1))
    for one in findings:
        cure = f"\n→ {escape(one.cure)}" if one.cure else ""
        table.add_row(
            _MARKS[one.state], one.name, Text.from_markup(escape(one.answer) + cure, overflow="fold")
        )
    Console().print(table, highlight=False)


def _torch() -> Finding:
    import torch

    return Finding("torch", "ok", f"{torch.__version__}, {torch.get_num_threads()} threads")


def _device() -> Finding:
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        return Finding("device", "ok", ", ".join(names))
    if torch.backends.mps.is_available():
        return Finding("device", "ok", "Apple GPU (mps): float32 only, so that searches are less sure")
    if torch.version.cuda or torch.version.hip:
        return Finding(
            "device",
            "missing",
            "this torch is built for GPUs, and sees none: everything runs on the CPU",
            "see whether nvidia-smi (or rocm-smi) shows one; else its driver is missing or too old",
        )
    return Finding("device", "ok", "the CPU; this torch is built for no GPU")


def _extras() -> Iterator[Finding]:
    """Of each extra for users what is installed, at least as new as it has to be."""
    needed: dict[str, dict[str, str]] = {}
    for line in importlib.metadata.requires("decayfree") or ():
        parsed = _REQUIREMENT.match(line)
        before = _OF_OLD_PYTHONS.search(line)
        if before and sys.version_info >= (3, int(before[1])):
            continue
        if parsed and parsed[4] not in _OF_DEVELOPERS and not parsed[2]:
            needed.setdefault(parsed[4], {})[parsed[1]] = parsed[3] or ""
    for extra, of_extra in needed.items():
        here = {name: _version_of(name) for name in of_extra}
        missing = [name for name, version in here.items() if version is None]
        old = [
            f"{name} {version} (needs {of_extra[name]})"
            for name, version in here.items()
            if version is not None and _numbers(version) < _numbers(of_extra[name])
        ]
        cure = f"pip install 'decayfree[{extra}]'"
        if old:
            yield Finding(f"extra {extra}", "broken", f"too old: {', '.join(old)}", cure)
        elif missing:
            yield Finding(f"extra {extra}", "missing", f"not installed: {', '.join(missing)}", cure)
        else:
            yield Finding(f"extra {extra}", "ok", ", ".join(f"{name} {here[name]}" for name in here))


def _torchvision() -> Finding:
    """It is built for one version of torch and one kind of device, and fails at import beside another."""
    version = _version_of("torchvision")
    if version is None:
        return Finding(
            "torchvision", "missing", "not installed: no torchvision:NAME", "pip install 'decayfree[models]'"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module("torchvision.ops")
    except Exception as error:
        said = str(error).strip().splitlines()
        return Finding(
            "torchvision",
            "broken",
            f"{version} does not import: {type(error).__name__}: {said[0] if said else ''}",
            "install the torchvision that was built with this torch: both in one pip install, from one index",
        )
    return Finding("torchvision", "ok", f"{version} imports")


def _data() -> Iterator[Finding]:
    from decayfree.study.data import digits, fashion_mnist, opencv_digits

    places: dict[str, Callable[[], Path]] = {
        "digits": digits.locate,
        "fashion-mnist": fashion_mnist.locate,
        "opencv-digits": opencv_digits.locate,
    }
    for name, find in places.items():
        try:
            yield Finding(f"data {name}", "ok", str(find()))
        except DecayFreeError as error:
            # What is missing, then how to get it.
            answer, cure = re.split(r"\. |: ", str(error), maxsplit=1)
            yield Finding(f"data {name}", "missing", answer, cure)


def _places() -> Iterator[tuple[str, Path]]:
    yield "this folder", Path.cwd()
    yield "temporary folder", Path(tempfile.gettempdir())


def _writable(name: str, folder: Path) -> Finding:
    """Tried by a file that is gone again: a full disk, or one mounted read-only, has no other sign."""
    try:
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            file.write(b"0" * 4096)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return Finding(
            name,
            "broken",
            f"{folder} cannot be written: {error.strerror or error}",
            "work in a folder of yours, or name one with --out",
        )
    return Finding(name, "ok", f"{folder} can be written")


def _version_of(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> tuple[int, ...]:
    """Of a release; what comes behind the numbers does not count.

    Example:
        >>> _numbers("2.13.0+cpu") >= _numbers("2.4"), _numbers("0.9rc1") >= _numbers("0.10")
        (True, False)
    """
    return tuple(map(int, re.findall(r"\d+", re.split(r"[^\d.]", version)[0])))
