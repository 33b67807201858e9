"""What do the rescale and the search cost, beside the memory floor and the peers, in one run?

    python benchmarks/rescale.py [--device cuda] [--rounds 30] [--only floor peers search]

Prints ratios, each with the target it is held to and whether it was met. Sets nothing on the machine but the
number of threads.
"""

import argparse
import importlib.util
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

import decayfree
from decayfree.blocks import Part
from decayfree.rescaling.fused_holder import fused_holders_of
from decayfree.rescaling.held import Held
from decayfree.rescaling.holder import Holder, holders_of
from decayfree.rescaling.runs import runs_in_memory
from gpt import GPT, with_heads
from measure import Spread, Work, added, interleaved, quartiles, ratios
from resnet50 import ResNet50, convolutions

# What the disturbance between two rescales multiplies every weight by: about what a step does, and never
# nothing.
_DISTURBANCE = 1.001


@dataclass(frozen=True)
class Line:
    """One line of the table: what was compared, the figure, and the most it should be."""

    what: str
    figure: str
    value: float | None = None
    target: float | None = None

    @property
    def verdict(self) -> str | None:
        """Whether the figure is what it should be, if that was said."""
        if self.value is None or self.target is None:
            return None
        return "met" if self.value <= self.target else "missed"

    def __str__(self) -> str:
        if self.verdict is None:
            return f"  {self.what:<66} {self.figure}"
        return f"  {self.what:<66} {self.figure:<22} target {self.target:g}: {self.verdict}"


def main() -> None:
    """Read the arguments, run the parts, print their lines."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--rounds", type=int, default=30, help="how often each piece of work is timed")
    parser.add_argument("--threads", type=int, default=1, help="threads on the CPU; the targets are for one")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS), help="parts to run")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    device = torch.device(args.device)
    print(hardware(device))
    for part in args.only:
        title, run = PARTS[part]
        print(f"\n{title}")
        for line in run(device, args.rounds):
            print(line, flush=True)


def hardware(device: torch.device) -> str:
    """What this runs on, in one line."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name()
    return (
        f"{name}, torch {torch.__version__}, {torch.get_num_threads()} thread(s), Python "
        f"{platform.python_version()}"
    )


def processor_name() -> str:
    """The processor's name where the system tells it, its kind otherwise."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def floor(device: torch.device, n_rounds: int) -> Iterator[Line]:
    """The rescale of each model's weights against one in-place multiply of the same memory, and a loop."""
    for name, make in MODELS.items():
        try:
            found = make(device)
        except (ImportError, RuntimeError) as error:  # a torchvision for another torch raises the latter
            yield Line(name, f"needs pip install decayfree[models] ({error})")
        else:
            yield from floor_of(name, found, device, n_rounds)


def floor_of(name: str, found: decayfree.Invariance, device: torch.device, n_rounds: int) -> Iterator[Line]:
    """The lines of one model: the arithmetic, piece by piece and fused, and with what hooks do around it."""
    # What is written through .data counts as the optimizer's, so that the hooks take no other way.
    parts = {name: part.each(lambda tensor: tensor.data) for name, part in found.parts().items()}
    targets = [part.weight.new_tensor(part.blocks.block_sizes).sqrt() for part in parts.values()]
    held = [
        Held(part.weight, part.bias, part.blocks, name, target)
        for (name, part), target in zip(parts.items(), targets, strict=True)
    ]
    memory = [rows for part in held for rows in matrices(part)]
    one_tensor = torch.ones(sum(rows.numel() for rows in memory), device=device)
    params = [param for part in found.parts().values() for param in part.tensors]
    whole, bare = Still(params), Still(params)
    decayfree.WeightRescaling(whole, found, radius={"*": 1.0})
    move = mover(params)
    works = {
        "multiply": Work(lambda: multiply(memory, _DISTURBANCE), move),
        "one tensor": Work(lambda: one_tensor.mul_(1.0), move),
        "loop": Work(lambda: plain_loop(held), move),
        "whole": Work(whole.step, move),
        # What the optimizer's own machinery takes.
        "bare": Work(bare.step, move),
        "rescale": Work(partial(hold, holders_of(held)), move),
    }
    if device.type == "cpu" and is_installed("numba"):
        works["fused"] = Work(partial(hold, fused_holders_of(held)), move)
    elapsed = interleaved(works, n_rounds=n_rounds, device=device)
    elapsed["whole"] = [all - own for all, own in zip(elapsed["whole"], elapsed["bare"], strict=True)]
    n_blocks = sum(part.n_blocks for part in held)
    yield Line(
        f"{name}: {len(held)} weights, {n_blocks:,} blocks, {one_tensor.numel() / 1e6:.1f} M numbers",
        f"one multiply of each {quartiles(elapsed['multiply']).format()} ms",
    )
    yield ratio_line("  the rescale / a plain loop", elapsed, "rescale", "loop", target=1.0)
    yield ratio_line("  the rescale / one multiply of each", elapsed, "rescale", "multiply")
    yield ratio_line("  the rescale with its hooks / a plain loop", elapsed, "whole", "loop", target=1.0)
    if "fused" in works:
        yield ratio_line("  fused=True / one multiply of each", elapsed, "fused", "multiply", target=1.3)
        yield ratio_line("  fused=True / one multiply of one tensor", elapsed, "fused", "one tensor")
    else:
        yield Line("  fused=True", "needs the CPU and pip install decayfree[fused]")
    deviations = []
    for work in (works[rescale] for rescale in ("rescale", "fused", "whole") if rescale in works):
        work.prepare()
        work.run()
        deviations += [float((part.norms() / part.targets - 1).abs().max()) for part in held]
    yield Line("  largest distance of a norm from its radius afterwards", f"{max(deviations):.1e}")


