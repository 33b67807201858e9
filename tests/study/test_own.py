"""The user's own in studies: tried before it runs, resumed bitwise, told if it changed, not run by pages."""

import dataclasses
import json
import math
import sys

import pytest
import torch

from decayfree.arguments.address import looking_in
from decayfree.errors import InvalidInputError
from decayfree.methods import WRS, NoTreatment, WeightDecay
from decayfree.methods.method import Method
from decayfree.report import write_report
from decayfree.study import Axis, DataSpec, ModelSpec, OptimizerSpec, Recipe, SpecError, StudySpec, read_study
from decayfree.study.data import load
from decayfree.study.files.results import read_rows, run_directory
from decayfree.study.own import OWN
from decayfree.study.own_method import OwnMethod
from decayfree.study.runner.own_check import changed_sources, check_own
from decayfree.study.search.tuning import tune
from decayfree.study.training.loop import train
from support.available import import_or_skip
from support.command_line import call
from support.own_parts import SOURCE, TEXT, written
from support.small_study import recipe
from support.study_files import assert_same_files
from support.synthetic_study import Writer, bumpy


@pytest.fixture(autouse=True)
def path_kept(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))


def stop_after(n_steps):
    return lambda n_done: n_done < n_steps


def test_all_seven_kinds_train_and_their_source_is_kept(tmp_path):
    spec = written(tmp_path)
    check_own(spec)
    (run,) = spec.runs()
    assert train(run, tmp_path, source_dir=tmp_path) == "done"
    (tmp_path / "study.toml").write_text(spec.to_toml(), encoding="utf-8")
    (found,) = read_study(tmp_path).runs
    assert found.sources.keys() == OWN.keys()
    assert len({source["sha256"] for source in found.sources.values()}) == 1
    assert found.label == "mine.py:Shrink, rate 0.02"
    first, *_, last = found.rows
    assert last.learning_rate == pytest.approx(0.1 * (1 / 8) ** 2)  # after 7 of 8 steps, exponent 2
    assert last.norms["0.weight"] < first.norms["0.weight"]  # without shrinking they only grow


def test_a_run_has_one_object_of_a_method(tmp_path):
    source = f"""{SOURCE}

class Shrink(Shrink):
    def prepare(self, model, found):
        object.__setattr__(self, "n_found", len(found))
        return found

    def attach(self, optimizer, found, **others):
        assert self.n_found == len(found)
        return super().attach(optimizer, found, **others)
"""
    (run,) = written(tmp_path, source=source).runs()
    assert train(run, tmp_path, source_dir=tmp_path) == "done"


def test_what_is_asked_for_is_what_trains(tmp_path):
    """Of each kind another argument, or the built-in one, changes what comes out."""
    spec, rows = written(tmp_path), {}
    changes = {
        "as it is": {},
        "task": {"task": "classification"},
        "schedule": {"schedule_args": {"exponent": 1.0}},
        "data.name": {"data": dataclasses.replace(spec.recipe.data, args={"n": 100})},
        "data.augmentation": {"data": dataclasses.replace(spec.recipe.data, augmentation_args={"size": 0.0})},
        "model.name": {"model": ModelSpec("./mine.py:Net", args={"width": 4})},
        "optimizer.name": {"optimizer": OptimizerSpec("./mine.py:Steps")},
    }
    for name, change in changes.items():
        run = dataclasses.replace(
            spec.runs()[0], recipe=dataclasses.replace(spec.recipe, off_span=False, **change)
        )
        train(run, tmp_path, source_dir=tmp_path)
        text = (run_directory(tmp_path, run.key) / "metrics.jsonl").read_text(encoding="utf-8")
        rows[name] = json.loads(text.splitlines()[-1])["train_loss"]
    assert len(set(rows.values())) == len(changes), rows


def test_a_spec_survives_its_file_and_finds_its_source_from_elsewhere(tmp_path):
    spec = written(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "study.toml").write_text(spec.to_toml(), encoding="utf-8")
    again = StudySpec.load(elsewhere / "study.toml")
    assert again == spec
    assert again.source_dir == str(tmp_path)
    assert [run.key for run in again.runs()] == [run.key for run in spec.runs()]


