"""What does recording cost on ResNet-50, in time and in memory, beside bare training in one run?

    python benchmarks/recorder.py [--device cuda] [--rounds 20] [--batch 16] [--only steps passes]

Prints ratios, each with the target it is held to and whether it was met. Training is with and without weight
rescaling; samples go to a file. Sets nothing on the machine but the number of threads.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import decayfree
from decayfree.dynamics import fused_rows, row_sums
from decayfree.dynamics.recorder import Recorder
from measure import Work, added, interleaved, quartiles
from memory import peak_bytes
from passes import Passes
from rescale import Line, Still, find, hardware, is_installed, training_step
from resnet50 import ResNet50, convolutions

EVERY = 50  # the recorder's default
MOST_TIME = 0.02
MOST_TIME_OF_A_SAMPLE = 0.15
MOST_PASSES = 12
MOST_MEMORY = 1.0
CACHE_BYTES = 4 << 20
MEMORY_PASSES = 6  # of one sample, see `passes`


def main() -> None:
    """Read the arguments, run the parts, print their lines."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument(
        "--rounds",
        type=int,
        default=20,
        help="how often single steps are timed; fifty steps, a quarter of it",
    )
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--size", type=int, default=64, help="of the images, in pixels")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS), help="parts to run")
    parser.add_argument(
        "--peak-of",
        nargs=2,
        metavar=("KIND", "FOUND"),
        help="print the peak bytes of one kind of training, with what was found in a file, and nothing else",
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    device = torch.device(args.device)
    with tempfile.TemporaryDirectory() as folder:
        training = Training(device, args.batch, args.size, Path(folder))
        if args.peak_of:
            kind, found = args.peak_of
            print(training.peak(kind, json.loads(Path(found).read_text())))
            return
        print(hardware(device))
        print(f"ResNet-50, {args.size} pixels, batch {args.batch}, SGD with momentum, 53 weights recorded")
        for part in args.only:
            title, run = PARTS[part]
            print(f"\n{title}")
            for line in run(training, args.rounds):
                print(line, flush=True)


class Training:
    """Training steps of models of their own, one for each kind of recording.

    Args:
        device: Where.
        batch: Images in a step.
        size: Of the images, in pixels.
        folder: Where samples go.
    """

    def __init__(self, device: torch.device, batch: int, size: int, folder: Path) -> None:
        self.device, self.batch, self.size, self.folder = device, batch, size, folder

    def step(self, kind: str, every: int = 1, found: dict[str, Any] | None = None) -> Callable[[], None]:
        """One step, as something to call.

        ``every``: of the recorder, if the kind has one; ``found``: what is known already.
        """
        model: nn.Module = ResNet50().to(self.device)
        images = torch.randn(self.batch, 3, self.size, self.size, device=self.device)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
        rescaled, recorded = KINDS[kind]
        weights = decayfree.Invariance.from_dict(found, model) if found else find(model, self.device)
        if rescaled:
            decayfree.WeightRescaling(optimizer, weights)
        if recorded:
            Recorder(optimizer, weights, every=every, sink=self.folder / f"{kind}.jsonl")
        return training_step(model, images, optimizer)

    def peak(self, kind: str, found: dict[str, Any]) -> int:
        """The most memory that a few steps need above what was there before the model.

        Each of them is sampled.
        """
        self._use_everything_once()
        before = peak_bytes(self.device)
        step = self.step(kind, found=found)
        for _ in range(4):
            step()
        return peak_bytes(self.device) - before

    def _use_everything_once(self) -> None:
        """On a tiny model, so that code loaded with its first use is not taken for memory of the weights."""
        model = nn.Sequential(
            *(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten()),
            *(nn.LazyLinear(1000), nn.BatchNorm1d(1000)),  # large enough for machine code
        ).to(self.device)
        images = torch.randn(4, 3, 8, 8, device=self.device)
        model(images)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
        found = decayfree.find_invariant(model, images)
        decayfree.WeightRescaling(optimizer, found)
        Recorder(optimizer, found, every=1, sink=self.folder / "tiny.jsonl")
        training_step(model, images, optimizer)()


# What weights must have at least for machine code: as it is, and none.
ARITHMETICS = {"with numba": fused_rows.LEAST, "without": sys.maxsize}
if not is_installed("numba"):
    del ARITHMETICS["with numba"]
KINDS = {  # whether there is a WeightRescaling, and a Recorder
    "bare": (False, False),
    "recorded": (False, True),
    "rescaled": (True, False),
    "rescaled and recorded": (True, True),
}


def steps(training: Training, n_rounds: int) -> Iterator[Line]:
    """What a sampled step adds, what the hooks add to each of the others, and both over fifty steps."""
    per_call = hooks_ms(training.device)
    yield Line("the hooks add to a step between samples, ms", f"{per_call:.4f}")
    for bare, recorded in (("bare", "recorded"), ("rescaled", "rescaled and recorded")):
        works = {bare: Work(training.step(bare))}
        for arithmetic, least in ARITHMETICS.items():
            works[arithmetic] = Work(training.step(recorded), partial(setattr, fused_rows, "LEAST", least))
        elapsed = interleaved(works, n_rounds=n_rounds, device=training.device)
        step = quartiles(elapsed[bare])
        yield Line(f"a training step, {bare}, ms", step.format(1))
        for arithmetic in ARITHMETICS:
            sampled = added(elapsed[arithmetic], elapsed[bare])
            of_one = sampled.median / step.median
            share = (of_one + (EVERY - 1) * per_call / step.median) / EVERY
            yield Line(f"a sampled step adds, {arithmetic}, ms", sampled.format(1))
            # Without numba it is float64 operations, see `floors`.
            aim = [of_one, MOST_TIME_OF_A_SAMPLE] if arithmetic == "with numba" else []
            yield Line("a sampled step adds, share of a step", f"{of_one:.3f}", *aim)
            yield Line("one sampled step and 49 others add, share", f"{share:.4f}", share, MOST_TIME)
    yield from floors(training, step.median)


def floors(training: Training, step_ms: float) -> Iterator[Line]:
    """What bandwidth alone would take, and what torch's operations do on what is in the cache."""
    n_numbers = sum(weight.numel() for weight in convolutions(ResNet50()))
    source, target = torch.ones(2, n_numbers, device=training.device).unbind()
    piece = torch.randn(2, row_sums._PIECE_ON_CPU // 576, 576, dtype=torch.float64, device=training.device)
    narrow = piece.float()

    def compare() -> None:
        for compare_rows in (row_sums._slope, row_sums._motion):
            compare_rows(piece.copy_(narrow))

    works = {"copy": Work(lambda: target.copy_(source)), "arithmetic": Work(compare)}
    elapsed = interleaved(works, n_rounds=30, device=training.device)
    floor_ms = {
        "a plain copy's time for as many passes, share of a step": MEMORY_PASSES / 2,
        "float64 operations in the cache alone, without numba, share": n_numbers / piece[0].numel(),
    }
    for (what, times), values in zip(floor_ms.items(), elapsed.values(), strict=True):
        yield Line(what, f"{quartiles(values).median * times / step_ms:.3f}")


def hooks_ms(device: torch.device, n_calls: int = 2000) -> float:
    """What a recorder's hooks add to a step that is not sampled, on an optimizer that does nothing."""
    model = ResNet50().to(device)
    optimizers = {kind: Still(convolutions(model)) for kind in ("bare", "recorded")}
    for weight in convolutions(model):  # without gradients it is asked whether a step moved anything
        weight.grad = torch.zeros_like(weight)
    Recorder(optimizers["recorded"], find(model, device), every=10**9, sink=print, family="sgd")
    works = {kind: Work(repeated(optimizer.step, n_calls)) for kind, optimizer in optimizers.items()}
    elapsed = interleaved(works, n_rounds=10, device=device)
    return added(elapsed["recorded"], elapsed["bare"]).median / n_calls


def whole(training: Training, n_rounds: int) -> Iterator[Line]:
    """All of fifty steps, one of them sampled, beside fifty without.

    Step by step in turns, so that both meet the same disturbance.
    """
    n_runs = max(4, n_rounds // 4)
    works = {kind: Work(training.step(kind, every=EVERY)) for kind in ("bare", "recorded")}
    elapsed = interleaved(works, n_rounds=n_runs * EVERY, device=training.device)
    totals = {
        kind: [sum(values[run * EVERY : (run + 1) * EVERY]) for run in range(n_runs)]
        for kind, values in elapsed.items()
    }
    shares = [
        with_it / without - 1 for with_it, without in zip(totals["recorded"], totals["bare"], strict=True)
    ]
    share = sum(totals["recorded"]) / sum(totals["bare"]) - 1
    yield Line("fifty training steps, s", f"{quartiles(totals['bare']).median / 1e3:.2f}")
    yield Line(f"fifty with a recorder / fifty without - 1, {n_runs} times", quartiles(shares).format(4))
    yield Line("... all of them together", f"{share:.4f}", share, MOST_TIME)


def passes(training: Training, n_rounds: int) -> Iterator[Line]:
    """How often one sample reads or writes the memory of the recorded weights; a count, not a time."""
    for arithmetic, least in ARITHMETICS.items():
        fused_rows.LEAST = least
        model = ResNet50().to(training.device)
        optimizer = Still(convolutions(model))
        optimizer.param_groups[0]["lr"] = 1.0  # at 0 nothing would be sampled
        found = find(model, training.device)
        Recorder(optimizer, found, every=1, sink=training.folder / "passes.jsonl", family="sgd")
        weights = convolutions(model)
        for weight in weights:
            weight.grad = torch.randn_like(weight)
        optimizer.step()
        counted = Passes([*weights, *(weight.grad for weight in weights)], CACHE_BYTES)
        with counted, machine_code_seen_by(counted):
            optimizer.step()
        n_passes = counted.n_bytes / sum(weight.nbytes for weight in weights)
        what = f"passes over the recorded weights in a sample, {arithmetic}"
        yield Line(what, f"{n_passes:.2f}", n_passes, MOST_PASSES)


@contextmanager
def machine_code_seen_by(counted: Passes) -> Iterator[None]:
    """Counts what goes to numba's code, which torch does not know of: it meets each row in memory once."""
    in_memory = fused_rows._in_memory

    def counting(*pair: Tensor) -> list[Tensor]:
        matrices = in_memory(*pair)
        counted.count(*matrices)
        return matrices

    fused_rows._in_memory = counting
    try:
        yield
    finally:
        fused_rows._in_memory = in_memory


def memory(training: Training, n_rounds: int) -> Iterator[Line]:
    """Peak memory of training in own processes, each step sampled, in copies of the recorded weights."""
    model = ResNet50().to(training.device)
    copy_bytes = sum(weight.nbytes for weight in convolutions(model))
    found = training.folder / "found.json"  # so that looking for weights is not part of the peak
    found.write_text(json.dumps(find(model, training.device).to_dict()))
    yield Line("one copy of the recorded weights, MB", f"{copy_bytes / 1e6:.1f}")
    for bare, recorded in (("bare", "recorded"), ("rescaled", "rescaled and recorded")):
        peaks = {
            kind: [peak_in_a_process(training, kind, found) for _ in range(5)] for kind in (bare, recorded)
        }
        middle = {kind: statistics.median(values) for kind, values in peaks.items()}
        extra = (middle[recorded] - middle[bare]) / copy_bytes
        yield Line(f"peak memory of training, {bare}, MB", f"{middle[bare] / 1e6:.0f}")
        yield Line("what recording adds to it, in such copies", f"{extra:.3f}", extra, MOST_MEMORY)


def peak_in_a_process(training: Training, kind: str, found: Path) -> int:
    """Peak memory of one kind of training in a process of its own."""
    command = [sys.executable, __file__, "--device", training.device.type, "--batch", str(training.batch)]
    command += ["--size", str(training.size), "--peak-of", kind, str(found)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def repeated(step: Callable[[], None], n_times: int = EVERY) -> Callable[[], None]:
    """The same so many times."""

    def run() -> None:
        for _ in range(n_times):
            step()

    return run


PARTS: dict[str, tuple[str, Callable[[Training, int], Iterator[Line]]]] = {
    "steps": ("Single steps", steps),
    "whole": ("Fifty steps", whole),
    "passes": ("Passes over memory", passes),
    "memory": ("Memory", memory),
}

if __name__ == "__main__":
    main()