def peers(device: torch.device, n_rounds: int) -> Iterator[Line]:
    """What the rescale adds to a step, and what the projections of SGDP and AdamP add."""
    try:
        import adamp
    except ImportError:
        yield Line("adamp is not installed, nothing to compare with", "pip install decayfree[benchmarks]")
        return
    optimizers = {name: make(device) for name, make in contestants(adamp).items()}
    works = {
        name: Work(optimizer.step, lambda optimizer=optimizer: multiply(weights_of(optimizer), _DISTURBANCE))
        for name, optimizer in optimizers.items()
    }
    elapsed = interleaved(works, n_rounds=n_rounds, device=device)
    for name in works:
        yield Line(f"a step of {name}, ms", quartiles(elapsed[name]).format(1))
    for plain, peer in (("SGD", "SGDP"), ("AdamW", "AdamP")):
        ours = added(elapsed[f"{plain} with WRS"], elapsed[plain])
        theirs = added(elapsed[peer], elapsed[plain])
        yield Line(f"WRS adds to {plain}, ms", ours.format(1))
        yield Line(f"{peer} adds to {plain}, ms", theirs.format(1))
        share = ours.median / theirs.median
        yield Line(f"what WRS adds / what {peer} adds", f"{share:.3f}", share, 1 / 8)


