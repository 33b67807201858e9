"""What do rescaling and recording add to a training step in other people's trainers?

    python benchmarks/trainers.py [--rounds 8] [--only plain lightning]

A ResNet-18 of half its width, batches of 16 made-up images of 32×32, SGD with momentum: in a plain loop,
under DistributedDataParallel on two processes, in Lightning, in the Trainer of transformers, and in the shape
of timm's script; on JAX, eight convolutions of Flax in a compiled step. Trainings that are bare, rescaled
after each step, and recorded as it is by default (one sample in 50 steps) live in one process and take a step
each in turn, so that what disturbs one disturbs all; each round of 50 steps begins all of them anew. A batch
is small, so that a step is short beside what is added to it, which does not grow with it. Prints whole steps
over bare ones, over all rounds, with the interval of 95 % of a round's ratio over rounds (there is none of
fewer than three), and a step over one without what decayfree's hooks and callbacks take of it, which noise
hardly reaches. ``--steps 4 --batch 4 --rounds 1`` tries it. Sets nothing on the machine but the number of
threads, and that freed memory stays with the process.
"""

import argparse
import json
import logging
import os
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial, wraps
from itertools import count, cycle, islice, pairwise
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset

import decayfree
from decayfree.study import ModelSpec
from decayfree.study.models import build_model
from measure import keep_freed_memory, over_rounds, quartiles, steps_in_turns
from rescale import Line, hardware, is_installed

EVERY = 50  # the recorder's default
N_SKIPPED = 2
MOST = {"rescaled": 1.02, "recorded": 1.01}
MOST_ON_JAX = {"rescaled": 1.05}


@dataclass(frozen=True)
class Run:
    """How long each training is.

    Args:
        n_steps: That count, after two that do not.
        batch: Images in a step.
        n_rounds: Trainings one after the other.
    """

    n_steps: int
    batch: int
    n_rounds: int = 1

    @property
    def n_batches(self) -> int:
        """All of them."""
        return N_SKIPPED + self.n_steps

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Of a training: a few, again and again."""
        draws = torch.Generator().manual_seed(0)
        few = [
            (
                torch.randn(self.batch, 3, 32, 32, generator=draws).to(memory_format=torch.channels_last),
                torch.randint(10, (self.batch,), generator=draws),
            )
            for _ in range(8)
        ]
        return islice(cycle(few), self.n_batches)


def main() -> None:
    """Read the arguments, let the trainings of each trainer take turns, print a line for each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=8, help="of 50 steps")
    parser.add_argument("--steps", type=int, default=EVERY, help="in a round; fewer to try it")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--only", nargs="+", choices=list(TRAINERS), default=list(TRAINERS))
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    # Of XLA, which reads it when JAX begins.
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    print(hardware(torch.device("cpu")))
    for name in args.only:
        needs = {"lightning": "lightning", "transformers": "transformers", "timm": "timm", "jax": "flax"}
        if name in needs and not is_installed(needs[name]):
            print(f"{name}: {needs[name]} is not installed")
            continue
        step_ms = TRAINERS[name](Run(args.steps, args.batch, args.rounds))
        print(f"{name}: a bare step takes {quartiles(step_ms['bare']).format(1)} ms")
        for arm, most in (MOST_ON_JAX if name == "jax" else MOST).items():
            over = over_rounds(step_ms[arm], step_ms["bare"], length=args.steps)
            n_pairs = len(step_ms[arm])
            print(Line(f"{arm} over bare, {n_pairs} steps each", over.format(3), over.median, most))
            inside_ms, whole_ms = (sum(step_ms[name]) for name in (f"inside {arm}", arm))
            if inside_ms:
                share = whole_ms / (whole_ms - inside_ms)
                print(Line("... over without its hooks", f"{share:.4f}", share, most), flush=True)


