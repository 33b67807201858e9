"""The options of a recipe: each does to the loop what it says, and a run under it resumes bitwise."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from decayfree.errors import InvalidInputError
from decayfree.methods import WRS, NoTreatment
from decayfree.study import DataSpec, ModelSpec, OptimizerSpec
from decayfree.study.data import load
from decayfree.study.data.draws import generator_for, names_in_task
from decayfree.study.files.checkpoint import load_checkpoint
from decayfree.study.files.results import read_rows, run_directory
from decayfree.study.training.building import build, device_of
from decayfree.study.training.loop import train
from support.small_study import recipe, settings


def rows_of(out, run):
    return read_rows(run_directory(out, run.key) / "metrics.jsonl", may_be_cut=False)


def weights_of(out, run):
    return load_checkpoint(run_directory(out, run.key))["model"]


@pytest.mark.parametrize(
    "changes",
    [
        {"label_smoothing": 0.1},
        {"precision": "bfloat16"},
        {"schedule": "step"},
        {"n_warmup_epochs": 1.0},
        {"n_cycles": 2},
        {"data": DataSpec(n_train=64, n_validation=50, n_test=40, n_tasks=3)},
        {"rest_learning_rate": 0.01},
        {"clean_off_span": True, "data": DataSpec(n_train=64, n_test=40, blank_channels=1)},
        {"off_span": False},
        {"off_span": False, "n_samples": 1},
        {"channels_last": False},
        {"data": DataSpec(n_train=64, n_validation=50, n_test=40, flip=True, crop_padding=1, cutout=2)},
        {"model": ModelSpec("mlp-bn", width_factor=1 / 16)},
        {"optimizer": OptimizerSpec("adamw"), "learning_rate": 1e-3},
    ],
    ids=lambda changes: ", ".join(changes),
)
def test_a_run_under_every_option_goes_on_bitwise(tmp_path, changes):
    run = settings(WRS(), **changes)
    assert train(run, tmp_path / "whole") == "done"
    assert train(run, tmp_path / "stopped", on_step=lambda n_done: n_done < 6) == "running"
    assert train(run, tmp_path / "stopped") == "done"
    whole, stopped = (run_directory(tmp_path / name, run.key) for name in ("whole", "stopped"))
    assert (whole / "metrics.jsonl").read_bytes() == (stopped / "metrics.jsonl").read_bytes()
    ours, theirs = weights_of(tmp_path / "whole", run), weights_of(tmp_path / "stopped", run)
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


@pytest.mark.parametrize(
    "changes",
    [
        {"label_smoothing": 0.1},
        {"precision": "bfloat16"},
        {"schedule": "step"},
        {"n_warmup_epochs": 1.0},
        {"data": DataSpec(n_train=64, n_test=40, label_noise=0.25, flip=True, crop_padding=1)},
        {"data": DataSpec(n_train=64, n_test=40, label_noise=0.25, flip=True, cutout=2)},
    ],
    ids=lambda changes: ", ".join(changes),
)
def test_an_option_changes_what_is_trained(tmp_path, changes):
    plain, other = settings(NoTreatment()), settings(NoTreatment(), **changes)
    train(plain, tmp_path)
    train(other, tmp_path)
    before, after = weights_of(tmp_path, plain), weights_of(tmp_path, other)
    assert not torch.equal(before["classifier.weight"], after["classifier.weight"])


def test_what_has_a_scale_may_have_a_learning_rate_of_its_own(tmp_path):
    rates = {"still": 1e-30, "same": 0.1, "one for all": 0.0}
    runs = {name: settings(WRS(), learning_rate=0.1, rest_learning_rate=rate) for name, rate in rates.items()}
    for run in runs.values():
        assert train(run, tmp_path) == "done"
    trained = {name: weights_of(tmp_path, run) for name, run in runs.items()}
    for name, weight in trained["same"].items():
        assert torch.equal(weight, trained["one for all"][name])
    parts = build(runs["still"], tmp_path, data_dir=None)
    held = {name for one in parts.found for name in one.names}
    for name, start in parts.model.named_parameters():
        assert torch.allclose(trained["still"][name], start, rtol=0, atol=1e-20) == (name not in held)


@pytest.mark.parametrize(
    ("blank", "model"),
    [
        ({"blank_border": 2}, ModelSpec("mlp-bn", width_factor=1 / 16)),
        ({"blank_channels": 1}, ModelSpec("vgg4-bn", width_factor=1 / 16)),
    ],
)
def test_a_cleaned_network_does_not_see_what_no_training_image_has(blank, model, tmp_path):
    data = DataSpec(n_train=200, n_validation=50, n_test=40, **blank)
    runs = [settings(WRS(), data=data, model=model, clean_off_span=cleaned) for cleaned in (False, True)]
    differences = []
    for run in runs:
        assert train(run, tmp_path) == "done"
        parts = build(run, tmp_path, data_dir=None)
        parts.model.load_state_dict(weights_of(tmp_path, run))
        parts.model.eval()
        inputs = parts.dataset.to_input(parts.dataset.train.pixels)
        bordered = inputs.clone()
        # These pixels are equal in all training images: what differs among them is not there.
        bordered[:, -1:, 0, 0] += 1
        bordered[:, -1:, 0, 1] -= 1
        with torch.no_grad():
            ours, theirs = parts.model(inputs), parts.model(bordered)
        differences.append(float((ours - theirs).abs().max() / ours.abs().max()))
    assert differences[0] > 1e-2
    assert differences[1] < 1e-5
    plain, cleaned = (rows_of(tmp_path, run) for run in runs)
    assert [row.test_loss for row in plain[:-1]] == [row.test_loss for row in cleaned[:-1]]
    assert cleaned[-1].validation_loss == pytest.approx(plain[-1].validation_loss, rel=1e-3)
    assert cleaned[-1].test_loss != plain[-1].test_loss


def test_the_classes_change_their_names_with_the_task(tmp_path):
    data = DataSpec(n_train=64, n_validation=50, n_test=40)
    plain = settings(WRS(), seed=3, schedule="constant", data=data)
    sequence = settings(WRS(), seed=3, schedule="constant", data=dataclasses.replace(data, n_tasks=2))
    for run in (plain, sequence):
        assert train(run, tmp_path) == "done"
    ours, theirs = rows_of(tmp_path, sequence), rows_of(tmp_path, plain)
    half = plain.recipe.n_steps // 2
    assert [row.test_loss for row in ours if row.step <= half] == [
        row.test_loss for row in theirs if row.step <= half
    ]
    assert ours[-1].test_loss != theirs[-1].test_loss
    trained = [weights_of(tmp_path, run) for run in (plain, sequence)]
    assert not any(
        trained[0][name].equal(trained[1][name]) for name in ("features.0.weight", "classifier.weight")
    )
    # What the second task calls right is what the network says after it, under the new names.
    parts = build(sequence, tmp_path, data_dir=None)
    parts.model.load_state_dict(weights_of(tmp_path, sequence))
    parts.model.eval()
    names = torch.randperm(10, generator=generator_for("task", 3, 1))
    with torch.no_grad():
        said = parts.model(parts.dataset.to_input(parts.dataset.test.pixels)).argmax(dim=1)
    right = (said == names[parts.dataset.test.labels]).double().mean()
    assert ours[-1].test_score == pytest.approx(float(right))


def test_a_sequence_of_tasks_begins_with_the_names_that_classes_have():
    assert torch.equal(names_in_task(0, n_classes=10, seed=5), torch.arange(10))
    drawn = [names_in_task(task, n_classes=10, seed=seed) for task in (1, 2) for seed in (5, 6)]
    assert len({tuple(one.tolist()) for one in drawn}) == 4
    assert all(torch.equal(one.sort().values, torch.arange(10)) for one in drawn)
    tasks = recipe(n_epochs=3, data=DataSpec(n_train=32, n_tasks=3), batch_size=16)
    assert [tasks.task_at(step) for step in range(6)] == [0, 0, 1, 1, 2, 2]


def test_a_schedule_in_cycles_begins_anew():
    once, thrice = recipe(n_epochs=2), recipe(n_epochs=6, n_cycles=3)
    rates = [thrice.learning_rate_at(step) for step in range(thrice.n_steps)]
    assert rates == pytest.approx([once.learning_rate_at(step) for step in range(once.n_steps)] * 3)


def test_label_smoothing_is_that_of_cross_entropy(tmp_path):
    run = settings(NoTreatment(), label_smoothing=0.3, n_epochs=1)
    parts = build(run, tmp_path, data_dir=None)
    train(run, tmp_path, on_step=lambda n_done: False)
    chosen = first_batch(run)
    inputs = parts.dataset.batch(chosen, run.recipe.data, seed=0, step=0)
    F.cross_entropy(parts.model(inputs), parts.dataset.train.labels[chosen], label_smoothing=0.3).backward()
    for group in parts.optimizer.param_groups:
        group["lr"] = run.recipe.learning_rate_at(0)
    parts.optimizer.step()
    ours = dict(parts.model.state_dict())
    assert all(torch.equal(value, ours[name]) for name, value in weights_of(tmp_path, run).items())


def first_batch(run):
    from decayfree.study.data import batch_indices

    return batch_indices(n_images=64, batch_size=16, seed=run.seed, step=0)


def test_validation_images_are_scored_and_not_trained_on(tmp_path):
    data = DataSpec(n_train=64, n_validation=50, n_test=40)
    run = settings(NoTreatment(), data=data)
    train(run, tmp_path)
    last = rows_of(tmp_path, run)[-1]
    assert 0 <= last.validation_score <= 1
    assert last.validation_score * 50 == pytest.approx(round(last.validation_score * 50))
    assert last.validation_loss > 0
    dataset = load(data)
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (64, 50, 40)


def test_without_off_span_nothing_is_followed(tmp_path):
    run = settings(NoTreatment(), off_span=False)
    train(run, tmp_path)
    assert all(row.off_span_share != row.off_span_share for row in rows_of(tmp_path, run))
    assert not (run_directory(tmp_path, run.key) / "spectra.json").exists()


def test_weights_lie_as_the_memory_format_says(tmp_path):
    for channels_last in (True, False):
        run = settings(
            NoTreatment(), channels_last=channels_last, model=ModelSpec("vgg4-bn", width_factor=1 / 8)
        )
        kernel = build(run, tmp_path, data_dir=None).model.get_parameter("features.3.weight")
        assert kernel.is_contiguous(memory_format=torch.channels_last) == channels_last


def test_a_compiled_model_is_what_takes_the_steps(tmp_path, monkeypatch):
    compiled = []

    def as_it_is(model):
        compiled.append(model)
        return lambda inputs: model(inputs)

    monkeypatch.setattr(torch, "compile", as_it_is)
    run = settings(NoTreatment(), compile=True)
    assert train(run, tmp_path) == "done"
    assert len(compiled) == 1


@pytest.mark.parametrize("device", ["cuda:77", "nowhere"])
def test_a_device_that_is_not_there_is_an_error(tmp_path, device):
    with pytest.raises(InvalidInputError, match=f"device: {device} cannot be used here: "):
        train(settings(NoTreatment(), device=device), tmp_path)
    with pytest.raises(InvalidInputError, match=f"device: {device} cannot be used here: "):
        device_of(recipe(device=device))


def test_the_record_says_what_the_run_has_cost(tmp_path):
    import json

    run = settings(WRS())
    train(run, tmp_path)
    cost = json.loads((run_directory(tmp_path, run.key) / "run.json").read_text())["cost"]
    n_parameters = sum(value.numel() for value in build(run, tmp_path, data_dir=None).model.parameters())
    assert cost["parameter_bytes"] == cost["optimizer_state_bytes"] == 4 * n_parameters
    assert cost["seconds_per_epoch"] > 0


def test_methods_that_change_the_model_start_from_the_same_weights(tmp_path):
    from decayfree.methods import WeightNormalization

    plain, normalized = (
        build(settings(method), tmp_path, data_dir=None).model
        for method in (NoTreatment(), WeightNormalization())
    )
    inputs = torch.randn(4, 3, 8, 8)
    assert torch.allclose(plain(inputs), normalized(inputs), atol=1e-5)
    assert dataclasses.asdict(settings(NoTreatment()).recipe) == dataclasses.asdict(recipe())


@pytest.mark.parametrize("method", ["weight_normalization", "weight_standardization"])
def test_parametrized_weights_are_called_what_they_were(tmp_path, method):
    from decayfree.methods import METHODS

    plain, parametrized = settings(NoTreatment()), settings(METHODS[method]())
    train(plain, tmp_path)
    train(parametrized, tmp_path)
    ours, theirs = rows_of(tmp_path, plain)[-1], rows_of(tmp_path, parametrized)[-1]
    assert ours.norms.keys() == theirs.norms.keys() == theirs.angular_updates.keys()
    assert ours.effective_learning_rates.keys() == theirs.effective_learning_rates.keys()