def search(device: torch.device, n_rounds: int) -> Iterator[Line]:
    """Time and peak memory of find_invariant against those of one training step, at 64 pixels and batch 4."""
    model = ResNet50().to(device)
    images = torch.randn(4, 3, 64, 64, device=device)
    step = training_step(model, images, torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9))
    works = {"step": Work(step), "find": Work(lambda: decayfree.find_invariant(model, images))}
    elapsed = interleaved(works, n_rounds=max(5, n_rounds // 5), device=device, n_warmup=1)
    yield Line("one training step at 64 pixels, batch 4, ms", quartiles(elapsed["step"]).format(0))
    yield Line("find_invariant, ms", quartiles(elapsed["find"]).format(0))
    yield ratio_line("find_invariant / one training step, time", elapsed, "find", "step", target=8)
    train_bytes, find_bytes = peak_bytes("train", device), peak_bytes("find", device)
    yield Line("peak memory of training above an empty process, MB", f"{train_bytes / 1e6:.0f}")
    yield Line("peak memory of find_invariant likewise, MB", f"{find_bytes / 1e6:.0f}")
    share = find_bytes / train_bytes
    yield Line("find_invariant / one training step, peak memory", f"{share:.2f}", share, 4)


PARTS: dict[str, tuple[str, Callable[[torch.device, int], Iterator[Line]]]] = {
    "floor": ("Rescaling in float32, after a step of SGD with momentum", floor),
    "peers": (
        "Beside SGDP and AdamP (adamp), the same convolutions, gradients orthogonal to the kernels",
        peers,
    ),
    "search": ("Finding the weights", search),
}


def mover(params: list[Tensor]) -> Callable[[], object]:
    """A step that moves every weight, and leaves in the caches what steps do.

    It is that of another optimizer, of other parameters in the same memory, so that it is not timed.
    """
    twins = [nn.Parameter(param.data) for param in params]
    for param, twin in zip(params, twins, strict=True):
        param.grad = twin.grad = 0.003 * twin.detach().std() * torch.randn_like(twin)
    return torch.optim.SGD(twins, lr=0.1, momentum=0.9).step


def hold(holders: list[Holder]) -> None:
    """Put all blocks on their targets."""
    for holder in holders:
        holder.hold_()


def found_in(model: nn.Module, device: torch.device) -> decayfree.Invariance:
    """What is found in a model on a device."""
    return decayfree.find_invariant(model.to(device), torch.randn(4, 3, 64, 64, device=device))


def of_timm(name: str) -> Callable[[torch.device], decayfree.Invariance]:
    """One of timm's models, with random weights."""

    def make(device: torch.device) -> decayfree.Invariance:
        import timm

        return found_in(timm.create_model(name), device)

    return make


MODELS: dict[str, Callable[[torch.device], decayfree.Invariance]] = {
    "ResNet-50": lambda device: found_in(ResNet50(), device),
    "MobileNetV3": of_timm("mobilenetv3_large_100"),
    "EfficientNet-B0": of_timm("efficientnet_b0"),
    "ConvNeXt-T": of_timm("convnext_tiny"),
    "ResNet-50 with GroupNorm": of_timm("resnet50_gn"),
    "GPT with QK-norm": lambda device: with_heads(GPT().to(device)),
}


class Still(Optimizer):
    """An optimizer whose step does nothing, so that only its hooks take time."""

    def __init__(self, params: list[nn.Parameter]) -> None:
        super().__init__(params, {})

    def step(self, closure: Callable[[], float] | None = None) -> None:
        """Do nothing."""


def contestants(adamp: ModuleType) -> dict[str, Callable[[torch.device], Optimizer]]:
    """Optimizers over the convolutions, each with weights of its own.

    A tiny rate keeps kernels orthogonal to their gradients.
    """
    rate = 1e-8
    makers: dict[str, Callable[[list[nn.Parameter]], Optimizer]] = {
        "SGD": lambda params: torch.optim.SGD(params, lr=rate, momentum=0.9),
        "SGD with WRS": lambda params: torch.optim.SGD(params, lr=rate, momentum=0.9),
        "SGDP": lambda params: adamp.SGDP(params, lr=rate, momentum=0.9),
        "AdamW": lambda params: torch.optim.AdamW(params, lr=rate, weight_decay=0.0),
        "AdamW with WRS": lambda params: torch.optim.AdamW(params, lr=rate, weight_decay=0.0),
        "AdamP": lambda params: adamp.AdamP(params, lr=rate),
    }

    def make(name: str, device: torch.device) -> Optimizer:
        model = ResNet50().to(device)
        params = convolutions(model)
        optimizer = makers[name](params)
        if name.endswith("with WRS"):
            decayfree.WeightRescaling(optimizer, find(model, device))
        for weight in params:
            weight.grad = orthogonal_to(weight.detach())
        return optimizer

    return {name: lambda device, name=name: make(name, device) for name in makers}


def orthogonal_to(weight: Tensor) -> Tensor:
    """Random numbers without a part along any kernel, as gradients before a normalization are."""
    rows = weight.flatten(1)
    random = torch.randn_like(rows)
    along = (random * rows).sum(1, keepdim=True) / rows.square().sum(1, keepdim=True)
    return (random - along * rows).view_as(weight)


def is_installed(package: str) -> bool:
    """Whether a package can be imported."""
    return importlib.util.find_spec(package) is not None


def find(model: nn.Module, device: torch.device) -> decayfree.Invariance:
    """The model's scale-invariant weights: all convolutions, or there is nothing to measure."""
    found = decayfree.find_invariant(model, torch.randn(4, 3, 64, 64, device=device))
    if len(found) != len(convolutions(model)):
        sys.exit(
            f"{len(found)} of {len(convolutions(model))} convolutions were found: "
            "this benchmark is for all of them"
        )
    return found


def multiply(weights: list[Tensor], factor: float) -> None:
    """Multiply each weight in place: reads and writes each byte once."""
    for weight in weights:
        weight.mul_(factor)


def plain_loop(held: list[Held]) -> None:
    """Rescaling as one would write it first: weight by weight, with the bias where that belongs to it."""
    for one in held:
        tensors = [tensor[: one.blocks.n_rows].view(one.n_blocks, -1) for tensor in one.tensors]
        norms = [torch.linalg.vector_norm(rows, dim=1) for rows in tensors]
        factors = one.targets / (norms[0] if len(norms) == 1 else torch.hypot(*norms))
        for rows in tensors:
            rows.mul_(factors[:, None])


def matrices(part: Part) -> tuple[Tensor, ...]:
    """What is held of a weight, and of its bias: (blocks, numbers in a block), views."""
    (run,) = runs_in_memory(part) or [None]
    if run is None:
        sys.exit("this benchmark is for weights that lie in memory block by block")
    return run.tensors


def weights_of(optimizer: Optimizer) -> list[Tensor]:
    """All parameters, without autograd; what is written to them counts as the optimizer's."""
    return [weight.data for group in optimizer.param_groups for weight in group["params"]]


def training_step(
    model: nn.Module, images: Tensor, optimizer: Optimizer, *, dtype: torch.dtype = torch.float32
) -> Callable[[], None]:
    """One step of classification on made-up labels, as something to call.

    Forward under autocast if ``dtype`` is not float32.
    """
    labels = torch.randint(1000, (len(images),), device=images.device)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(images.device.type, dtype, enabled=dtype != torch.float32):
            loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()

    return step


def peak_bytes(work: str, device: torch.device) -> int:
    """Peak memory of one piece of work in a process of its own."""
    script = Path(__file__).with_name("memory.py")
    command = [sys.executable, str(script), work, "--device", device.type]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def ratio_line(
    what: str, elapsed: dict[str, list[float]], above: str, below: str, *, target: float | None = None
) -> Line:
    """A line with the median and quartiles of a ratio, round by round."""
    ratio: Spread = ratios(elapsed[above], elapsed[below])
    return Line(what, ratio.format(), ratio.median, target)


if __name__ == "__main__":
    main()
