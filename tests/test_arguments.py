"""Wrong arguments of public functions: each is one error of ours that names the argument, at the call."""

import dataclasses
import importlib
import inspect
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import decayfree
from decayfree import find_invariant
from decayfree.arguments.kinds import COUNT, SEED, checked, fits
from decayfree.blocks import Blocks
from decayfree.conversion import DecayRule
from decayfree.errors import DecayFreeError, InvalidInputError
from decayfree.methods import METHODS, WRS
from decayfree.report import study_groups
from decayfree.span import InputSpan
from decayfree.study import DataSpec, ModelSpec, Recipe, StudySpec, read_study
from decayfree.study.files.keeping import keep, take_out
from decayfree.study.search.tuning import tune
from decayfree.study.statistics import paired_difference
from decayfree.study.training import train
from decayfree.theory import image_subject
from support.study_stand_in import SPEC, written

WRONG: dict[str, Any] = {
    "None": None,
    "5": 5,
    "a": "a",
    "[]": [],
    "object": object(),
    "nan": float("nan"),
    "-1": -1,
    "True": True,
    "huge": 10**400,
    "tensor": torch.zeros(2, 3, 1),
}
FACES = (
    "span",
    "dynamics",
    "equilibrium",
    "conversion",
    "study",
    "study.statistics",
    "study.builtin",
    "report",
    "theory",
)
# Records hold what a reader of files or a measurement gives them.
RECORDS = {
    *(
        "CleanedWeight",
        "Cleaning",
        "Equilibrium",
        "FixedNormRecipe",
        "Forgetting",
        "WeightRecipe",
        "Row",
        "Run",
        "Spectrum",
    ),
    *("Study", "RunStatus", "StudyStatus", "Progress", "StudyOutcome", "Comparison", "Estimate", "MeanRanks"),
    *(
        "Family",
        "Judgement",
        "Choice",
        "Spread",
        "StudyGroups",
        "StudyNumbers",
        "Check",
        "DecayCase",
        "ForgettingCase",
        "Budget",
        "CrossedEstimate",
        "PooledDifference",
        "Subject",
    ),
    *("LayerSpan", "Named", "ConvertedRescaling", "Motion", "Slope", "Sample"),
}
# What says itself what is wrong with it, when a study is made of it.
SETTINGS = {
    "DataSpec",
    "ModelSpec",
    "OptimizerSpec",
    "Recipe",
    "RunSettings",
    "Axis",
    "Override",
    "Extension",
    "Always",
    "Added",
    "DecayRule",
}
# (function, argument): wrong values that are right there.
ACCEPTED = {
    ("InputSpan", "found"): {"None", "[]"},
    ("InputSpan", "centered"): {"True"},
    ("InputSpan", "max_features"): {"5", "huge"},
    # A tensor of another shape is told as such.
    ("effective_learning_rate", "learning_rate"): {"nan", "huge", "tensor"},
    ("distance_to_equilibrium", "predicted"): {"nan", "huge", "tensor"},
}


# Named by what they are.
KINDS = {"optimizer": "torch.optim.Optimizer", "found": "what decayfree.find_invariant returned"}


def public() -> Iterator[tuple[str, str]]:
    for face in FACES:
        module = importlib.import_module(f"decayfree.{face}")
        names = getattr(module, "__all__", None) or ("sgd", "adamw", "adam_l2", "lion")
        for name in names:
            thing = getattr(module, name)
            is_error = isinstance(thing, type) and issubclass(thing, Exception)
            if (
                callable(thing)
                and not is_error
                and name not in RECORDS | SETTINGS
                and not typing.get_origin(thing)
            ):
                yield face, name


# What faces do not show and documents name.
NAMED = {"study.search.tuning": "tune", "study.files.keeping": "keep", "dynamics": "read_jsonl"}


def taking_paths() -> Iterator[tuple[str, str, Any]]:
    """Every argument of a public function, class or method that is a path by its name or its annotation."""
    root = Path(str(decayfree.__file__)).parent
    faces = [".".join(path.parent.relative_to(root).parts) for path in sorted(root.rglob("__init__.py"))]
    names = [(face, name) for face in faces for name in getattr(module_of(face), "__all__", ())]
    for face, name in dict.fromkeys([*names, *NAMED.items()]):
        thing = getattr(module_of(face), name)
        own = vars(thing).items() if inspect.isclass(thing) else [(name, thing)]
        public = [getattr(one, "__func__", one) for key, one in own if key[0] != "_" or key == "__init__"]
        for function in filter(inspect.isfunction, public):
            try:
                hints = typing.get_type_hints(function)
            except NameError:  # of what only type checkers see
                continue
            for argument, hint in hints.items():
                if argument != "return" and ("Path" in str(hint) or argument in PATHS):
                    yield name, argument, hint


def module_of(face: str) -> Any:
    return importlib.import_module(f"decayfree.{face}".rstrip("."))