class Inside:
    """The time that decayfree's hooks and callbacks take of a training's steps: noise hardly reaches it."""

    def __init__(self) -> None:
        self.clock = time.process_time
        self.total_s = 0.0
        self.step_ms: list[float] = []
        self._is_in = False

    def watch(self, optimizer: torch.optim.Optimizer) -> None:
        """From here on time the hooks that it has."""
        for hooks in (optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks):
            for key, hook in hooks.items():
                if hook.__module__.startswith("decayfree"):
                    hooks[key] = self.timed(hook)

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same, timed; what it calls is part of it."""

        @wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            if self._is_in:
                return function(*args, **kwargs)
            start, self._is_in = self.clock(), True
            try:
                return function(*args, **kwargs)
            finally:
                self.total_s, self._is_in = self.total_s + self.clock() - start, False

        return run


INSIDE: dict[str, Inside] = defaultdict(Inside)
"""By arm."""


def in_turns(
    train: Callable[[str, Run, Callable[[], None]], None],
    run: Run,
    *,
    arms: tuple[str, ...] = ("bare", *MOST),
    clock: Callable[[], float] = time.process_time,
) -> dict[str, list[float]]:
    """Milliseconds of each step of each arm, and of all that hooks and callbacks took of an arm's steps."""

    def counted(arm: str, tick: Callable[[], None]) -> None:
        inside, numbers = INSIDE[arm], count(1)
        inside.clock = clock

        def at_end_of_step() -> None:
            if next(numbers) > N_SKIPPED:
                inside.step_ms.append(1e3 * inside.total_s)
            inside.total_s = 0.0
            tick()

        train(arm, run, at_end_of_step)

    if "recorded" in arms:  # in the first look of a process numba compiles: that is no part of a training
        plain("recorded", Run(EVERY, batch=2), lambda: None)
    INSIDE.clear()
    trainings = {arm: partial(counted, arm) for arm in arms}
    rounds = [
        steps_in_turns(trainings, n_steps=run.n_steps, n_skipped=N_SKIPPED, clock=clock, seed=number)
        for number in range(run.n_rounds)
    ]
    step_ms = {arm: [one for each in rounds for one in each[arm]] for arm in arms}
    return step_ms | {f"inside {arm}": INSIDE[arm].step_ms for arm in arms}


def network() -> nn.Module:
    """In channels last."""
    model = build_model(
        ModelSpec(name="resnet18", width_factor=0.5), n_classes=10, image_size=(32, 32), seed=0
    )
    return model.to(memory_format=torch.channels_last)


def treat(arm: str, optimizer: torch.optim.Optimizer, found: decayfree.Invariance, folder: str) -> None:
    """Attach what the arm is called after."""
    if arm == "rescaled":
        decayfree.WeightRescaling(optimizer, found)
    if arm == "recorded":
        decayfree.Recorder(optimizer, found, sink=Path(folder) / "dynamics.jsonl")
    INSIDE[arm].watch(optimizer)


def found_in(model: nn.Module) -> decayfree.Invariance:
    """Of the plain model."""
    return decayfree.find_invariant(model, torch.randn(4, 3, 32, 32))


def plain(arm: str, run: Run, tick: Callable[[], None], *, is_parallel: bool = False) -> None:
    """A loop of five lines."""
    model = network()
    found = found_in(model)
    model = nn.parallel.DistributedDataParallel(model) if is_parallel else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    with tempfile.TemporaryDirectory() as folder:
        treat(arm, optimizer, found, folder)
        for images, labels in run.batches():
            optimizer.zero_grad()
            cross_entropy(model(images), labels).backward()
            optimizer.step()
            tick()


