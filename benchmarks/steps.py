"""What share of a training step on a GPU does the rescale take?

    python benchmarks/steps.py [--device cuda] [--rounds 30] [--only resnet50 gpt] [--size full]

Of ResNet-50 in bfloat16 at batch 256 and 224 pixels, and of a language model of 1.0 B parameters with AdamW,
8 sequences of 1,024 tokens: a model that is rescaled and one that is not take steps in turns. Weights are
float32, forward passes under autocast. ``tiny`` is the same on models that a processor steps in no time.
"""

import argparse
import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer

import decayfree
from gpt import GPT, with_heads
from measure import Work, added, interleaved, quartiles
from rescale import Line, find, floor_of, hardware, training_step
from resnet50 import STAGES, ResNet50


@dataclass(frozen=True)
class Size:
    """Of both trainings.

    Args:
        stages: Of ResNet-50.
        images: Their number in a batch, and their pixels.
        gpt: Width, heads, layers and tokens that there are.
        tokens: Sequences in a batch, and their length.
    """

    stages: tuple[tuple[int, int, int], ...]
    images: tuple[int, int]
    gpt: tuple[int, int, int, int]
    tokens: tuple[int, int]


SIZES = {
    "full": Size(STAGES, (256, 224), (2048, 16, 18, 50_257), (8, 1024)),
    "tiny": Size(((8, 1, 1), (8, 1, 2)), (4, 64), (32, 2, 2, 64), (2, 16)),
}


def main() -> None:
    """Read the arguments, run the parts, print their lines."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--rounds", type=int, default=30, help="how often each step is timed")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS), help="parts to run")
    parser.add_argument("--size", choices=list(SIZES), default="full")
    args = parser.parse_args()
    device = torch.device(args.device)
    print(hardware(device))
    for part in args.only:
        print(f"\n{part}")
        for line in PARTS[part](device, args.rounds, SIZES[args.size]):
            print(line, flush=True)


def resnet50(device: torch.device, n_rounds: int, size: Size) -> Iterator[Line]:
    """A step of image classification, SGD with momentum, channels last."""
    torch.backends.cudnn.benchmark = True  # as one trains; steps are shorter, and shares larger
    n_images, pixels = size.images

    def step(*, is_held: bool) -> Callable[[], None]:
        model = ResNet50(stages=size.stages).to(device, memory_format=torch.channels_last)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
        if is_held:
            decayfree.WeightRescaling(optimizer, find(model, device))
        images = torch.randn(n_images, 3, pixels, pixels, device=device)
        images = images.to(memory_format=torch.channels_last)
        return training_step(model, images, optimizer, dtype=torch.bfloat16)

    # Twice the rounds: half a percent is to be seen.
    yield from share("ResNet-50", step(is_held=False), step(is_held=True), device, 2 * n_rounds, 0.01, 0.005)


def gpt(device: torch.device, n_rounds: int, size: Size) -> Iterator[Line]:
    """A step of a language model: its heads of queries and keys are held, then every other matrix as well."""
    width, n_heads, n_layers, n_tokens = size.gpt
    tokens = torch.randint(n_tokens, size.tokens, device=device)

    def model_there() -> GPT:
        # What hangs on an optimizer knows it, and holds the memory of those that are done with until then.
        gc.collect()
        with device:
            return GPT(width, n_heads, n_layers, n_tokens)

    def step(choose: Callable[[GPT], decayfree.Invariance] | None) -> Callable[[], None]:
        model = model_there()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.0)
        if choose is not None:
            decayfree.WeightRescaling(optimizer, choose(model))
        return language_step(model, tokens, optimizer)

    n_numbers = sum(parameter.numel() for parameter in model_there().parameters())
    name = f"GPT of {n_numbers / 1e9:.2f} B parameters"
    # With AdamW a model takes 16 GB, so there are two at a time.
    yield from share(f"{name}, queries and keys", step(None), step(with_heads), device, n_rounds, 0.01)
    yield from share(f"{name}, every matrix", step(None), step(every_matrix), device, n_rounds)
    yield from floor_of(f"{name}, every matrix", every_matrix(model_there()), device, n_rounds)


def every_matrix(model: GPT) -> decayfree.Invariance:
    """Its heads of queries and keys as blocks, and each row of all else, as one may ask for."""
    return with_heads(model).by_request({"*": "row"})


def language_step(model: nn.Module, tokens: Tensor, optimizer: Optimizer) -> Callable[[], None]:
    """One step of predicting each next token."""

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(tokens.device.type, torch.bfloat16):
            scores = model(tokens[:, :-1])
        cross_entropy(scores.flatten(0, 1).float(), tokens[:, 1:].flatten()).backward()
        optimizer.step()

    return step


def share(
    name: str,
    without: Callable[[], None],
    held: Callable[[], None],
    device: torch.device,
    n_rounds: int,
    *targets: float,
) -> Iterator[Line]:
    """What rescaling adds to a step, in milliseconds and as its share, once for each target."""
    works = {"without": Work(without), "held": Work(held)}
    elapsed = interleaved(works, n_rounds=n_rounds, device=device, n_warmup=5)
    shares = quartiles([a / b - 1 for a, b in zip(elapsed["held"], elapsed["without"], strict=True)])
    yield Line(f"{name}: a step without WRS, ms", quartiles(elapsed["without"]).format())
    yield Line(f"{name}: WRS adds, ms", added(elapsed["held"], elapsed["without"]).format())
    for target in targets or (None,):
        yield Line(f"{name}: WRS adds, share of a step", shares.format(4), shares.median, target)


PARTS: dict[str, Callable[[torch.device, int, Size], Iterator[Line]]] = {"resnet50": resnet50, "gpt": gpt}

if __name__ == "__main__":
    main()
