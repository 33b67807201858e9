"""How many training steps does finding scale-invariant weights take, and how much memory does it need?

    python benchmarks/discovery.py [--models resnet18,vit_tiny_patch16_224 | --all] [--batch 16]
    python benchmarks/discovery.py --only wide,curve,memory

The ratio is that of find_invariant to a step of SGD in float32, of the same model on the same batch in the
same process, on one thread. The batch of a model grows from the one that is asked for until a step takes as
long as asked; a search looks at the first eight samples of 16 or more, and with --batch 4 at all. Prints a
table and ``met`` or ``missed`` for each target; memory.py measures memory, in a process of its own for each
number.
"""

import argparse
import math
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from decayfree import find_invariant

_MOST_STEPS, _MEDIAN_STEPS, _WIDE_STEPS, _MEMORY = 15.0, 5.0, 20.0, 4.0
_SHORT = (
    "resnet18",
    "resnet50_gn",
    "efficientnet_b0",
    "mobilenetv3_large_100",
    "convnext_atto",
    "vit_tiny_patch16_224",
    "swin_tiny_patch4_window7_224",
    "efficientvit_b0",
)
_ALL = (
    *_SHORT,
    "resnet34",
    "resnet50",
    "resnext50_32x4d",
    "seresnet50",
    "regnety_016",
    "regnetx_032",
    "densenet121",
    "dpn68",
    "vgg11_bn",
    "inception_v3",
    "xception41",
    "mobilenetv2_100",
    "mnasnet_100",
    "ghostnet_100",
    "fbnetc_100",
    "efficientnet_b2",
    "tf_efficientnetv2_b0",
    "hardcorenas_a",
    "nfnet_f0",
    "convnext_tiny",
    "convnextv2_nano",
    "vit_small_patch16_224",
    "deit3_small_patch16_224",
    "cait_xxs24_224",
    "mixer_s32_224",
    "gmlp_s16_224",
    "poolformer_s12",
    "coatnet_nano_rw_224",
    "swinv2_tiny_window8_256",
    "repvgg_a2",
    "botnet26t_256",
    "lambda_resnet26t",
    "cspresnet50",
    "hrnet_w18_small",
    "mobileone_s0",
)


def main() -> None:
    """Read the arguments, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default=",".join(_SHORT), help="of timm, by name")
    parser.add_argument("--all", action="store_true", help=f"{len(_ALL)} models instead")
    parser.add_argument("--batch", type=int, default=16, help="images, at least")
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument("--only", default="models,wide,curve,memory")
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # of models that have parts in eval mode
    only = args.only.split(",")
    if "models" in only:
        named_models(_ALL if args.all else args.models.split(","), args.batch, args.seconds)
    if "wide" in only:
        wide()
    if "curve" in only:
        curve()
    if "memory" in only:
        memory()


def named_models(names: list[str] | tuple[str, ...], least_batch: int, least_s: float) -> None:
    """Every model by itself, then the median."""
    import timm

    find_invariant(one_linear(64), torch.randn(8, 64))  # what a process does once
    print(f"training steps that find_invariant takes, torch {torch.__version__}, timm {timm.__version__}")
    found = []
    for name in names:
        torch.manual_seed(0)
        try:
            model = timm.create_model(name)
        except RuntimeError as error:
            print(f"  {name:<32} left out: {error}")
            continue
        size, batch, step_s = model.default_cfg["input_size"], least_batch, 0.0
        while step_s < least_s:
            images = torch.randn(batch, *size)
            step_s = seconds_of_a_step(model, images)
            batch *= max(2, math.ceil(1.1 * least_s / step_s))
        steps, n_found = steps_of_a_search(model, images, step_s)
        found.append(steps)
        print(
            f"  {name:<32} batch {len(images):>3}, step {step_s:6.2f} s  {steps:6.1f} steps, "
            f"{n_found:>3} weights  {told(steps, _MOST_STEPS)}",
            flush=True,
        )
    median = statistics.median(found)
    print(f"  median of {len(found)}: {median:.1f} steps, {told(median, _MEDIAN_STEPS)}")


def wide() -> None:
    """One wide layer under LayerNorm."""
    model, rows = one_linear(4096), torch.randn(64, 4096)
    steps, _ = steps_of_a_search(model, rows, seconds_of_a_step(model, rows))
    print(f"Linear(4096) + LayerNorm: {steps:.1f} steps, {told(steps, _WIDE_STEPS)}")


def curve() -> None:
    """Time against the number of weights."""
    print("Linear(n) + LayerNorm, 64 rows: time against the number of weights")
    per_million = []
    for width in (512, 1024, 2048, 4096):
        model, rows = one_linear(width), torch.randn(64, width)
        start = time.process_time()
        find_invariant(model, rows)
        elapsed_s, millions = (
            time.process_time() - start,
            sum(one.numel() for one in model.parameters()) / 1e6,
        )
        per_million.append(elapsed_s / millions)
        print(
            f"  n = {width:>4}  {millions:6.1f} M weights  {elapsed_s:6.2f} s  {per_million[-1]:.3f} s per M"
        )
    growth = per_million[-1] / per_million[1]
    print(f"  seconds per weight from n = 1024 to 4096: × {growth:.2f}, {told(growth, 1.5)}")


def memory() -> None:
    """The most memory of a search beyond that of a training step, in float32 copies of the weights."""
    script = Path(__file__).with_name("memory.py")

    def peak(work: str) -> int:
        command = [sys.executable, str(script), work, "--size", "64", "--batch", "4"]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    n_bytes = 4 * 25_557_032  # ResNet-50
    copies = (peak("find") - peak("train")) / n_bytes
    print(
        f"memory of a search of ResNet-50 beyond a training step: {copies:.1f} times its weights, "
        f"{told(copies, _MEMORY)}"
    )


def one_linear(width: int) -> nn.Module:
    """A square layer under LayerNorm, and a head."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(width, width, bias=False), nn.LayerNorm(width), nn.ReLU(), nn.Linear(width, 10)
    )


def seconds_of_a_step(model: nn.Module, inputs: Tensor) -> float:
    """The faster of two steps of SGD after a first one."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)

    def step() -> None:
        optimizer.zero_grad()
        first_tensor(model(inputs)).square().mean().backward()
        optimizer.step()

    step()
    return min(seconds_of(step), seconds_of(step))


def steps_of_a_search(model: nn.Module, inputs: Tensor, step_s: float) -> tuple[float, int]:
    """How many steps a search takes, and how many weights it finds."""
    n_found = 0

    def search() -> None:
        nonlocal n_found
        n_found = len(find_invariant(model, inputs))

    return seconds_of(search) / step_s, n_found


def seconds_of(work: Callable[[], object]) -> float:
    """Of processor time, which leaves out what others took."""
    start = time.process_time()
    work()
    return time.process_time() - start


def first_tensor(outputs: Tensor | tuple[Tensor, ...]) -> Tensor:
    """Some models return several heads."""
    return outputs if isinstance(outputs, Tensor) else outputs[0]


def told(value: float, most: float) -> str:
    """The target, and ``met`` or ``missed``."""
    return f"at most {most:g}: {'met' if value <= most else 'missed'}"


if __name__ == "__main__":
    main()
