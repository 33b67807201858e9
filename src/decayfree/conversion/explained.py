"""How is a recipe without decay printed, with the formulas that it comes from and with its limits?

Puts into words what fixed_norm.py has worked out; computes nothing else.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from decayfree.columns import aligned
from decayfree.conversion.decay_rule import DecayRule, name_of
from decayfree.conversion.weight_recipe import WeightRecipe


def text_of(weights: Sequence[WeightRecipe]) -> str:
    """The whole recipe: for each rule its formulas and its table, then schedule and limits."""
    if not weights:
        return "No weight is held, so there is nothing to convert."
    lines: list[str] = []
    rules = tuple(dict.fromkeys(one.rule for one in weights))
    for rule in rules:
        alike = [one for one in weights if one.rule == rule]
        angles = torch.cat([one.angles_rad for one in alike])
        times = torch.cat([one.time_constants_steps for one in alike])
        moving = torch.isfinite(times)
        lines += [
            *derivation_of(rule, angles[moving], times[moving]),
            "",
            _CHOICE,
            *(f"  {line}" for line in aligned(rows_of(alike))),
            "",
        ]
        if not bool(moving.all()):
            n_still = int((~moving).sum())
            lines += [f"{n_still} blocks had no gradient; they keep the norm that they have.", ""]
    return "\n".join([*lines, *schedule_and_limits(rules)])


def title_of(rule: DecayRule) -> str:
    """The settings in one line."""
    decay = f"lr {rule.lr:g}, weight decay {rule.weight_decay:g}"
    if rule.optimizer != "SGD":
        return f"{name_of(rule)}, {decay}, betas {rule.betas[0]:g} and {rule.betas[1]:g}"
    nesterov = "Nesterov " * rule.nesterov
    momentum = f" with {nesterov}momentum {rule.momentum:g}" if rule.momentum else ""
    dampening = f", dampening {rule.dampening:g}" if rule.dampening else ""
    return f"SGD{momentum}{dampening}, {decay}{' (decoupled)' * rule.decoupled}"


def derivation_of(rule: DecayRule, angles_rad: Tensor, time_constants_steps: Tensor) -> list[str]:
    """Formulas, with what they come to where that is known."""
    chord, memory, norm, time, rate = _FORMULAS[_kind(rule)]
    if len(angles_rad):
        chord += f", so {_spread(angles_rad)} rad ({_spread(torch.rad2deg(angles_rad))} degrees)"
        memory += f" = {_spread(2 / (rule.correlation_time * angles_rad**2), whole=True)}"
    if len(time_constants_steps):
        time += f" = {_spread(time_constants_steps, whole=True)}"
    rows = [
        ("it turns in a step by", chord),
        ("and remembers for", f"{memory} steps, until its cosine is 1/e"),
        ("at a norm of", f"{norm}, {_SYMBOLS[rule.optimizer]}"),
        ("which it approaches in", f"{time} steps, up to 1/e"),
        ("the same at radius 1", f"{rate} instead of η"),
    ]
    intro = "Where decay and steps of a block balance, to first order in ηλ (the numbers go beyond that):"
    return [title_of(rule), "", intro, *(f"  {line}" for line in aligned(rows))]


def schedule_and_limits(rules: Sequence[DecayRule]) -> list[str]:
    """What is to be done with the schedule, and where the recipe ends."""
    powers = " or ".join(sorted({_POWERS[rule.schedule_exponent] for rule in rules}))
    text = (
        "Schedule\n"
        "  With a fixed norm angles follow the learning rate. With decay the norm follows it too, in the "
        "steps above: a schedule that is\n"
        f"  slower turns weights by {powers} of its multiplier, one that is faster (a warm-up, "
        "the end of a cosine) by the\n"
        "  multiplier itself. LambdaLR(optimizer, wrs.schedules(multiplier)) does as decay would, "
        "for the held weights only.\n"
        "\n"
        "Limits\n"
        "  It is the equilibrium that is kept, not the way there: under decay a norm that begins small "
        "turns faster at first, and a\n"
        "  training shorter than a few times the steps above never gets there. Gradients count as "
        "random; real ones remember each\n"
        "  other, and on a small network angles were up to a tenth off, or a fifth where nothing was "
        "noise (docs/recipes.md). All\n"
        "  other parameters keep their decay, their learning rate and their schedule.\n"
    )
    if any(rule.needs_gradient_norm for rule in rules):
        text += (
            "  G changes in the course of training, and with it what decay would have done: it is that of "
            "the steps it was measured in.\n"
        )
    if any(rule.optimizer != "SGD" for rule in rules):
        text += (
            "  One radius of 1 for all would unbalance layers: under Adam and Lion the angle goes with √C. "
            "Radii that go with √C do not.\n"
        )
    return text.splitlines()


_CHOICE = (
    "Hold each block at this radius (norm a row) and keep the learning rate; "
    "or at radius 1 with the rate in the last column."
)

_POWERS = {1 / 2: "the square root", 2 / 3: "the power 2/3"}

# memory, norm, time constant, learning rate at radius 1
_COUPLED = ("(1−μ)/(ηλ)", "r⁴ = ηG²/(2λ(1−μ))", "(1−μ)/(4ηλ)", "η/radius² (a single row: √(2ηλ(1−μ))/G)")
_DECOUPLED = ("1/(ηλ)", "r⁴ = ηG²/(2λ(1−μ)²)", "1/(4ηλ)", "η/radius² (a single row: (1−μ)√(2ηλ)/G)")
# The chord, and these four.
_FORMULAS: dict[str, tuple[str, str, str, str, str]] = {
    "SGD": ("chord² = 2ηλ/(1+μ)", *_COUPLED),
    "Nesterov": ("chord² = 2ηλ(1+2μ−2μ³)/(1+μ)", *_COUPLED),
    "SGD decoupled": ("chord² = 2ηλ(1−μ)/(1+μ)", *_DECOUPLED),
    "Nesterov decoupled": ("chord² = 2ηλ(1−μ)(1+2μ−2μ³)/(1+μ)", *_DECOUPLED),
    "Adam": ("chord² = η²C(1−β₁)/((1+β₁)r²)", "2r²/(η²C)", "r³ = η√C·G/(2λ)", "2r²/(3η²C)", "η/radius"),
    "AdamW": (
        "chord² = 2ηλ(1−β₁)/(1+β₁)",
        *("1/(ηλ)", "r² = ηC/(2λ)", "1/(2ηλ)", "η/radius = √(2ηλ/C a row)"),
    ),
    "Lion": ("chord² = πηλκ", "1/(ηλ)", "r² = ηC/(πλκ)", "1/(2ηλ)", "η/radius = √(πηλκ/C a row)"),
}
_SYMBOLS = {
    "SGD": "G = ‖g‖·‖w‖, measured",
    "Adam": "G = ‖g‖·‖w‖, measured, C weights in the block",
    "AdamW": "C weights in the block",
    "Lion": "κ = (1−β₁)² + β₁²(1−β₂)/(1+β₂), C weights in the block",
}


def _kind(rule: DecayRule) -> str:
    if rule.optimizer != "SGD":
        return rule.optimizer
    return ("Nesterov" if rule.nesterov else "SGD") + (" decoupled" if rule.decoupled else "")


def rows_of(weights: Sequence[WeightRecipe]) -> list[list[str]]:
    """A row a weight of one rule, below a head."""
    needs_g = weights[0].rule.needs_gradient_norm
    needs_c = weights[0].rule.optimizer != "SGD"
    needs_angle = weights[0].rule.optimizer == "Adam"
    head = ["weight", "shape", *["C a row"] * needs_c, *["G"] * needs_g, *["angle, rad"] * needs_angle]
    rows = [[*head, "radius", "lr at radius 1"]]
    for one in weights:
        row = [one.name, str(one.shape)]
        row += [str(one.fan_in)] if needs_c else []
        row += [_spread(one.gradient_norms)] if one.gradient_norms is not None else []
        row += [_spread(one.angles_rad)] if needs_angle else []
        rows.append([*row, _spread(one.radii), _spread(one.lr_at_radius_1)])
    return rows


def _spread(values: Tensor, *, whole: bool = False) -> str:
    """The median, and from where to where they go if they differ."""
    least, middle, most = (float(value) for value in (values.min(), values.median(), values.max()))
    form = ",.0f" if whole else ".3g"
    one = format(middle, form)
    ends = (format(least, form), format(most, form))
    return one if ends == (one, one) else f"{one} ({ends[0]} to {ends[1]})"
