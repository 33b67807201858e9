"""What does a study's machinery cost beside training without it?

The loop, two runs at a time, the start, the page, memory.

    python benchmarks/study.py [--device cuda] [--rounds 16] [--only loop jobs start page memory]

Prints ratios, each with the target it is held to and whether it was met. Needs Fashion-MNIST where
`decayfree demo` finds it, and Lightning for its part of the loop. Sets nothing on the machine but the number
of threads.
"""

import argparse
import contextlib
import dataclasses
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from decayfree.methods import WRS, NoTreatment
from decayfree.study import DataSpec, ModelSpec, Recipe, RunSettings, StudySpec, run_study
from decayfree.study.data import load
from decayfree.study.models import build_model
from decayfree.study.training.loop import train
from measure import quartiles, ratios
from rescale import hardware

N_STEPS, N_WARM_UP = 60, 8
RECIPE = Recipe(
    n_epochs=1,
    batch_size=128,
    n_samples=2,
    off_span=False,
    data=DataSpec("fashion-mnist", n_train=128 * N_STEPS, n_test=500),
    model=ModelSpec("vgg11-bn", width_factor=1 / 8),
)
LEAST_OF_BARE, LEAST_OF_LIGHTNING, LEAST_OF_TWO_JOBS = 0.97, 1.2, 1.8
MOST_IMPORT_S, MOST_HELP, MOST_PAGE_S, MOST_GROWTH_MIB = 2.5, 0.33, 10.0, 1.0


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of the table: what was measured, and whether it is what it should be."""

    what: str
    figure: str
    target: str = ""
    is_met: bool = True

    def __str__(self) -> str:
        verdict = f"target {self.target}: {'met' if self.is_met else 'missed'}" if self.target else ""
        return f"  {self.what:<70} {self.figure:<22} {verdict}".rstrip()


def main() -> None:
    """Read the arguments, run the parts, print their lines."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--rounds", type=int, default=16, help="how often each loop is timed")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS), help="parts to run")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(hardware(torch.device(args.device)))
    recipe = dataclasses.replace(RECIPE, device=args.device)
    for part in args.only:
        title, run = PARTS[part]
        print(f"\n{title}")
        for line in run(recipe, args.rounds):
            print(line, flush=True)


def loop(recipe: Recipe, n_rounds: int) -> Iterator[Line]:
    """The loop of studies beside a bare one, and beside Lightning's Trainer in two spellings."""
    flipped = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, flip=True, crop_padding=2))
    loops: dict[str, Callable[[], float]] = {
        "ours": lambda: of_study(recipe),
        "bare": lambda: bare(recipe),
        "ours, augmented": lambda: of_study(flipped),
    }
    # The latter of a torchvision that does not fit torch.
    with contextlib.suppress(ImportError, RuntimeError):
        import lightning

        del lightning
        loops["Lightning, tensors"] = lambda: with_lightning(recipe, TensorDataset)
        loops["Lightning, torchvision's transforms"] = lambda: with_lightning(recipe, transformed)
    step_ms: dict[str, list[float]] = {name: [] for name in loops}
    for number in range(-1, n_rounds):
        for name, one in loops.items():
            elapsed_ms = 1e3 * one()
            if number >= 0:
                step_ms[name].append(elapsed_ms)
    for name, elapsed in step_ms.items():
        yield Line(f"a step, {name}, ms", quartiles(elapsed).format(2))
    of_bare = ratios(step_ms["bare"], step_ms["ours"])
    yield at_least(
        "throughput between samples, ours over bare", of_bare.median, of_bare.format(3), LEAST_OF_BARE
    )
    tensors, usual = "Lightning, tensors", "Lightning, torchvision's transforms"
    # No target: the same kernels on the same batches, so that only hooks and collation differ.
    if tensors in step_ms:
        yield Line(f"throughput, ours over {tensors}", ratios(step_ms[tensors], step_ms["ours"]).format(3))
        of_usual = ratios(step_ms[usual], step_ms["ours, augmented"])
        what = f"throughput, ours, augmented over {usual}"
        yield at_least(what, of_usual.median, of_usual.format(3), LEAST_OF_LIGHTNING)
    else:
        yield Line("Lightning is not installed, or does not import", "")


