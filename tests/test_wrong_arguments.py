"""Every argument of the core, given what it does not want: one error of ours that names it, at the call."""

import inspect
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import decayfree
from decayfree import DecayFreeError

WRONG: dict[str, Any] = {
    **{repr(value): value for value in (None, 5, -1, math.nan, math.inf, "a", b"a", 1j, True, 2**70)},
    **{repr(value): value for value in ([], [None], {}, {5: 5}, {"a": "b"})},
    "an object": object(),
    "a class": int,
    "a function": lambda *args, **kwargs: None,
    "a tensor": torch.ones(3),
    "a negative tensor": -torch.ones(8),
}
INPUTS = torch.randn(8, 3, generator=torch.Generator().manual_seed(1))
MODEL = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
FOUND = decayfree.find_invariant(MODEL, INPUTS)


class Made:
    """What a right call wants, new for each."""

    def __init__(self) -> None:
        self.model = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
        self.found = decayfree.Invariance.from_dict(FOUND.to_dict(), self.model)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        self.adamw = torch.optim.AdamW(self.model.parameters(), lr=0.1, weight_decay=0.1)

    def recorded(self, **settings: Any) -> None:
        decayfree.Recorder(**settings)
        self.model(INPUTS).square().mean().backward()
        settings["optimizer"].step() if settings["optimizer"] is self.optimizer else self.optimizer.step()


CONVERTED = decayfree.drop_decay(torch.optim.AdamW(MODEL.parameters(), weight_decay=0.1), FOUND)
# By function: how it is called right, and which of these values it takes, by argument.
CALLS: dict[str, tuple[Callable[..., Any], Callable[[Made], dict[str, Any]], dict[str, set[str]]]] = {
    "find_invariant": (
        decayfree.find_invariant,
        lambda made: {"model": made.model, "inputs": INPUTS},
        {
            "forward": {"None"},
            "probes": {"5", str(2**70)},
            "include": {"None", "[]", "{}"},
            "exclude": {"None", "[]", "{}"},
            "seed": {"5", "-1"},
            "dtype": {"None"},
        },
    ),
    "WeightRescaling": (
        decayfree.WeightRescaling,
        lambda made: {"optimizer": made.optimizer, "found": made.found},
        {
            "radius": {"5", "{}", str(2**70)},
            "every": {"5", str(2**70)},
            "at_most": {"True"},
            "fused": {"True"},
            "copies": {"[]", "{}"},
        },
    ),
    "rescale_": (
        decayfree.rescale_,
        lambda made: {"model": made.model, "found": made.found},
        {"radius": {"5", "{}", str(2**70)}, "optimizer": {"None"}},
    ),
    "split_params": (
        decayfree.split_params,
        lambda made: {"model": made.model, "found": made.found},
        {"weight_decay": {"5", str(2**70)}},
    ),
    "exempt_": (
        decayfree.exempt_,
        lambda made: {"optimizer": made.optimizer, "found": made.found},
        {},
    ),
    "averaged": (
        decayfree.averaged,
        lambda made: {"average": made.model, "found": made.found, "batches": INPUTS},
        {"radius": {"5", "{}", str(2**70)}, "forward": {"None", "a function"}},
    ),
    "Recorder": (
        decayfree.Recorder,
        lambda made: {"optimizer": made.optimizer, "found": made.found, "sink": id, "every": 1},
        {
            "every": {"5", str(2**70)},
            "sink": {"'a'", "a function", "a class"},
            "family": {"None"},
            "quantiles": {"[]", "{}"},
            "predicted_angles": {"None", "{}", "a function", "a class"},
            "also": {"None", "{}"},
        },
    ),
    "GradientNorms": (
        decayfree.GradientNorms,
        lambda made: {"optimizer": made.optimizer, "found": made.found},
        {},
    ),
    **{
        function.__name__: (
            function,
            lambda made: {"optimizer": made.adamw, "found": made.found, "gradient_norms": None},
            {"gradient_norms": {"None", "{}"}},
        )
        for function in (decayfree.drop_decay, decayfree.fixed_norm_recipe)
    },
    **{
        f"Invariance.{name}": (
            getattr(FOUND, name),
            lambda made: {"model": made.model},
            {"model": {"None"} if name == "parts" else set()},
        )
        for name in ("parts", "misfits", "check_fits")
    },
    "schedules": (
        CONVERTED.schedules,
        lambda made: {"multiplier": float},
        {
            "multiplier": {"a class", "a function"},
            "steps_per_call": {"5", str(2**70)},
            "start_angle": {"5", str(2**70)},
        },
    ),
    "from_dict": (
        decayfree.Invariance.from_dict,
        lambda made: {"d": FOUND.to_dict(), "model": made.model},
        {},
    ),
}
CASES = [
    (function, argument)
    for function, (call, _, _) in CALLS.items()
    for argument in inspect.signature(call).parameters
]


@pytest.mark.parametrize(("function", "argument"), CASES)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_it_is_refused_at_the_call_or_taken_on_purpose(function, argument, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call, right, taken = CALLS[function]
    accepted, told = set(), []
    for name, value in WRONG.items():
        made = Made()
        try:
            call(**{**right(made), argument: value})
            accepted.add(name)
        except DecayFreeError as error:
            told.append(str(error))
    words = {"d": "to_dict", "average": "model", "inputs": "input", "batches": "batch"}
    assert [one for one in told if words.get(argument, argument) not in one or len(one) > 500] == []
    assert accepted - taken.get(argument, set()) == set()


@pytest.mark.parametrize(
    "key", ["radii", "every", "momentum", "norms", "n_steps", "optimizer_steps_before", "biases"]
)
def test_a_state_that_is_loaded_is_looked_at_like_arguments(key):
    made = Made()
    wrs = decayfree.WeightRescaling(made.optimizer, made.found)
    state = wrs.state_dict()
    taken = {"every": {"5", str(2**70)}, "n_steps": {"5", str(2**70)}, "norms": {"{}"}, "biases": {"{}"}}
    taken["optimizer_steps_before"] = {"None", "5", str(2**70)}
    for name, value in WRONG.items():
        if name in taken.get(key, ()):
            continue
        with pytest.raises(DecayFreeError):
            wrs.load_state_dict({**state, key: value})
        assert repr(wrs.state_dict()) == repr(state)


def test_copies_that_are_none_are_a_problem_and_raise_nothing():
    made = Made()
    wrs = decayfree.WeightRescaling(made.optimizer, made.found)
    for name, value in WRONG.items():
        if name not in ("[]", "{}"):
            assert any("copies[0]" in problem for problem in wrs.check(value).problems), name
