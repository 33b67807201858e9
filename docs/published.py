"""What published recipes imply: docs/published.md, out of docs/published.toml.

    python docs/published.py

Reads the recipes as they were published and works out how long directions are remembered under them. It
states no figure of its own.
"""

import math
import statistics
import textwrap
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from decayfree.conversion import DecayRule, Forgetting, RateSchedule

HERE = Path(__file__).parent
WIDTH = 110
HEAD = (
    *("recipe", "optimizer", "η", "λ", "batch", "epoch, steps", "run", "schedule", "angle, mrad", "D"),
    *("memory, steps", "memory, epochs", "in the mean, epochs", "source"),
)


class Recipe:
    """One as it was published, with what it implies."""

    def __init__(self, row: Mapping[str, Any]) -> None:
        self.row = row
        self.steps_per_epoch = math.ceil(row["examples"] / row["batch"]) if "examples" in row else None
        self.in_epochs = "epochs" in row
        unit = self.steps_per_epoch or 1 if self.in_epochs else 1
        self.n_steps = row["epochs"] * unit if self.in_epochs else row["steps"]
        of_schedule = dict(row["schedule"])
        every = of_schedule.pop("drop_every", None)
        if every is not None:
            of_schedule["drops"] = range(every, row["epochs"], every)
        if "drops" in of_schedule:
            of_schedule["drops"] = tuple(drop * unit for drop in of_schedule["drops"])
        n_warmup_steps = of_schedule.pop("warmup", 0) * unit
        self.schedule = RateSchedule(n_steps=self.n_steps, n_warmup_steps=n_warmup_steps, **of_schedule)
        settings = {key: tuple(one) if key == "betas" else one for key, one in row["optimizer"].items()}
        self.rule = DecayRule(**settings)
        self.forgetting = Forgetting.of(self.rule, self.schedule)

    @property
    def mean_epochs(self) -> float | None:
        """Of memory over the schedule; None where nobody says how long an epoch is."""
        steps = self.forgetting.mean_memory_steps
        return None if steps is None or self.steps_per_epoch is None else steps / self.steps_per_epoch

    def cells(self) -> list[str]:
        """A line of the table."""
        row, found, per_epoch = self.row, self.forgetting, self.steps_per_epoch
        full = None if per_epoch is None else found.memory_steps / per_epoch
        return [
            *(row["name"], self._optimizer(), f"{self.rule.lr:g}", f"{self.rule.weight_decay:g}"),
            *(f"{row['batch']:,}", "" if per_epoch is None else f"{per_epoch:,}"),
            f"{row['epochs']} epochs" if self.in_epochs else f"{self.n_steps:,} steps",
            *(self._schedule(), f"{1000 * found.angle_rad:.2f}", f"{found.whole:.3g}"),
            *(f"{found.memory_steps:,.0f}", _figure(full), _figure(self.mean_epochs), row["source"]),
        ]

    def _optimizer(self) -> str:
        rule = self.rule
        if rule.optimizer == "SGD":
            return f"SGD, {'Nesterov ' * rule.nesterov}{rule.momentum:g}"
        return f"{rule.optimizer}, {rule.betas[0]:g}, {rule.betas[1]:g}"

    def _schedule(self) -> str:
        said = dict(self.row["schedule"])
        text = str(said["shape"])
        if "drop_every" in said:
            text = f"×{said['drop_factor']:g} every epoch"
        elif "drops" in said:
            factor = said.get("drop_factor", 0.1)
            text = f"×{factor:g} at {', '.join(f'{drop:,}' for drop in said['drops'])}"
        if "last_share" in said:
            text += f" to {100 * said['last_share']:.2g} %"
        return text + (f", warm-up {said['warmup']:,}" if "warmup" in said else "")


