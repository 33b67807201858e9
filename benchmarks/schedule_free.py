"""Schedule-free optimizers step from z: what becomes of it where a weight alone is held, where z follows?

    python benchmarks/schedule_free.py [--steps 3000] [--seeds 3]

Digits of 8x8, 900 of them to train on, of whose labels 30 % are random; two layers of 64 with BatchNorm,
steps of 100 images. Prints means over seeds: norms a row of z and of x, which averages it and is what is
used, and of x the loss on what it was trained on and how many test images are right.
"""

import argparse
from statistics import mean

import schedulefree
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

import decayfree

_N_TRAIN = 900
_RATES = {"SGDScheduleFree": 1.0, "AdamWScheduleFree": 0.01}


def main() -> None:
    """Read the arguments, train, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    print(f"schedulefree, {arguments.steps} steps, {arguments.seeds} seeds, torch {torch.__version__}")
    for kind in _RATES:
        for follows in (False, True):
            runs = [trained(kind, follows, arguments.steps, seed) for seed in range(arguments.seeds)]
            z, x, loss, right = map(mean, zip(*runs, strict=True))
            arm = "z follows" if follows else "y alone"
            print(
                f"{kind}, rate {_RATES[kind]:g}, {arm}: norm of z {z:.2f}, of x {x:.2f}, "
                f"loss {loss:.2g}, right {100 * right:.1f} %"
            )


def trained(kind: str, follows: bool, n_steps: int, seed: int) -> tuple[float, float, float, float]:
    """Norms of z and x, training loss and share of right test images, at x."""
    torch.manual_seed(seed)
    train, labels, test, test_labels = digits(seed)
    model = nn.Sequential(
        nn.Linear(64, 64, bias=False),
        nn.BatchNorm1d(64),
        nn.ReLU(),
        nn.Linear(64, 64, bias=False),
        nn.BatchNorm1d(64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )
    optimizer = getattr(schedulefree, kind)(model.parameters(), lr=_RATES[kind])
    found = decayfree.find_invariant(model, train[:64])
    if follows:
        decayfree.WeightRescaling(optimizer, found)
    optimizer.train()
    for _ in range(n_steps):
        some = torch.randint(_N_TRAIN, (100,))
        loss = F.cross_entropy(model(train[some]), labels[some])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if not follows:
            decayfree.rescale_(model, found)
    held = [model[0].weight, model[3].weight]
    z = mean(float(optimizer.state[weight]["z"].norm(dim=1).mean()) for weight in held)
    optimizer.eval()
    x = mean(float(weight.detach().norm(dim=1).mean()) for weight in held)
    update_bn([train], model)  # one batch is all of it
    model.eval()
    with torch.no_grad():
        right = (model(test).argmax(dim=1) == test_labels).double().mean()
        return z, x, float(F.cross_entropy(model(train), labels)), float(right)


def digits(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images (n, 64) and labels, to train on and to test with."""
    pixels, classes = (torch.from_numpy(part) for part in load_digits(return_X_y=True))
    images, labels = pixels.float() / 16, classes.long().clone()
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    images, labels = images[order], labels[order]
    is_random = torch.rand(_N_TRAIN) < 0.3
    labels[:_N_TRAIN][is_random] = torch.randint(10, (int(is_random.sum()),))
    return images[:_N_TRAIN], labels[:_N_TRAIN], images[_N_TRAIN:], labels[_N_TRAIN:]


if __name__ == "__main__":
    main()
