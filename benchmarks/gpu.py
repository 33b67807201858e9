"""What does decayfree do on this GPU? All tests and benchmarks that want one, in minutes, into one JSON.

    python benchmarks/gpu.py [--out gpu.json] [--minutes 9] [--only resnet50 gpt floor peers search recorder]

Each benchmark runs in a process of its own, so that one that fails takes nothing along; what there was no
time for is named. Where there is no GPU it says so, writes nothing, and exits with 0; with 1 if a test failed
or a benchmark did not come to its end. A target that is missed is a result.
"""

import argparse
import json
import multiprocessing
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch

import decayfree
import recorder
import rescale
import steps
from rescale import Line, hardware

ROOT = Path(__file__).resolve().parents[1]


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the arguments, run tests and benchmarks until the time is up, write the file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda", help="cpu: to try the command")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    parser.add_argument("--minutes", type=float, default=9.0, help="for all of it")
    parser.add_argument("--rounds", type=int, default=30, help="how often each piece of work is timed")
    parser.add_argument("--size", choices=list(steps.SIZES), default="full", help="of the training steps")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="benchmarks to run")
    parser.add_argument("--tests", nargs="+", default=["tests"], help="where to look for tests")
    args = parser.parse_args(arguments)
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print(f"skipped, {args.out} is not written: torch {torch.__version__} sees no GPU")
        return 0
    start = time.monotonic()
    deadline = start + 60 * args.minutes
    print(hardware(device), flush=True)
    # Tests have half of it at most.
    tests = tested(args.tests, (start + deadline) / 2)
    figures, unfinished = [], {}
    for part in args.only:
        print(f"\n{part}", flush=True)
        lines, reason = measured(partial(lines_of, part, device, args.rounds, args.size), deadline)
        figures += figures_of(part, lines)
        if reason is not None:
            print(f"  {reason}", flush=True)
            unfinished[part] = reason
    report = {
        "hardware": hardware(device),
        "versions": versions(),
        "elapsed_s": round(time.monotonic() - start),
        "tests": tests,
        "figures": figures,
        "unfinished": unfinished,
    }
    args.out.write_text(json.dumps(report, indent=1) + "\n")
    n_missed = sum(one["verdict"] == "missed" for one in figures)
    n_met = sum(one["verdict"] == "met" for one in figures)
    print(f"\n{n_met} targets met, {n_missed} missed; {args.out} has all of it")
    return int(bool(tests["failed"] or tests["unfinished"] or unfinished))


PARTS = ["resnet50", "gpt", "floor", "peers", "search", "recorder"]


def lines_of(part: str, device: torch.device, n_rounds: int, size: str) -> Iterator[Line]:
    """The figures of one benchmark."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if part in steps.PARTS:
        yield from steps.PARTS[part](device, n_rounds, steps.SIZES[size])
    elif part in rescale.PARTS:
        yield from rescale.PARTS[part][1](device, n_rounds)
    else:
        n_images, pixels = steps.SIZES[size].images
        with tempfile.TemporaryDirectory() as folder:
            yield from recorder.steps(recorder.Training(device, n_images, pixels, Path(folder)), n_rounds)


def measured(lines: Callable[[], Iterator[Line]], deadline: float) -> tuple[list[Line], str | None]:
    """What ``lines`` gives in a process of its own, and why it did not come to its end, if so."""
    # A fork cannot use a GPU that the process before it has used; without one nothing is imported again.
    context = multiprocessing.get_context("spawn" if torch.cuda.is_available() else "fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=send, args=(lines, theirs), daemon=False)
    process.start()
    theirs.close()
    received: list[Line] = []
    try:
        while ours.poll(max(deadline - time.monotonic(), 0)):
            message = ours.recv()
            if not isinstance(message, Line):
                return received, message
            received.append(message)
            print(message, flush=True)
    except EOFError:
        process.join()
        return received, f"its process ended with {process.exitcode}"
    else:
        return received, "no time was left"
    finally:
        process.kill()
        process.join()


def send(lines: Callable[[], Iterator[Line]], connection: Connection) -> None:
    """Each line, then None or what went wrong."""
    try:
        for line in lines():
            connection.send(line)
    except (Exception, SystemExit) as error:
        connection.send(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")
    else:
        connection.send(None)


def figures_of(part: str, lines: Sequence[Line]) -> Iterator[dict[str, Any]]:
    """As JSON has them; an indented line is about what the last one was about that is not."""
    about = ""
    for line in lines:
        what = line.what.strip()
        if line.what.startswith(" "):
            what = f"{about}: {what}"
        else:
            about = what.partition(":")[0]
        yield {
            "part": part,
            "what": what,
            "figure": line.figure,
            "value": line.value,
            "target": line.target,
            "verdict": line.verdict,
        }


def tested(paths: Sequence[str], deadline: float) -> dict[str, Any]:
    """How the tests end that are marked ``gpu``: how many passed, which did not."""
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results.xml"
        command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", f"--junitxml={results}", *paths]
        try:
            subprocess.run(command, cwd=ROOT, timeout=max(deadline - time.monotonic(), 0), check=False)
            return counted(results.read_text(encoding="utf-8"))
        except (subprocess.TimeoutExpired, FileNotFoundError) as error:
            return {"passed": 0, "failed": [], "skipped": {}, "unfinished": str(error)}


def counted(results: str) -> dict[str, Any]:
    """What pytest's file of results says."""
    ends: dict[str, Any] = {"passed": 0, "failed": [], "skipped": {}, "unfinished": None}
    for case in ElementTree.fromstring(results).iter("testcase"):
        name = f"{case.get('classname')}.{case.get('name')}"
        skipped = case.find("skipped")
        if skipped is not None:
            ends["skipped"][name] = skipped.get("message")
        elif case.find("failure") is not None or case.find("error") is not None:
            ends["failed"].append(name)
        else:
            ends["passed"] += 1
    return ends


def versions() -> dict[str, str | None]:
    """Of what was measured, and of what it ran on."""
    cudnn = torch.backends.cudnn.version()
    return {
        "decayfree": decayfree.__version__,
        "torch": torch.__version__,
        "CUDA": torch.version.cuda,
        "ROCm": torch.version.hip,
        "cuDNN": None if cudnn is None else str(cudnn),
        "Python": platform.python_version(),
    }


if __name__ == "__main__":
    sys.exit(main())