def test_classes_and_functions_are_taken_in_python():
    made = StudySpec(
        methods=(Fades(0.5), WRS()),
        recipe=recipe(model=ModelSpec(torch.nn.Flatten, args={"sides": [1, 2]}), schedule=math.sqrt),
        axes=(Axis("optimizer", ((("name", torch.optim.SGD), ("args", {"momentum": 0.5})),)),),
    )
    (method, _), (run, *_) = made.methods, made.runs()
    assert method == OwnMethod(f"{__name__}:Fades", {"rate": 0.5})
    assert run.recipe.optimizer == OptimizerSpec("torch.optim.sgd:SGD", args={"momentum": 0.5})
    assert (run.recipe.model.name, run.recipe.schedule) == ("torch.nn.modules.flatten:Flatten", "math:sqrt")
    assert StudySpec.from_toml(made.to_toml()) == made


@dataclasses.dataclass(frozen=True)
class Fades(Method):
    rate: float
    label = "fades"


def test_a_method_is_taken_by_its_address_its_class_or_as_it_is(tmp_path):
    address = f"{__name__}:Fades"
    taken = [OwnMethod.taken(one) for one in (address, Fades, Fades(0.5), WRS(), 3)]
    assert taken == [OwnMethod(address), OwnMethod(address), OwnMethod(address, {"rate": 0.5}), WRS(), 3]


def test_overrides_ask_for_and_set_arguments_of_a_method(tmp_path):
    text = TEXT + '[[methods]]\nname = "wrs"\n[[overrides]]\nwhen = {"method.args.rate" = 0.02}\n'
    text += 'set = {"method.args.rate" = 0.04, learning_rate = 0.2}\n'
    own, wrs = written(tmp_path, text=text).runs()
    assert (own.method.args.to_dict(), own.recipe.learning_rate) == ({"rate": 0.04}, 0.2)
    assert (wrs.method, wrs.recipe.learning_rate) == (WRS(), 0.1)
    for path in ("method.name", "method.weight_decay.x", "method.argss.rate"):
        with pytest.raises(SpecError, match=f"{path}: no such setting of a method"):
            written(tmp_path, text=text.replace('{"method.args.rate" = 0.04, ', f'{{"{path}" = 0.04, '))


def test_arguments_are_an_axis_and_part_of_the_key(tmp_path):
    text = TEXT + '[[axes]]\npath = "model.args.width"\nvalues = [2, 3]\n[[axes]]\npath = "optimizer"\n'
    text += 'values = [{name = "sgd"}, {args = {momentum = 0.9, nesterov = true}}]\n'
    text = text.replace("{args =", '{name = "./mine.py:Steps", args =').replace(
        'name = "./mine.py:Steps"\nargs = {momentum = 0.5}\n', ""
    )
    spec = written(tmp_path, text=text)
    runs = spec.runs()
    assert len({run.key for run in runs}) == 4
    assert [run.at("model.args.width") for run in runs] == [2, 2, 3, 3]
    assert "model.args.width" in spec.varying()
    assert StudySpec.from_toml(spec.to_toml()) == spec
    assert runs[1].recipe.optimizer.label == "mine.py:Steps, momentum 0.9, nesterov True"


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("mine.py:Net", "none.py:Net", "model.name: ./none.py:Net: there is no file"),
        ("Net", "Nett", "model.name: ./mine.py:Nett: there is no 'Nett'; did you mean Net?"),
        ("width", "wdth", "model.name: ./mine.py:Net: expected to be called as Net(n_classes=3, wdth=3)"),
        (
            "Steps",
            "Net",
            "optimizer.name: ./mine.py:Net: expected to be called as Net(…, lr=0.1, momentum=0.5)",
        ),
        ("Shrink", "images", "method.name: ./mine.py:images: expected to be called as images(rate=0.02)"),
        ("images", "Net", "data.name: ./mine.py:Net: expected to be called as Net(n=120)"),
        ("power", "noise", "schedule: ./mine.py:noise: expected to be called as noise(…, exponent=2)"),
        ("noise", "Net", "data.augmentation: ./mine.py:Net: expected to be called as Net(…, …, size=0.2)"),
        ("Doubled", "Shrink", "task: ./mine.py:Shrink: expected to give an object with build"),
        ("n_train = 64", "n_train = 400", "./mine.py:images has 120 training and 40 test images here"),
    ],
)
def test_what_is_not_what_it_must_be_is_said_by_its_setting(tmp_path, before, after, said):
    assert said in told(written(tmp_path, text=TEXT.replace(before, after)))


