"""How many scenes are drawn in a second, on one core?

    python benchmarks/scenes.py [--rounds 5]

Prints scenes a second for each task and size, in processor time, and whether the aim is met: 2,000 a second
at 64 pixels for masks and boxes. For crowds, which have ten times as many items, there is none.
"""

import argparse

import torch

from decayfree.study.data.scenes.drawing import draw
from decayfree.study.data.scenes.layout import BLOCK, Kind
from decayfree.study.data.scenes.pool import garments
from decayfree.study.run_settings import TaskName
from measure import Work, interleaved, quartiles

_AIM = 2000
_CASES: list[tuple[Kind, TaskName, int, bool]] = [
    ("objects", "segmentation", 64, True),
    ("objects", "detection", 64, True),
    ("crowd", "counting", 64, False),
    ("objects", "segmentation", 128, False),
    ("crowd", "counting", 128, False),
]
"""What is drawn, for which task, in which size, and whether the aim is for it."""


def main() -> None:
    """Read the arguments, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    pools, names, _ = garments(None)
    numbers = torch.arange(2 * BLOCK)
    works = {
        f"{task}, {size} pixels": Work(
            lambda kind=kind, task=task, size=size: draw(
                kind, "train", numbers, pools["train"], size=size, task=task
            )
        )
        for kind, task, size, _ in _CASES
    }
    elapsed_ms = interleaved(works, n_rounds=args.rounds, device=torch.device("cpu"), n_warmup=1)
    print(f"{len(numbers)} scenes of {names[0]} and the like, one thread, torch {torch.__version__}")
    for (name, rounds), (*_, has_aim) in zip(elapsed_ms.items(), _CASES, strict=True):
        rate = quartiles([1000 * len(numbers) / each for each in rounds])
        verdict = f"{'met' if rate.median >= _AIM else 'missed'} (aim {_AIM:,})" if has_aim else ""
        print(f"  {name:<26} {rate.format(0):>18} scenes a second  {verdict}".rstrip())


if __name__ == "__main__":
    main()