def ddp(run: Run) -> dict[str, list[float]]:
    """The same on two processes, by the clock on the wall of the first."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_on_rank, args=(run, folder), nprocs=2)
        step_ms: dict[str, list[float]] = json.loads((Path(folder) / "step_ms.json").read_text())
        return step_ms


def _on_rank(rank: int, run: Run, folder: str) -> None:
    torch.set_num_threads(1)
    keep_freed_memory()
    warnings.simplefilter("ignore")
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    # Both ranks take turns in the same order.
    step_ms = in_turns(partial(plain, is_parallel=True), run, clock=time.perf_counter)
    if rank == 0:
        (Path(folder) / "step_ms.json").write_text(json.dumps(step_ms))
    dist.destroy_process_group()


def timm(arm: str, run: Run, tick: Callable[[], None]) -> None:
    """Its optimizer by groups of layers, an average, a schedule."""
    from timm.optim import create_optimizer_v2
    from timm.scheduler import create_scheduler_v2
    from timm.utils import ModelEmaV3

    model = network()
    optimizer = create_optimizer_v2(model, "sgd", lr=0.1, weight_decay=0.0)
    with tempfile.TemporaryDirectory() as folder:
        treat(arm, optimizer, found_in(model), folder)
        average = ModelEmaV3(model, decay=0.99)
        scheduler, _ = create_scheduler_v2(
            optimizer, num_epochs=2, updates_per_epoch=run.n_batches, step_on_epochs=False
        )
        for step, (images, labels) in enumerate(run.batches(), start=1):
            optimizer.zero_grad()
            cross_entropy(model(images), labels).backward()
            optimizer.step()
            average.update(model, step=step)
            scheduler.step_update(num_updates=step)
            tick()


def lightning(arm: str, run: Run, tick: Callable[[], None]) -> None:
    """Its Trainer with our callbacks."""
    import lightning.pytorch as pl

    from decayfree.integrations.lightning import RecorderCallback, WeightRescalingCallback

    images = torch.randn(4, 3, 32, 32)

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = network()

        def forward(self, images: Tensor) -> Tensor:
            result: Tensor = self.model(images)
            return result

        def training_step(self, batch: Any, index: int) -> Tensor:
            return cross_entropy(self(batch[0]), batch[1])

        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            if batch_idx == 0:
                INSIDE[arm].watch(self.optimizers().optimizer)  # type: ignore[union-attr]
            tick()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)

    with tempfile.TemporaryDirectory() as folder:
        callbacks: dict[str, list[Any]] = {
            "bare": [],
            "rescaled": [WeightRescalingCallback(images)],
            "recorded": [RecorderCallback(images, sink=Path(folder) / "dynamics.jsonl")],
        }
        for callback in callbacks[arm]:
            callback.on_before_optimizer_step = INSIDE[arm].timed(callback.on_before_optimizer_step)
        pl.Trainer(
            max_epochs=1,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
            callbacks=callbacks[arm],
        ).fit(Module(), DataLoader(list(run.batches()), batch_size=None))


def transformers(arm: str, run: Run, tick: Callable[[], None]) -> None:
    """Its Trainer with our callbacks."""
    from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

    from decayfree.integrations.transformers import RecorderCallback, WeightRescalingCallback

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = network()

        def forward(self, pixel_values: Tensor, labels: Tensor) -> dict[str, Tensor]:
            return {"loss": cross_entropy(self.model(pixel_values), labels)}

    class Ticking(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
            if state.global_step == 1:
                INSIDE[arm].watch(others["optimizer"].optimizer)
            tick()

    class Images(Dataset[dict[str, Tensor]]):
        def __init__(self) -> None:
            batches = [*islice(run.batches(), 8)]
            self.images, self.labels = (torch.cat(part) for part in zip(*batches, strict=True))

        def __len__(self) -> int:
            return run.n_batches * run.batch

        def __getitem__(self, index: int) -> dict[str, Tensor]:
            index %= len(self.labels)
            return {"pixel_values": self.images[index], "labels": self.labels[index]}

    model = Model()
    images, labels = next(run.batches())
    found = decayfree.find_invariant(model, {"pixel_values": images[:4], "labels": labels[:4]})
    with tempfile.TemporaryDirectory() as folder:
        kinds: dict[str, list[Any]] = {
            "bare": [],
            "rescaled": [WeightRescalingCallback(found)],
            "recorded": [RecorderCallback(found)],
        }
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=run.batch,
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
        trainer = Trainer(model, arguments, train_dataset=Images(), callbacks=[*kinds[arm], Ticking()])
        trainer.remove_callback(PrinterCallback)
        trainer.train()


def jax(arm: str, run: Run, tick: Callable[[], None]) -> None:
    """A compiled step of Flax and optax, the norms held by the last transformation of the chain."""
    import optax
    from flax import nnx
    from jax import block_until_ready
    from jax import numpy as jnp

    from decayfree.integrations.flax import find_invariant, rescale
    from decayfree.integrations.optax import hold_norms

    widths = (3, 32, 32, 64, 64, 128, 128, 256, 256)

    def network() -> Any:
        rngs, layers = nnx.Rngs(0), []
        for before, after in pairwise(widths):
            stride = 2 if after > before > 3 else 1
            conv = nnx.Conv(before, after, (3, 3), strides=stride, use_bias=False, rngs=rngs)
            layers += [conv, nnx.BatchNorm(after, rngs=rngs), nnx.relu]
        return nnx.Sequential(*layers, lambda images: images.mean((1, 2)), nnx.Linear(256, 10, rngs=rngs))

    def step(model: Any, optimizer: Any, images: Any, labels: Any) -> Any:
        def loss_of(model: Any) -> Any:
            return optax.softmax_cross_entropy_with_integer_labels(model(images), labels).mean()

        loss, gradients = nnx.value_and_grad(loss_of)(model)
        optimizer.update(model, gradients)
        return loss

    batches = [
        (jnp.asarray(images.movedim(1, -1).numpy()), jnp.asarray(labels.numpy()))
        for images, labels in islice(run.batches(), 8)
    ]
    model, chain = network(), optax.sgd(0.1, momentum=0.9)
    if arm == "rescaled":
        found = find_invariant(model, batches[0][0][:4])
        model, chain = rescale(model, found), optax.chain(chain, hold_norms(found))
    optimizer = nnx.Optimizer(model, chain, wrt=nnx.Param)
    compiled = nnx.jit(step)
    for images, labels in islice(cycle(batches), run.n_batches):
        block_until_ready(compiled(model, optimizer, images, labels))
        block_until_ready(nnx.state(model))
        tick()


TRAINERS: dict[str, Callable[[Run], dict[str, list[float]]]] = {
    "plain": partial(in_turns, plain),
    "ddp": ddp,
    "timm": partial(in_turns, timm),
    "lightning": partial(in_turns, lightning),
    "transformers": partial(in_turns, transformers),
    "jax": partial(in_turns, jax, arms=("bare", "rescaled")),
}

if __name__ == "__main__":
    main()