@pytest.mark.parametrize(
    ("definition", "said"),
    [
        (
            "def Net(n_classes, width): return nn.Flatten()",
            "./mine.py:Net is no classifier: expected logits of",
        ),
        (
            "def Net(n_classes, width): return 3",
            "model.name: ./mine.py:Net: expected to give a torch.nn.Module",
        ),
        ("def Net(n_classes, width): return 1 / 0", "model.name: ./mine.py:Net raised ZeroDivisionError"),
        (
            "def Steps(groups, lr, momentum): return 3",
            "./mine.py:Steps: expected to give a torch.optim.Optimizer",
        ),
        (
            "def noise(images, generator, size): return images[:1]",
            "expected images of the same shape and dtype",
        ),
        (
            "def power(share, exponent): return -1.0",
            "expected to give what the learning rate is multiplied by",
        ),
        ("Shrink.faults = lambda self: ['rate is odd']", "method.name: ./mine.py:Shrink: rate is odd"),
        ("Shrink.replays = 1", "method.name: ./mine.py:Shrink: it replays the norms of another run"),
        ("def images(n): return 3", "./mine.py:images: expected to give (images, truth) to train on"),
        ("Doubled.metric = 'F1'", "task: ./mine.py:Doubled: metric: expected a decayfree.study.tasks"),
        ("Doubled.metric = property(lambda self: 1 / 0)", "metric raised ZeroDivisionError"),
        ("def images(n): return [3, 4]", "./mine.py:images: expected to give (images, truth) to train on"),
        ("def images(n): return 2 * [(torch.rand(9, 8, 8), [0] * 9)]", "expected uint8, from 0 to 255"),
        ("def images(n): return 2 * [([[[1]]], 'a')]", "the images to train on: expected tensors or arrays"),
        ("def images(n): return 2 * [(torch.zeros(9, 8, 8).byte(), [0])]", "but what is true is told of 1"),
        (
            "def images(n): return 2 * [(torch.ones(2, 8, 8).byte(), [.5, 1])]",
            "one whole number from 0 an image",
        ),
    ],
)
def test_what_gives_something_else_is_said(tmp_path, definition, said):
    text = TEXT if "Doubled" in definition else TEXT.replace('task = "./mine.py:Doubled"\n', "")
    assert said in told(written(tmp_path, source=f"{SOURCE}\n{definition}\n", text=text))


TRUTHS = """
import torch

def images(task, n=40):
    pixels = torch.arange(n * 3072).view(n, 3, 32, 32).remainder(251).byte()
    truth = {
        "segmentation": (pixels[:, 0] > 100).long(),
        "detection": [torch.tensor([[2.0, 2, 20, 20, i % 3, 0]]) for i in range(n)],
        "counting": [torch.rand(i % 4, 2) * 32 for i in range(n)],
    }[task]
    return (pixels, truth), (pixels[:16], truth[:16])

def counter(n_classes):
    return torch.nn.Sequential(torch.nn.Conv2d(3, 1, 3, padding=1), torch.nn.Flatten(1, 2))

class Detector(torch.nn.Module):
    def __init__(self, n_classes):
        super().__init__()
        self.backbone = torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 3, bias=False), torch.nn.BatchNorm2d(8), torch.nn.ReLU()
        )
        self.last = torch.nn.Conv2d(8, n_classes, 1)

    def head(self, maps):
        return [self.last(one) for one in maps]

    def forward(self, images, targets=None):
        scores = self.head([self.backbone(torch.stack(images))])[0].mean((2, 3))
        if targets is not None:
            labels = torch.stack([one["labels"][0] for one in targets])
            return {"class": torch.nn.functional.cross_entropy(scores, labels)}
        box = torch.tensor([[2.0, 2, 20, 20]])
        best = [one[1:].max(0) for one in scores]
        return [dict(boxes=box, labels=b.indices[None] + 1, scores=b.values[None]) for b in best]
"""


@pytest.mark.parametrize(
    ("task", "model", "n_classes"),
    [
        ("segmentation", "unet-bn", 2),
        ("detection", "fcos-bn", 3),
        ("detection", "./mine.py:Detector", 3),
        ("counting", "./mine.py:counter", 1),
    ],
)
def test_ones_own_images_have_masks_boxes_or_points(tmp_path, task, model, n_classes):
    written(tmp_path, source=TRUTHS)
    data = DataSpec("./mine.py:images", n_train=24, n_validation=8, n_test=16, args={"task": task}, flip=True)
    network = ModelSpec(model) if ":" in model else ModelSpec(model, width_factor=0.125)
    settings = Recipe(
        task,
        n_epochs=1,
        batch_size=8,
        n_samples=1,
        off_span=False,
        learning_rate=1e-3,
        data=data,
        model=network,
    )
    with looking_in(tmp_path):
        assert load(data, task=task).n_classes == n_classes
    run = StudySpec(methods=(NoTreatment(),), seeds=(0,), recipe=settings).runs()[0]
    assert train(run, tmp_path, source_dir=tmp_path) == "done"


