"""What do rescaling and recording add to a training step in other people's trainers?

    python benchmarks/trainers.py [--rounds 3] [--only plain lightning]

A ResNet-18 of half its width, batches of 64 made-up images of 32×32, SGD with momentum: in a plain loop,
under DistributedDataParallel on two processes, in Lightning, in the Trainer of transformers, and in the shape
of timm's script. Bare, rescaled after each step, and recorded as it is by default (one sample in 50 steps)
take turns; each takes 52 steps, of which the first two do not count. Prints ratios over bare, each with what
it is held to.
Sets nothing on the machine but the number of threads.
"""

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

import decayfree
from decayfree.study import ModelSpec
from decayfree.study.models import build_model
from measure import quartiles, ratios
from rescale import Line, hardware, is_installed

N_STEPS, N_SKIPPED, BATCH = 52, 2, 64
MOST = {"rescaled": 1.02, "recorded": 1.01}
ARMS = ("bare", *MOST)


def main() -> None:
    """Read the arguments, let the arms of each trainer take turns, print a line for each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="how often each arm takes 52 steps, from 2 on")
    parser.add_argument("--only", nargs="+", choices=list(TRAINERS), default=list(TRAINERS))
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    print(hardware(torch.device("cpu")))
    for name in args.only:
        needs = {"lightning": "lightning", "transformers": "transformers", "timm": "timm"}.get(name)
        if needs and not is_installed(needs):
            print(f"{name}: {needs} is not installed")
            continue
        step_ms: dict[str, list[float]] = {arm: [] for arm in ARMS}
        for _ in range(max(args.rounds, 2)):
            for arm in ARMS:
                step_ms[arm].append(TRAINERS[name](arm))
        print(f"{name}: a bare step takes {quartiles(step_ms['bare']).format(1)} ms")
        for arm, most in MOST.items():
            over = ratios(step_ms[arm], step_ms["bare"])
            print(Line(f"{arm} over bare", over.format(3), over.median, most))


class Clock:
    """Milliseconds a step, from the end of the second one to that of the last; of processor time."""

    def __init__(self, clock: Callable[[], float] = time.process_time) -> None:
        self._clock, self.ends = clock, list[float]()

    def tick(self) -> None:
        """A step has ended."""
        self.ends.append(self._clock())

    @property
    def step_ms(self) -> float:
        """In the mean, so that the one sample counts for a fiftieth."""
        counted = self.ends[N_SKIPPED - 1 :]
        return (counted[-1] - counted[0]) / (len(counted) - 1) * 1e3


def network() -> nn.Module:
    """In channels last."""
    model = build_model(
        ModelSpec(name="resnet18", width_factor=0.5), n_classes=10, image_size=(32, 32), seed=0
    )
    return model.to(memory_format=torch.channels_last)


def batches(seed: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    """Of a training."""
    draws = torch.Generator().manual_seed(seed)
    for _ in range(N_STEPS):
        images = torch.randn(BATCH, 3, 32, 32, generator=draws)
        yield images.to(memory_format=torch.channels_last), torch.randint(10, (BATCH,), generator=draws)


def treat(arm: str, optimizer: torch.optim.Optimizer, found: decayfree.Invariance, folder: str) -> None:
    """Attach what the arm is called after."""
    if arm == "rescaled":
        decayfree.WeightRescaling(optimizer, found)
    if arm == "recorded":
        decayfree.Recorder(optimizer, found, sink=Path(folder) / "dynamics.jsonl")


def found_in(model: nn.Module) -> decayfree.Invariance:
    """Of the plain model."""
    return decayfree.find_invariant(model, next(batches())[0][:4])


def plain(arm: str, *, clock: Clock | None = None, is_parallel: bool = False) -> float:
    """A loop of five lines."""
    model, clock = network(), clock or Clock()
    found = found_in(model)
    model = nn.parallel.DistributedDataParallel(model) if is_parallel else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    with tempfile.TemporaryDirectory() as folder:
        treat(arm, optimizer, found, folder)
        for images, labels in batches():
            optimizer.zero_grad()
            cross_entropy(model(images), labels).backward()
            optimizer.step()
            clock.tick()
    return clock.step_ms


def ddp(arm: str) -> float:
    """The same on two processes, by the clock on the wall of the first."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_on_rank, args=(arm, folder), nprocs=2)
        return float((Path(folder) / "step_ms").read_text())


