"""What does watching inputs cost on ResNet-18, beside the forward passes that are watched?

    python benchmarks/span.py [--device cuda] [--size 64] [--batch 32] [--rounds 5]

Prints the ratio of a watched forward pass to a bare one, the memory it needs more at its peak, and how long
the spectra take once. Takes the peak after everything else, so that run it as a script of its own.
"""

import argparse
import time

import torch
from torch import Tensor, nn

from decayfree.span.input_span import InputSpan
from measure import Work, interleaved, quartiles, ratios
from memory import peak_bytes

_WIDTHS = (64, 128, 256, 512)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    def __init__(self, n_inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_inputs, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = None
        if stride != 1 or n_inputs != width:
            self.downsample = nn.Sequential(
                nn.Conv2d(n_inputs, width, 1, stride=stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Images in, (N, C, H, W), images out."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(x)) + shortcut)


def resnet18(n_classes: int = 1000) -> nn.Module:
    """As in "Deep Residual Learning for Image Recognition" (He et al., 2015, arXiv 1512.03385)."""
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False), nn.BatchNorm2d(64)]
    layers += [nn.ReLU(), nn.MaxPool2d(3, stride=2, padding=1)]
    n_inputs = 64
    for width in _WIDTHS:
        layers += [BasicBlock(n_inputs, width, 1 if width == 64 else 2), BasicBlock(width, width, 1)]
        n_inputs = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, n_classes))


@torch.no_grad()
def main() -> None:
    """Read the arguments, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device(args.device)
    model = resnet18().to(device)
    images = torch.randn(args.batch, 3, args.size, args.size, device=device)
    model(images)
    before = peak_bytes(device)
    spans = {True: InputSpan(model), False: InputSpan(model, centered=False)}
    watch(spans[True], images)
    extra = peak_bytes(device) - before
    works = {"bare": Work(lambda: model(images))} | {
        f"centered={centered}": Work(lambda span=span: watch(span, images))
        for centered, span in spans.items()
    }
    elapsed_ms = interleaved(works, n_rounds=args.rounds, device=device, n_warmup=1)
    print(f"ResNet-18, {args.batch} images of {args.size} pixels, torch {torch.__version__}, {args.device}")
    print(f"  a forward pass                 {quartiles(elapsed_ms['bare']).format(0)} ms")
    for name in list(works)[1:]:
        print(
            f"  watched, {name:<14}        {ratios(elapsed_ms[name], elapsed_ms['bare']).format(1)} forward "
            "passes"
        )
    sums = sum(8 * span.groups * span.n_features**2 for span in (spans[True][name] for name in spans[True]))
    print(f"  more memory at the peak        {extra / 1e6:.0f} MB, of which sums {sums / 1e6:.0f} MB")
    start = time.perf_counter()
    ranks = {name: spans[True][name].rank() for name in spans[True]}
    print(f"  {len(ranks)} spectra                     {time.perf_counter() - start:.1f} s, once")
    for name, reason in spans[True].left_out.items():
        print(f"  left out: {name}: {reason}")


def watch(span: InputSpan, images: Tensor) -> None:
    """One watched forward pass."""
    with span:
        span.model(images)


if __name__ == "__main__":
    main()