def jobs(recipe: Recipe, n_rounds: int) -> Iterator[Line]:
    """Runs finished in a second with two at a time, over one at a time; starting the processes included."""
    settings = dataclasses.replace(recipe, n_epochs=8)
    spec = StudySpec(methods=(NoTreatment(), WRS()), seeds=(0, 1), recipe=settings)
    seconds: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(max(1, n_rounds // 5)):
        for n_jobs, measured in seconds.items():
            with tempfile.TemporaryDirectory() as folder:
                began_s = time.perf_counter()
                outcome = run_study(spec, Path(folder), n_jobs=n_jobs)
                measured.append(time.perf_counter() - began_s)
                assert outcome.n_done == 4, outcome.reasons
    gain = statistics.median(one / two for one, two in zip(seconds[1], seconds[2], strict=True))
    yield Line("four runs of 480 steps one at a time, s", f"{statistics.median(seconds[1]):.1f}")
    yield at_least("throughput, --jobs 2 over --jobs 1", gain, f"{gain:.2f}", LEAST_OF_TWO_JOBS)


def start(recipe: Recipe, n_rounds: int) -> Iterator[Line]:
    """From nothing, in processes of their own, by turns: the machine's mood meets them all."""
    imports = "import torch", "from decayfree.study import *"
    commands = {what: (sys.executable, "-c", what) for what in imports}
    commands["decayfree --help"] = (sys.executable, "-m", "decayfree", "--help")
    seconds: dict[str, list[float]] = {what: [] for what in commands}
    for number in range(-1, n_rounds):
        for what, command in commands.items():
            began_s = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            if number >= 0:
                seconds[what].append(time.perf_counter() - began_s)
    bare, ours, answer = seconds.values()
    yield Line("import torch, s", quartiles(bare).format())
    yield at_most(
        "from decayfree.study import *, s", statistics.median(ours), quartiles(ours).format(), MOST_IMPORT_S
    )
    yield Line("decayfree --help, s", quartiles(answer).format())
    of_torch = ratios(answer, bare)
    yield at_most("decayfree --help over import torch", of_torch.median, of_torch.format(), MOST_HELP)


def page(recipe: Recipe, n_rounds: int) -> Iterator[Line]:
    """Reading and drawing a study of 500 runs of 25 rows each, written by the writers of studies."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
    from decayfree.methods import WeightDecay
    from decayfree.report import write_report
    from decayfree.study import Axis
    from support.synthetic_study import OPTIMIZERS, Writer, axes_spec, bumpy, hot

    optimizers = Axis(
        "optimizer", tuple((("name", one.name), ("momentum", one.momentum)) for one in OPTIMIZERS)
    )
    axes = (optimizers, Axis("learning_rate", (0.03, 0.1)), Axis("model.name", ("vgg11-bn", "resnet18")))
    methods = (NoTreatment(), *map(WeightDecay, (1e-4, 1e-3, 1e-2)), WRS())
    spec = axes_spec(n_seeds=5, methods=methods, axes=axes)
    assert len(spec.runs()) >= 500, "the target is for 500 runs"
    weights = tuple(f"features.{index}.weight" for index in range(20))
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        Writer(out, spec=spec, final_of=bumpy, state_of=hot, n_intervals=24, weights=weights).write()
        seconds = []
        for _ in range(max(1, n_rounds // 4)):
            began_s = time.perf_counter()
            path = write_report(out)
            seconds.append(time.perf_counter() - began_s)
        yield Line(
            "runs of 25 rows, and MB of their page", f"{len(spec.runs())}, {path.stat().st_size / 1e6:.1f}"
        )
        median = statistics.median(seconds)
        yield at_most("reading and drawing, s", median, f"{median:.1f}", MOST_PAGE_S)


def memory(recipe: Recipe, n_rounds: int) -> Iterator[Line]:
    """Resident memory in the second half of a long run.

    Of a small network, so that it has many steps and samples.
    """
    small = dataclasses.replace(
        recipe,
        n_epochs=40,
        batch_size=32,
        n_samples=41,
        data=DataSpec("digits", n_train=800, n_test=500),
        model=ModelSpec("vgg4-bn", width_factor=1 / 16),
    )
    seen: list[float] = []

    def look(n_done: int) -> bool:
        if n_done % 20 == 0:
            seen.append(resident_mib())
        return True

    with tempfile.TemporaryDirectory() as folder:
        train(RunSettings(WRS(), 0, small), Path(folder), on_step=look)
    half, quarter = len(seen) // 2, len(seen) // 4
    growth = statistics.median(seen[-quarter:]) - statistics.median(seen[half - quarter : half])
    yield Line(f"resident memory after {small.n_steps} steps and 41 samples, MiB", f"{seen[-1]:.0f}")
    yield at_most(
        "last quarter over second quarter of the run, MiB", growth, f"{growth:+.2f}", MOST_GROWTH_MIB
    )


def of_study(recipe: Recipe) -> float:
    """Seconds a step, as studies train."""
    clock = Clock(recipe)
    with tempfile.TemporaryDirectory() as folder:
        train(RunSettings(NoTreatment(), 0, recipe), Path(folder), on_step=clock)
    return clock.seconds_per_step


def bare(recipe: Recipe) -> float:
    """Seconds a step of the loop that one writes by hand.

    Standardized tensors on the device, a permutation, no bookkeeping.
    """
    clock = Clock(recipe)
    images, labels, model, optimizer = parts(recipe)
    order = torch.randperm(len(images))
    for step in range(N_STEPS):
        chosen = order[step * recipe.batch_size : (step + 1) * recipe.batch_size]
        inputs = images[chosen].expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)
        loss = F.cross_entropy(model(inputs), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        clock(step + 1)
    return clock.seconds_per_step


def with_lightning(
    recipe: Recipe, dataset_of: Callable[[Tensor, Tensor], Dataset[tuple[Tensor, ...]]]
) -> float:
    """Seconds a step with Lightning's Trainer and torch's DataLoader.

    In the same process, nothing logged, nothing saved.
    """
    import lightning

    images, labels, model, optimizer = parts(recipe)
    clock = Clock(recipe)

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
            inputs = batch[0].expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)
            return F.cross_entropy(self.model(inputs), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return optimizer

        def on_train_batch_end(self, *_: object) -> None:
            clock(int(self.global_step))

    loader = DataLoader(
        dataset_of(images, labels), batch_size=recipe.batch_size, shuffle=True, drop_last=True
    )
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        trainer = lightning.Trainer(
            max_epochs=1,
            accelerator="gpu" if recipe.device == "cuda" else "cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
        )
        trainer.fit(Module(), loader)
    return clock.seconds_per_step


def transformed(images: Tensor, labels: Tensor) -> Dataset[tuple[Tensor, ...]]:
    """What torchvision's FashionMNIST gives with the usual transforms.

    A Pillow image is made and changed when it is asked for.
    """
    from PIL import Image
    from torchvision import transforms

    low, high = images.min(), images.max()
    pixels = images.squeeze(1).sub(low).div(high - low).mul(255).round().to(torch.uint8).numpy()
    change = transforms.Compose(
        [
            transforms.RandomCrop(28, padding=2),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize((0.286,), (0.353,)),
        ]
    )

    class Transformed(Dataset[tuple[Tensor, ...]]):
        def __len__(self) -> int:
            return len(labels)

        def __getitem__(self, index: int) -> tuple[Tensor, ...]:
            return change(Image.fromarray(pixels[index])), labels[index]

    return Transformed()


class Clock:
    """Called with the number of steps done after each; the first ones do not count."""

    def __init__(self, recipe: Recipe) -> None:
        self._device = torch.device(recipe.device)
        self._now = time.process_time if self._device.type == "cpu" else time.perf_counter
        self._began_s = self._ended_s = 0.0

    def __call__(self, n_done: int) -> bool:
        if n_done in (N_WARM_UP, N_STEPS - 1):  # after the last one a study takes its sample
            if self._device.type == "cuda":
                torch.cuda.synchronize()
            self._began_s, self._ended_s = self._ended_s, self._now()
        return True

    @property
    def seconds_per_step(self) -> float:
        return (self._ended_s - self._began_s) / (N_STEPS - 1 - N_WARM_UP)


def parts(recipe: Recipe) -> tuple[Tensor, Tensor, nn.Module, torch.optim.Optimizer]:
    """Standardized grey images (n, 1, 28, 28) and labels, and the model and optimizer of studies."""
    dataset = load(recipe.data, None, recipe.device)
    pixels = dataset.train.pixels.to(recipe.device).float()
    images = pixels.sub(dataset.mean).div(dataset.std).unsqueeze(1)
    model = build_model(recipe.model, n_classes=10, image_size=(28, 28), seed=0)
    model.to(recipe.device, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=recipe.learning_rate, momentum=0.9)
    return images, dataset.train.labels, model, optimizer


def resident_mib() -> float:
    """Of this process, in MiB; Linux only."""
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def at_least(what: str, value: float, figure: str, least: float) -> Line:
    """A line that is met from ``least`` on."""
    return Line(what, figure, f"at least {least:g}", value >= least)


def at_most(what: str, value: float, figure: str, most: float) -> Line:
    """A line that is met up to ``most``."""
    return Line(what, figure, f"at most {most:g}", value <= most)


PARTS: dict[str, tuple[str, Callable[[Recipe, int], Iterator[Line]]]] = {
    "loop": ("VGG11-BN at an eighth of its width, Fashion-MNIST, batch 128, one thread", loop),
    "jobs": ("Two runs at a time on two cores", jobs),
    "start": ("From nothing, in a process of its own", start),
    "page": ("The page of a large study", page),
    "memory": ("Memory of a run over time", memory),
}

if __name__ == "__main__":
    main()
