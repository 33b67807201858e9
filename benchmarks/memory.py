"""How much memory does one piece of work on ResNet-50 need at its peak?

Run as a script, in a process of its own for each piece.

    python benchmarks/memory.py train|find --device cpu --size 64 --batch 4

Prints one number, the bytes that the peak lies above what was there before the model. On the CPU this asks
Linux. Compares nothing; rescale.py does.
"""

import argparse
from pathlib import Path

import torch

import decayfree
from resnet50 import ResNet50


def main() -> None:
    """Read the arguments, do the work, print the bytes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work", choices=["train", "find"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=4)
    args = parser.parse_args()
    device = torch.device(args.device)
    before = peak_bytes(device)
    model = ResNet50().to(device)
    images = torch.randn(args.batch, 3, args.size, args.size, device=device)
    if args.work == "train":
        train(model, images)
    else:
        decayfree.find_invariant(model, images)
    print(peak_bytes(device) - before)


def train(model: torch.nn.Module, images: torch.Tensor, n_steps: int = 3) -> None:
    """A few steps of SGD with momentum; the second has all of its state."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    labels = torch.randint(1000, (len(images),), device=images.device)
    for _ in range(n_steps):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()


def peak_bytes(device: torch.device) -> int:
    """The most memory that this process has held so far: resident, or allocated on the accelerator."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # Not getrusage: on Linux its peak is inherited from the process that started this one.
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["VmHWM"].split()[0]) * 1024


if __name__ == "__main__":
    main()