def told(spec):
    with pytest.raises(SpecError) as caught:
        check_own(spec)
    return str(caught.value)


def test_all_faults_are_told_at_once(tmp_path):
    faults = told(written(tmp_path, source=""))
    assert faults.startswith("7 faults in the study's spec")
    assert all(f"\n  {kind}: ./mine.py:" in faults for kind in OWN)


def test_augmentation_draws_anew_in_each_step_and_the_same_again(tmp_path):
    spec = written(tmp_path)
    with looking_in(tmp_path):
        dataset = load(spec.recipe.data, task="classification")
        first, again, next_one, other = (
            dataset.batch(torch.arange(4), spec.recipe.data, seed=seed, step=step)
            for seed, step in ((0, 0), (0, 0), (0, 1), (1, 0))
        )
    assert torch.equal(first, again)
    assert not torch.equal(first, next_one)
    assert not torch.equal(first, other)


def test_what_a_class_like_sgd_does_to_the_off_span_part_is_measured_and_not_predicted(tmp_path):
    spec = dataclasses.replace(written(tmp_path), methods=(NoTreatment(),))
    (run,) = spec.runs()
    train(run, tmp_path, source_dir=tmp_path)
    rows = read_rows(run_directory(tmp_path, run.key) / "metrics.jsonl", may_be_cut=False)
    assert all(math.isnan(row.off_span_law) and row.off_span_share > 0 for row in rows)


def test_an_optimizer_that_would_not_decay_is_refused(tmp_path):
    blind = "\nclass Steps(torch.optim.Optimizer):\n    def __init__(self, groups, lr, momentum):\n"
    blind += "        super().__init__(groups, {'lr': lr})\n"
    spec = written(tmp_path, source=SOURCE + blind)
    decaying = dataclasses.replace(spec, methods=(WeightDecay(0.1),))
    with pytest.raises(InvalidInputError, match="Steps has no weight_decay among its defaults"):
        train(decaying.runs()[0], tmp_path, source_dir=tmp_path)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (Recipe(schedule_args={"a": 1}), "schedule_args: cosine takes none, got {'a': 1}"),
        (
            Recipe(data=DataSpec(augmentation_args={"a": 1})),
            "data.augmentation_args: nothing takes none, got",
        ),
        (Recipe(model=ModelSpec(args={"a": 1})), "model.args: vgg4-bn takes none, got {'a': 1}"),
        (Recipe(optimizer=OptimizerSpec(args={"a": 1})), "optimizer.args: sgd takes none, got {'a': 1}"),
    ],
)
def test_arguments_that_nobody_takes_are_told(settings, said):
    assert any(fault.startswith(said) for fault in settings.faults()), settings.faults()


def test_a_stopped_run_goes_on_bitwise_and_begins_anew_where_its_source_changed(tmp_path):
    (run,) = written(tmp_path).runs()
    for name in ("whole", "stopped", "changed"):
        if name != "whole":
            assert train(run, tmp_path / name, source_dir=tmp_path, on_step=stop_after(3)) == "running"
        if name == "changed":
            written(tmp_path, source=SOURCE + "# another line\n")
        assert train(run, tmp_path / name, source_dir=tmp_path) == "done"
    assert_same_files(run, tmp_path / "stopped", tmp_path / "whole")
    assert not list(run_directory(tmp_path / "stopped", run.key).glob("set-aside-*"))
    (reason,) = run_directory(tmp_path / "changed", run.key).glob("set-aside-1/reason.txt")
    assert reason.read_text(encoding="utf-8").startswith("its source changed: ./mine.py was ")


