"""What does each way to treat norms cost in a training step, beside none?

    python benchmarks/methods.py [--device cuda] [--rounds 40]

VGG11-BN at an eighth of its width, batches of 128 made-up images of 32×32, SGD with momentum, methods taking
turns. Prints the whole step, the optimizer's part with the hooks of the method, and what the method keeps
between two steps. Sets nothing on the machine but the number of threads.
"""

import argparse

import torch
from torch import nn

from decayfree import find_invariant
from decayfree.methods import (
    WRS,
    ExactReplay,
    Hyperball,
    LearningRateScaling,
    Method,
    NoTreatment,
    Projection,
    RotationalEquilibrium,
    RunLength,
    TurningMethod,
    WeightDecay,
    WeightNormalization,
    WeightStandardization,
)
from decayfree.study import ModelSpec, OptimizerSpec
from decayfree.study.models import build_model
from decayfree.study.optimizers import build_optimizer
from decayfree.study.training.cost import cost_of
from measure import Work, interleaved, quartiles, ratios
from rescale import hardware

CONTESTANTS: dict[str, Method] = {
    "none": NoTreatment(),
    "weight_decay, own": WeightDecay(5e-4),
    "weight_decay, the other form": WeightDecay(5e-4, form="decoupled"),
    "learning_rate_scaling": LearningRateScaling(5e-4),
    "exact_replay": ExactReplay(5e-4),
    "wrs": WRS(),
    "turning": TurningMethod(),
    "projection": Projection(),
    "weight_standardization": WeightStandardization(),
    "weight_normalization": WeightNormalization(),
    "hyperball": Hyperball(),
    "rotational_equilibrium": RotationalEquilibrium(5e-4),
}
N_REPLAYED = 10_000
"""Steps that have a norm to replay: more than any number of rounds needs."""


def main() -> None:
    """Read the arguments, time all methods in turns, print a line for each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--rounds", type=int, default=40, help="how often each method takes a step")
    args = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device(args.device)
    print(hardware(device))
    trainings = {name: Training(method, device) for name, method in CONTESTANTS.items()}
    works = {f"{name}, whole": Work(training.step) for name, training in trainings.items()}
    works |= {
        f"{name}, update": Work(training.optimizer.step, training.gradients)
        for name, training in trainings.items()
    }
    elapsed_ms = interleaved(works, n_rounds=args.rounds, device=device)
    print(
        f"\n{'':<30} {'whole step, ms':>18} {'over none':>18} "
        f"{'optimizer and hooks, ms':>24} {'kept, copies':>13}"
    )
    for name, training in trainings.items():
        whole, update = elapsed_ms[f"{name}, whole"], elapsed_ms[f"{name}, update"]
        over = ratios(whole, elapsed_ms["none, whole"])
        kept = "the norms" if training.is_replay else f"{training.kept_copies:.3f}"
        print(
            f"{name:<30} {quartiles(whole).format(1):>18} {over.format(2):>18} "
            f"{quartiles(update).format(2):>24} {kept:>13}"
        )


class Training:
    """A network, an optimizer, and one method at work on it."""

    def __init__(self, method: Method, device: torch.device) -> None:
        model = build_model(
            ModelSpec("vgg11-bn", width_factor=1 / 8), n_classes=10, image_size=(32, 32), seed=0
        )
        self.model = model.to(device, memory_format=torch.channels_last)
        found = find_invariant(self.model, torch.randn(32, 3, 32, 32, device=device))
        parameters = dict(self.model.named_parameters())
        n_held = sum(parameters[weight.name].numel() for weight in found)
        found = method.prepare(self.model, found)
        groups = method.param_groups(self.model, found, rest_weight_decay=0.0)
        spec = OptimizerSpec("sgd", momentum=0.9)
        self.optimizer = build_optimizer(spec, groups, learning_rate=0.01, method=method)
        norms = {weight.name: torch.ones(N_REPLAYED, weight.blocks.n_blocks) for weight in found}
        self.is_replay = method.replays is not None
        attached = method.attach(
            self.optimizer, found, replayed=norms if self.is_replay else None, length=RunLength(391, 78_200)
        )
        self.images = torch.randn(128, 3, 32, 32, device=device).to(memory_format=torch.channels_last)
        self.labels = torch.randint(10, (128,), device=device)
        self.step()
        cost = cost_of(self.model, self.optimizer, attached, steps_s=0.0, n_epochs=0.0)
        self.kept_copies = cost["method_state_bytes"] / (4 * n_held)

    def gradients(self) -> None:
        """Forward and backward."""
        self.optimizer.zero_grad()
        nn.functional.cross_entropy(self.model(self.images), self.labels).backward()

    def step(self) -> None:
        """A whole training step."""
        self.gradients()
        self.optimizer.step()


if __name__ == "__main__":
    main()