PATHS = {"out", "path", "file", "folder", "directory", "target", "data_dir"}
# Records of what was found or asked, and paths that are none of a file: those of an axis.
NOT_GIVEN = {"Axis", "Extension", "TuneOutcome"}


def test_what_takes_a_path_takes_it_as_text_too() -> None:
    taken = {(name, argument): hint for name, argument, hint in taking_paths() if name not in NOT_GIVEN}
    wrong = {one: hint for one, hint in taken.items() if not (fits(hint, "a") and fits(hint, Path("a")))}
    assert wrong == {}
    assert {("tune", "out"), ("train", "out"), ("train", "data_dir"), ("keep", "target")} <= taken.keys()
    assert {("StudySpec", "path"), ("StudySpec", "data_dir"), ("read_jsonl", "path")} <= taken.keys()


def test_folders_of_trainings_searches_and_archives_may_be_text(
    right: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert keep(str(right["out"]), str(tmp_path / "kept")) == tmp_path / "kept" / "runs.tar.xz"
    assert read_study(str(tmp_path / "kept")) == right["study"]
    assert StudySpec(methods=(WRS(),), data_dir=tmp_path).data_dir == str(tmp_path)
    seen = []

    def noted(spec: StudySpec, out: Path, **_: Any) -> None:
        seen.append(out)
        raise ZeroDivisionError

    monkeypatch.setattr("decayfree.study.search.tuning.run_study", noted)
    spec = dataclasses.replace(SPEC, recipe=dataclasses.replace(SPEC.recipe, data=DataSpec(n_validation=8)))
    with pytest.raises(ZeroDivisionError):
        tune(spec, str(tmp_path), n_trials=1)
    assert seen == [tmp_path / "tuning"]
    for call in (
        lambda: train(SPEC.runs()[0], 5),  # type: ignore[arg-type]
        lambda: tune(spec, 5, n_trials=1),  # type: ignore[arg-type]
        lambda: keep(5, tmp_path),  # type: ignore[arg-type]
        lambda: take_out(tmp_path, 5),  # type: ignore[arg-type]
    ):
        with pytest.raises(InvalidInputError, match=r"^out must be a text or a path, got 5$"):
            call()


@pytest.fixture(scope="module")
def right(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A right value for arguments by their name."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    inputs = torch.randn(8, 3)
    found = find_invariant(model, inputs)
    span = InputSpan(model, centered=False)
    with span:
        model(inputs)
    out = written(tmp_path_factory.mktemp("study"), spec=SPEC)
    study = read_study(out)
    images, labels = torch.randn(64, 3, 8, 8), torch.arange(64) % 10
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    return {
        "model": model,
        "inputs": inputs,
        "span": span,
        "a": span["0.weight"],
        "b": span["0.weight"],
        "found": found,
        "optimizer": optimizer,
        "norms": torch.ones(3),
        "measured": torch.ones(3),
        "predicted": 1.0,
        "learning_rate": 0.1,
        "family": "sgd",
        "before": torch.ones(2, 3),
        "after": torch.ones(2, 3),
        "weight": torch.ones(2, 3),
        "gradient": torch.ones(2, 3),
        "blocks": Blocks(0, (1, 1)),
        "sink": len,
        "every": 1,
        "path": out / "samples.jsonl",
        "writer": str(out),
        "gradient_norms": None,
        "images": images,
        "labels": labels,
        "lr": 0.1,
        "weight_decay": 0.1,
        "gradient_norm": 1.0,
        "fan_in": 9.0,
        "multiplier": 0.5,
        "time_constant_steps": 10.0,
        "out": out,
        "spec": SPEC,
        "method": WRS(),
        "recipe": Recipe(),
        "step": 0,
        "study": study,
        "numbers": study_groups(study),
        "name": "figure1",
        "rule": DecayRule("AdamW", 0.1, 0.1),
        "shape": "cosine",
        "n_steps": 100,
        "values": [1.0, 2.0, 4.0],
        "first": {0: 1.0, 1: 2.0},
        "second": {0: 1.0, 1: 3.0},
        "p_values": {"a": 0.1},
        "difference": paired_difference({0: 1.0, 1: 2.0}, {0: 0.5, 1: 3.0}),
        "differences": [1.0, 2.0],
        "degrees_of_freedom": 3,
        "scores": {"a": [1.0, 2.0], "b": [2.0, 1.0]},
        "validation": {"a": {0: 1.0}},
        "comparisons": {"a": paired_difference({0: 1.0, 1: 2.0}, {0: 0.5, 1: 3.0})},
        "subject": image_subject(images.double(), labels, width=4),
    }


@pytest.mark.parametrize(("face", "name"), list(public()))
def test_a_wrong_argument_is_an_error_of_ours_that_names_it(
    face: str, name: str, right: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where a folder that is taken may be made
    function = getattr(importlib.import_module(f"decayfree.{face}"), name)
    parameters = inspect.signature(function).parameters
    if name == "TensorBoard":  # whose annotations only type checkers see
        parameters, hints = {"writer": parameters["writer"]}, {"writer": str}
    else:
        hints = typing.get_type_hints(function.__init__ if inspect.isclass(function) else function)
    needed = {one: right.get(one) for one, given in parameters.items() if given.default is given.empty}
    foreign = []
    for argument in parameters:
        hint = hints.get(argument, Any)
        for label, value in WRONG.items():
            # What the signature admits is looked at where it has a range: by the tests of the function.
            if hint is Any or fits(hint, value) or label in ACCEPTED.get((name, argument), ()):
                continue
            try:
                result = function(**{**needed, argument: value})
                if inspect.isgenerator(result):
                    next(result)
                foreign.append(f"{argument}={label} was accepted")
            except DecayFreeError as error:
                if argument not in str(error) and KINDS.get(argument, argument) not in str(error):
                    foreign.append(f"{argument}={label}: not named in {str(error)[:200]!r}")
            except Exception as error:
                foreign.append(f"{argument}={label}: {type(error).__name__}: {str(error)[:80]}")
    assert not foreign, "\n".join(foreign)


@pytest.mark.parametrize("label", WRONG)
@pytest.mark.parametrize(
    "name", ["methods", "seeds", "recipe", "axes", "overrides", "title", "question", "data_dir"]
)
def test_a_study_of_other_kinds_is_refused(name: str, label: str) -> None:
    hint = typing.get_type_hints(StudySpec)[name]
    if not fits(hint, WRONG[label]):
        with pytest.raises(DecayFreeError, match=name):
            StudySpec(**{"methods": (WRS(),), name: WRONG[label]})


@pytest.mark.parametrize("label", WRONG)
@pytest.mark.parametrize("kind", [Recipe, ModelSpec])
def test_settings_of_other_kinds_are_told_by_name(kind: type, label: str) -> None:
    for name, hint in typing.get_type_hints(kind).items():
        if not fits(hint, WRONG[label]):
            faults = kind(**{name: WRONG[label]}).faults()
            assert any(fault.startswith(f"{name}: ") for fault in faults), (name, faults)


@pytest.mark.parametrize("label", WRONG)
def test_methods_say_what_is_wrong_with_their_settings(label: str) -> None:
    for kind in METHODS.values():
        for name, hint in typing.get_type_hints(kind).items():
            if name in inspect.signature(kind).parameters and not fits(hint, WRONG[label]):
                right = {
                    one: 1.0 for one, p in inspect.signature(kind).parameters.items() if p.default is p.empty
                }
                assert any(name in fault for fault in kind(**{**right, name: WRONG[label]}).faults()), (
                    kind,
                    name,
                )


@pytest.mark.parametrize("label", WRONG)
def test_a_span_refuses_what_is_no_weight_and_no_state(label: str, right: dict[str, Any]) -> None:
    layer = right["span"]["0.weight"]
    for look in (layer.in_span, layer.off_span, layer.off_span_share, layer.energy):
        with pytest.raises(DecayFreeError, match=r"weight must be a tensor of the shape|of shape .* got"):
            look(WRONG[label])
    for state in (WRONG[label], {"centered": False, "moments": WRONG[label]}):
        for take in (right["span"].merge_, right["span"].load_state_dict):
            with pytest.raises(DecayFreeError, match=r"InputSpan.state_dict|moments must be a table"):
                take(state)
    for moment in (WRONG[label], {"n_samples": 1, "n_batches": 1, "mean": WRONG[label], "sum": WRONG[label]}):
        with pytest.raises(DecayFreeError, match=r"0\.weight: its"):
            right["span"].merge_({"centered": False, "moments": {"0.weight": moment}})
    with pytest.raises(DecayFreeError, match="found must"):
        InputSpan(
            right["model"], WRONG[label] if not isinstance(WRONG[label], list | None) else [WRONG[label]]
        )
    assert layer.in_span(torch.ones(2, 3)).shape == (2, 3)


def test_kinds_and_ranges_are_told_together() -> None:
    @checked(n_steps=COUNT, seed=SEED)
    def steps(
        model: nn.Module, *, n_steps: int | None = None, seed: int = 0, names: list[str] | None = None
    ) -> int:
        return seed

    assert steps(nn.Linear(1, 1), n_steps=1, seed=2**63 - 1, names=["a"]) == 2**63 - 1
    assert steps(nn.Linear(1, 1), n_steps=None) == 0
    message = (
        "model must be a Module, got 3; n_steps must be a whole number or None from 1 to 10^9, got 0; "
        "seed must be a whole number from 0 to below 2^63, got 9223372036854775808; "
        "names must be a list (list[str]) or None, got 'a'"
    )
    with pytest.raises(TypeError, match=r"steps\(\): got an unexpected keyword argument 'step'"):
        steps(nn.Linear(1, 1), step=1)  # type: ignore[call-arg]
    with pytest.raises(InvalidInputError) as error:
        steps(3, n_steps=0, seed=2**63, names="a")  # type: ignore[arg-type]
    assert str(error.value) == message