def test_a_source_that_changed_is_told_before_running_and_by_who_compares(tmp_path):
    text = TEXT.replace("seeds = [0]", "seeds = [0, 1]")
    spec, out = written(tmp_path, text=text), tmp_path / "out"
    first, second = spec.runs()
    train(first, out, source_dir=tmp_path)
    assert changed_sources(spec, out) == ()
    written(tmp_path, source=SOURCE + "# another line\n", text=text)
    (said,) = changed_sources(spec, out)
    assert said.startswith("./mine.py was ")
    assert said.endswith(" since 1 of the runs ended")
    train(second, out, source_dir=tmp_path)
    (out / "study.toml").write_text(spec.to_toml(), encoding="utf-8")
    told = "./mine.py is not the same in all runs: "
    assert told in call("study", "list", str(out))[2]
    listed = json.loads(call("study", "list", str(out), "--json")[1])["runs"]
    assert len({run["sources"]["model.name"]["sha256"] for run in listed}) == 2
    assert told in write_report(out).read_text(encoding="utf-8")


def test_results_are_read_without_the_source_and_run_nothing(tmp_path):
    # Angles under sgd are predicted, from the learning rate of each step.
    text = TEXT.replace('name = "./mine.py:Steps"\nargs = {momentum = 0.5}\n', "")
    spec, out = written(tmp_path, text=text), tmp_path / "out"
    both = dataclasses.replace(spec, methods=(*spec.methods, WRS(), WeightDecay(0.01)))
    with looking_in(tmp_path):
        Writer(out, spec=both, final_of=bumpy, n_intervals=2).write()
    (tmp_path / "mine.py").write_text("raise SystemExit('it ran')\n", encoding="utf-8")
    for is_there in (True, False):
        for words in (["show", "mine.toml"], ["list", "out"], ["report", "out"]):
            code, text, errors = call("study", words[0], str(tmp_path / words[1]))
            assert (code, "it ran" in text + errors) == (0, False)
            assert ("runs code of its author's" in errors) == (words[0] == "show")
        (tmp_path / "mine.py").unlink(missing_ok=not is_there)
    assert "mine.py:Shrink, rate 0.02" in text


@pytest.mark.parametrize(
    ("definition", "name"),
    [
        ("", "accuracy"),  # of the task that it inherits from
        ("from decayfree.study.tasks.metric import Metric\nDoubled.metric = Metric('F1', 'Of both.')", "f1"),
        ("Doubled.metric = None", "score"),
    ],
)
def test_pages_call_the_score_of_a_task_by_its_metric(tmp_path, definition, name):
    spec = written(tmp_path, source=f"{SOURCE}\n{definition}\n")
    for run in spec.runs():
        assert train(run, tmp_path, source_dir=tmp_path) == "done"
    (tmp_path / "study.toml").write_text(spec.to_toml(), encoding="utf-8")
    (tmp_path / "mine.py").unlink()
    page = write_report(tmp_path).read_text(encoding="utf-8").lower()
    assert f"test {name} after the last step" in page


def test_runs_that_have_not_begun_are_called_as_the_others(tmp_path):
    definition = """
from dataclasses import dataclass
from decayfree.study.tasks.metric import Metric

@dataclass(frozen=True)
class Mine(Metric):
    unit: str = "none"

Doubled.metric = Mine("F [/macro]", "Of both.")
"""
    spec = written(tmp_path, source=f"{SOURCE}\n{definition}\n")
    spec = dataclasses.replace(spec, methods=(NoTreatment(), *spec.methods))
    *_, last = spec.runs()
    assert train(last, tmp_path, source_dir=tmp_path) == "done"
    (tmp_path / "study.toml").write_text(spec.to_toml(), encoding="utf-8")
    code, text, _ = call("study", "report", str(tmp_path))
    assert (code, "Test F [/macro] after the last step" in text) == (0, True)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "test f [/macro]" in page.lower()
    assert "test score after" not in page.lower()


def test_a_library_network_takes_arguments(tmp_path):
    import_or_skip("timm")
    spec = StudySpec(
        methods=(WRS(),),
        recipe=recipe(model=ModelSpec("timm:resnet10t", args={"stem_width": 8}), n_epochs=1, off_span=False),
    )
    assert spec.runs()[0].sources()["model.name"]["version"].startswith("timm ")
    wrong = dataclasses.replace(
        spec.runs()[0], recipe=recipe(model=ModelSpec("timm:resnet10t", args={"no": 1}))
    )
    with pytest.raises(InvalidInputError, match="unexpected keyword argument 'no'"):
        train(wrong, tmp_path)


@pytest.mark.slow
def test_a_search_takes_it_along(tmp_path):
    spec = written(tmp_path)
    outcome = tune(spec, tmp_path / "tuned", n_trials=1, n_jobs=1)
    best = StudySpec.load(outcome.best_file)
    assert best.methods == spec.methods
    check_own(best)