INTRO = """
Learning rate, weight decay and momentum decide together how far a weight without scale turns in a step, and
so for how long it remembers its direction: that is all that the decay does to it ([recipes.md](recipes.md)).
This page says for how long under recipes that people have published. The column `memory, epochs` is what
Turning takes in place of rate and decay:
"""
CODE = """\
```python
decayfree.Turning(optimizer, found, steps_per_epoch=len(loader), memory_epochs=5.12)
```
"""
POINTS = (
    """
    **memory**: after so many steps at the full rate η the cosine of a direction with what it was is 1/e.
    **D**: −log of the cosine between the first and the last direction. **In the mean**: the length of the run
    over D, so that 1/D is the share of the run that is remembered. An empty cell: one pass over the data, or
    nobody says how long an epoch is.
    """,
    """
    It counts every step as balanced at its rate. Norms get there in a quarter of the memory under SGD with
    momentum, in half of it under AdamW. Where D is below 1 they hardly do, and angles are set by where
    weights began.
    """,
    """
    Batches are images, pairs, sequences or tokens, whatever an epoch is counted in; an epoch has as many
    steps as batches that hold all of it. Cosines and lines begin after the warm-up. Warm-up and drops are in
    epochs where the run is, and in steps elsewhere.
    """,
    """
    The formula is that of weights without scale: kernels and matrices before BatchNorm, queries and keys
    before QK-norm. Most matrices of a transformer have a scale; for these the same number, 1/(ηλ) under
    AdamW, says over how many steps their value is an average of updates (Wang and Aitchison,
    [2405.13698](https://arxiv.org/abs/2405.13698)).
    """,
)
UNKNOWN = """
Under LAMB every step is a share of the weight's own norm. Under RMSprop with L2, as under Adam with L2, the
angle depends on how large gradients are, so that layers remember for different times and no setting says for
how long. `decayfree recipe` refuses both; under RMSprop, Turning gives directions a memory.
"""


def page(recipes: list[Recipe], unknown: list[Mapping[str, str]]) -> Iterator[str]:
    """The lines of the page."""
    yield "# How long published recipes remember\n"
    yield "<!-- Written by `python docs/published.py` from docs/published.toml; change these instead. -->\n"
    yield from paragraph(INTRO)
    yield CODE
    for group, words in (("images", "images"), ("text", "text, or text and images")):
        these = [one for one in recipes if one.row["group"] == group]
        means = [one.mean_epochs for one in these if one.mean_epochs is not None]
        known = "" if len(means) == len(these) else f", of {len(means)} whose epochs are known"
        yield f"## Trained on {words}\n"
        yield from paragraph(
            f"{len(these)} recipes. In the mean over the schedule directions are remembered for "
            f"{min(means):.2g} to {max(means):.3g} epochs, the median being {statistics.median(means):.2g}"
            f"{known}."
        )
        yield from table(HEAD, [one.cells() for one in these])
    yield "## How to read it\n"
    for point in POINTS:
        yield from paragraph(point, bullet=True)
    yield "\n## Without a closed form\n"
    yield from paragraph(UNKNOWN)
    keys = ("name", "optimizer", "source")
    yield from table(("recipe", "optimizer", "source"), [[row[key] for key in keys] for row in unknown])


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Lines of a table, and an empty one."""
    yield f"| {' | '.join(head)} |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield f"| {' | '.join(row)} |"
    yield ""


def paragraph(text: str, *, bullet: bool = False) -> list[str]:
    """Lines of prose."""
    first, rest = ("- ", "  ") if bullet else ("", "")
    lines = textwrap.wrap(
        " ".join(text.split()),
        WIDTH,
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return lines if bullet else [*lines, ""]


def written() -> str:
    """The whole page."""
    data = tomllib.loads((HERE / "published.toml").read_text(encoding="utf-8"))
    return "\n".join(page([Recipe(row) for row in data["recipes"]], data["unknown"]))


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


if __name__ == "__main__":
    (HERE / "published.md").write_text(written(), encoding="utf-8")