def _on_rank(rank: int, arm: str, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    step_ms = plain(arm, clock=Clock(time.perf_counter), is_parallel=True)
    if rank == 0:
        (Path(folder) / "step_ms").write_text(repr(step_ms))
    dist.destroy_process_group()


def timm(arm: str) -> float:
    """Its optimizer by groups of layers, an average, a schedule."""
    from timm.optim import create_optimizer_v2
    from timm.scheduler import create_scheduler_v2
    from timm.utils import ModelEmaV3

    model, clock = network(), Clock()
    optimizer = create_optimizer_v2(model, "sgd", lr=0.1, weight_decay=0.0)
    with tempfile.TemporaryDirectory() as folder:
        treat(arm, optimizer, found_in(model), folder)
        average = ModelEmaV3(model, decay=0.99)
        scheduler, _ = create_scheduler_v2(
            optimizer, num_epochs=2, updates_per_epoch=N_STEPS, step_on_epochs=False
        )
        for step, (images, labels) in enumerate(batches(), start=1):
            optimizer.zero_grad()
            cross_entropy(model(images), labels).backward()
            optimizer.step()
            average.update(model, step=step)
            scheduler.step_update(num_updates=step)
            clock.tick()
    return clock.step_ms


def lightning(arm: str) -> float:
    """Its Trainer with our callbacks."""
    import lightning.pytorch as pl

    from decayfree.integrations.lightning import RecorderCallback, WeightRescalingCallback

    clock, images = Clock(), next(batches())[0][:4]

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = network()

        def forward(self, images: Tensor) -> Tensor:
            result: Tensor = self.model(images)
            return result

        def training_step(self, batch: Any, index: int) -> Tensor:
            return cross_entropy(self(batch[0]), batch[1])

        def on_train_batch_end(self, *_: Any) -> None:
            clock.tick()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)

    with tempfile.TemporaryDirectory() as folder:
        callbacks: dict[str, list[Any]] = {
            "bare": [],
            "rescaled": [WeightRescalingCallback(images)],
            "recorded": [RecorderCallback(images, sink=Path(folder) / "dynamics.jsonl")],
        }
        pl.Trainer(
            max_epochs=1,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
            callbacks=callbacks[arm],
        ).fit(Module(), DataLoader(list(batches()), batch_size=None))
    return clock.step_ms


def transformers(arm: str) -> float:
    """Its Trainer with our callbacks."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    from decayfree.integrations.transformers import RecorderCallback, WeightRescalingCallback

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = network()

        def forward(self, pixel_values: Tensor, labels: Tensor) -> dict[str, Tensor]:
            return {"loss": cross_entropy(self.model(pixel_values), labels)}

    class Ticking(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock.tick()

    model, clock = Model(), Clock()
    images, labels = next(batches())
    found = decayfree.find_invariant(model, {"pixel_values": images[:4], "labels": labels[:4]})
    data = [
        {"pixel_values": image, "labels": label}
        for pair in batches()
        for image, label in zip(*pair, strict=True)
    ]
    kinds: dict[str, list[Any]] = {
        "bare": [],
        "rescaled": [WeightRescalingCallback(found)],
        "recorded": [RecorderCallback(found)],
    }
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=BATCH,
            num_train_epochs=1,
            learning_rate=0.1,
            optim="sgd",
            max_grad_norm=0.0,
            use_cpu=True,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            log_level="error",
        )
        Trainer(model, arguments, train_dataset=data, callbacks=[*kinds[arm], Ticking()]).train()
    return clock.step_ms


TRAINERS: dict[str, Callable[[str], float]] = {
    "plain": plain,
    "ddp": ddp,
    "timm": timm,
    "lightning": lightning,
    "transformers": transformers,
}

if __name__ == "__main__":
    main()
