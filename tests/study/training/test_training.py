"""The training loop: against a plain loop, killed and resumed bitwise, replaying norms, diverging."""

import copy
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from decayfree.errors import MismatchError
from decayfree.methods import WRS, ExactReplay, LearningRateScaling, NoTreatment, WeightDecay
from decayfree.study import DataSpec, OptimizerSpec
from decayfree.study.data import batch_indices, flipped, load, with_label_noise
from decayfree.study.files.checkpoint import load_checkpoint, read_reason, read_state
from decayfree.study.files.norm_log import FILE_NAME
from decayfree.study.files.results import read_rows, read_spectra, run_directory
from decayfree.study.models import build_model
from decayfree.study.training.loop import train
from support.small_study import METHODS, settings

each_method = pytest.mark.parametrize("method", [*METHODS, ExactReplay(0.01)], ids=lambda method: method.name)


def rows_of(out, run):
    return read_rows(run_directory(out, run.key) / "metrics.jsonl", may_be_cut=False)


def train_with_what_it_replays(run, out, **options):
    if run.replayed_run is not None:
        train(run.replayed_run, out, record_norms=True)
    return train(run, out, **options)


def assert_same_state(ours, theirs):
    """Bit for bit, but for the time that it took."""
    if isinstance(ours, torch.Tensor):
        assert torch.equal(ours, theirs)
    elif isinstance(ours, dict):
        assert ours.keys() == theirs.keys()
        for key in ours.keys() - {"elapsed_s", "steps_s"}:
            assert_same_state(ours[key], theirs[key])
    elif isinstance(ours, list):
        for our_item, their_item in zip(ours, theirs, strict=True):
            assert_same_state(our_item, their_item)
    else:
        assert ours == theirs


def assert_same_files(run, out, other):
    """Metrics and spectra byte for byte; weights, buffers, optimizer, method and random state bit for bit."""
    ours, theirs = run_directory(out, run.key), run_directory(other, run.key)
    for name in ("metrics.jsonl", "spectra.json"):
        assert (ours / name).read_bytes() == (theirs / name).read_bytes()
    assert_same_state(load_checkpoint(ours), load_checkpoint(theirs))


def test_a_run_is_the_plain_loop(tmp_path):
    run = settings(NoTreatment(), rest_weight_decay=0.1, optimizer=OptimizerSpec(momentum=0.5, nesterov=True))
    assert train(run, tmp_path) == "done"
    data = load(run.recipe.data)
    labels = with_label_noise(data.train.labels, share=0.25, n_classes=10, seed=0)
    model = build_model(run.recipe.model, n_classes=10, image_size=(8, 8), seed=0).to(
        memory_format=torch.channels_last
    )
    kernels = [weight for weight in model.parameters() if weight.ndim == 4]
    rest = [weight for weight in model.parameters() if weight.ndim != 4]
    optimizer = torch.optim.SGD(
        [{"params": kernels}, {"params": rest, "weight_decay": 0.1}], lr=0.1, momentum=0.5, nesterov=True
    )
    for step in range(16):
        optimizer.param_groups[0]["lr"] = optimizer.param_groups[1]["lr"] = run.recipe.learning_rate_at(step)
        chosen = batch_indices(n_images=64, batch_size=16, seed=0, step=step)
        inputs = flipped(data.to_input(data.train.pixels[chosen]), seed=0, step=step)
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), labels[chosen]).backward()
        before = [kernel.detach().double().flatten(1) for kernel in kernels]
        optimizer.step()
    state = load_checkpoint(run_directory(tmp_path, run.key))["model"]
    assert_same_state(dict(state), dict(model.state_dict()))
    last = rows_of(tmp_path, run)[-1]
    for angle, old, kernel in zip(last.angular_updates.values(), before, kernels, strict=True):
        new = kernel.detach().double().flatten(1)
        chords = (F.normalize(new, dim=1) - F.normalize(old, dim=1)).norm(dim=1)
        assert angle == pytest.approx((2 * torch.asin(chords / 2)).mean().item(), rel=1e-6)
    model.eval()
    logits = model(data.to_input(data.test.pixels))
    assert last.test_score == (logits.argmax(dim=1) == data.test.labels).double().mean().item()


def test_samples_are_taken_where_the_spec_says(tmp_path):
    run = settings(WRS(radius=1.5))
    train(run, tmp_path)
    rows = rows_of(tmp_path, run)
    assert [row.step for row in rows] == [0, 4, 8, 12, 16]
    assert [row.epoch for row in rows] == [0, 1, 2, 3, 4]
    for row in rows:
        assert list(row.norms.values()) == pytest.approx([1.5] * 4, rel=1e-6)
        assert list(row.effective_learning_rates.values()) == pytest.approx([row.learning_rate / 2.25] * 4)


@each_method
def test_the_off_span_share_is_what_its_law_says(tmp_path, method):
    run = settings(method, n_epochs=20, n_samples=9)
    train_with_what_it_replays(run, tmp_path)
    rows = rows_of(tmp_path, run)
    assert 0.3 < rows[0].off_span_share < 1
    assert rows[-1].off_span_share < 0.9 * rows[0].off_span_share
    for row in rows:
        assert row.off_span_law == pytest.approx(row.off_span_share, rel=2e-5)


def test_there_is_an_angle_at_every_sample_but_the_first(tmp_path):
    run = settings(WRS(radius=1.5))
    train(run, tmp_path)
    first, *others = [list(row.angular_updates.values()) for row in rows_of(tmp_path, run)]
    assert len(first) == 4
    assert all(map(math.isnan, first))
    assert all(0 < angle < 1 for angles in others for angle in angles)


def test_spectra_are_taken_before_the_first_step_and_after_the_last(tmp_path):
    run = settings(WRS(radius=1.5))
    train(run, tmp_path)
    spectra = read_spectra(run_directory(tmp_path, run.key))
    assert list(spectra) == [0, 16]
    names = ["features.0.weight", "features.3.weight", "features.7.weight", "features.10.weight"]
    for weights in spectra.values():
        assert list(weights) == names
        assert [spectrum.n_directions for spectrum in weights.values()] == [27, 18, 18, 36]
    assert spectra[0]["features.0.weight"].variance == spectra[16]["features.0.weight"].variance
    assert spectra[0]["features.0.weight"].energy != spectra[16]["features.0.weight"].energy


def test_the_record_says_what_was_run_where_and_how_it_ended(tmp_path):
    run = settings(NoTreatment())
    train(run, tmp_path)
    record = json.loads((run_directory(tmp_path, run.key) / "run.json").read_text())
    assert (record["state"], record["reason"], record["n_steps"]) == ("done", None, 16)
    assert (record["first_layer"], record["label"]) == ("features.0.weight", "no decay")
    assert record["settings"] == json.loads(json.dumps(run.to_dict()))
    assert record["versions"]["torch"] == torch.__version__
    assert record["hardware"]["n_threads"] == torch.get_num_threads()
    assert record["elapsed_s"] > 0


def test_equal_seeds_begin_with_equal_weights_labels_and_order_whatever_the_method(tmp_path):
    first_rows = []
    for method in METHODS:
        run = settings(method)
        seen = []
        train_with_what_it_replays(run, tmp_path, on_step=lambda n_done, seen=seen: seen.append(n_done))
        assert seen == [1]  # None is false: it stopped after its first step
        first_rows.append(rows_of(tmp_path, run)[0])
    assert len({(row.train_loss, row.test_score) for row in first_rows[:3]}) == 1
    # Rescaled, same function.
    assert first_rows[3].train_loss == pytest.approx(first_rows[0].train_loss, rel=1e-3)
    other = settings(NoTreatment(), seed=1)
    train(other, tmp_path, on_step=lambda n_done: False)
    assert rows_of(tmp_path, other)[0].train_loss != first_rows[0].train_loss


def test_the_global_random_state_is_left_alone(tmp_path):
    before = torch.get_rng_state()
    train(settings(NoTreatment()), tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


@each_method
@pytest.mark.parametrize("stop_at", [1, 6, 8])
def test_a_run_that_was_stopped_goes_on_bitwise(tmp_path, method, stop_at):
    run = settings(method)
    assert (
        train_with_what_it_replays(run, tmp_path / "stopped", on_step=lambda n_done: n_done < stop_at)
        == "running"
    )
    assert read_state(run_directory(tmp_path / "stopped", run.key)) == "running"
    assert load_checkpoint(run_directory(tmp_path / "stopped", run.key))["n_done"] == stop_at
    train(run, tmp_path / "stopped")
    train_with_what_it_replays(run, tmp_path / "whole")
    assert_same_files(run, tmp_path / "stopped", tmp_path / "whole")


KILLED = """
import os, signal, sys
from pathlib import Path
from support.small_study import METHODS, settings
from decayfree.study.training.loop import train

def die_at_7(n_done):
    if n_done == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return True

train(settings(METHODS[-1]), Path(sys.argv[1]), record_norms=True, on_step=die_at_7)
"""


def test_a_run_that_was_killed_goes_on_bitwise(tmp_path):
    run = settings(METHODS[-1])
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.run([sys.executable, "-c", KILLED, str(killed)], env=environment, check=False)
    assert process.returncode == -signal.SIGKILL
    directory = run_directory(killed, run.key)
    assert read_state(directory) == "running"
    assert load_checkpoint(directory)["n_done"] == 4  # the last sample before the kill
    with (directory / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "epo')  # as if it had been killed while it wrote
    assert train(run, killed, record_norms=True) == "done"
    train(run, whole, record_norms=True)
    assert_same_files(run, killed, whole)
    assert (directory / FILE_NAME).read_bytes() == (run_directory(whole, run.key) / FILE_NAME).read_bytes()


def test_learning_rate_scaling_has_the_effective_learning_rates_of_the_run_it_replays(tmp_path):
    run = settings(LearningRateScaling(0.01), schedule="constant")
    train_with_what_it_replays(run, tmp_path)
    for ours, theirs in zip(
        rows_of(tmp_path, run)[:-1], rows_of(tmp_path, run.replayed_run)[:-1], strict=True
    ):
        assert ours.effective_learning_rates == pytest.approx(theirs.effective_learning_rates, rel=1e-5)
    assert rows_of(tmp_path, run)[2].norms != pytest.approx(
        rows_of(tmp_path, run.replayed_run)[2].norms, rel=1e-3
    )


def test_norms_are_logged_before_every_step(tmp_path):
    run = settings(WeightDecay(0.01))
    train(run, tmp_path, record_norms=True)
    path = run_directory(tmp_path, run.key) / FILE_NAME
    norms = torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.float32).view(16, 2 + 2 + 4 + 4)
    for row in rows_of(tmp_path, run)[:-1]:
        assert norms[row.step, :2].mean().item() == row.norms["features.0.weight"]
        assert norms[row.step, 8:].mean().item() == row.norms["features.10.weight"]


def test_a_run_without_a_log_begins_anew_when_its_norms_are_wanted(tmp_path):
    run = settings(WeightDecay(0.01))
    train(run, tmp_path, on_step=lambda n_done: n_done < 9)
    train(run, tmp_path, record_norms=True)
    train(run, tmp_path / "whole", record_norms=True)
    assert_same_files(run, tmp_path, tmp_path / "whole")
    assert (run_directory(tmp_path, run.key) / FILE_NAME).stat().st_size == 16 * 12 * 4


def test_a_run_whose_spectra_are_gone_begins_anew(tmp_path):
    run = settings(WRS(radius=1.5))
    train(run, tmp_path, on_step=lambda n_done: n_done < 9)
    directory = run_directory(tmp_path, run.key)
    (directory / "spectra.json").unlink()
    seen = []
    train(run, tmp_path, on_step=lambda n_done: bool(seen.append(n_done)) or True)
    assert seen == list(range(1, 17))
    train(run, tmp_path / "whole")
    assert_same_files(run, tmp_path, tmp_path / "whole")


def test_a_log_with_gaps_is_not_kept(tmp_path):
    run = settings(WeightDecay(0.01))
    train(run, tmp_path, record_norms=True, on_step=lambda n_done: n_done < 9)
    train(run, tmp_path)
    assert not (run_directory(tmp_path, run.key) / FILE_NAME).exists()


def test_without_the_log_that_it_replays_a_run_is_an_error(tmp_path):
    run = settings(LearningRateScaling(0.01))
    path = run_directory(tmp_path, run.replayed_run.key) / FILE_NAME
    with pytest.raises(
        MismatchError, match=rf"{re.escape(str(path))} holds 0 bytes, expected 16 steps of 12 norms"
    ):
        train(run, tmp_path)


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    run, other = settings(NoTreatment()), settings(WRS())
    train(other, tmp_path, on_step=lambda n_done: False)
    shutil.copytree(run_directory(tmp_path, other.key), run_directory(tmp_path, run.key))
    with pytest.raises(MismatchError, match=rf"last.pt is of the run {other.key}, expected {run.key}"):
        train(run, tmp_path)


def test_a_checkpoint_is_never_half_written(tmp_path, monkeypatch):
    run = settings(NoTreatment())
    train(run, tmp_path, on_step=lambda n_done: n_done < 5)
    directory = run_directory(tmp_path, run.key)
    before = copy.deepcopy(load_checkpoint(directory))

    def full_disk(state, file):
        file.write(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="no space left"):
        train(run, tmp_path)
    assert_same_state(load_checkpoint(directory), before)
    assert not (directory / "last.pt.partial").exists()


@pytest.mark.parametrize("method", [NoTreatment(), WRS()], ids=lambda method: method.name)
def test_a_loss_that_is_not_finite_ends_a_run_as_diverged(tmp_path, method):
    run = settings(method, learning_rate=1e38, data=DataSpec(n_train=64, n_test=40))
    assert train(run, tmp_path) == "diverged"
    directory = run_directory(tmp_path, run.key)
    assert read_state(directory) == "diverged"
    rows = rows_of(tmp_path, run)
    assert re.fullmatch(
        rf"the loss or the weights of step {rows[-1].step} were not finite", read_reason(directory)
    )
    assert math.isnan(rows[-1].train_loss)
    assert math.isfinite(rows[0].train_loss)
    assert load_checkpoint(directory)["n_done"] < rows[-1].step


def test_weights_that_the_last_step_has_ruined_still_end_a_run(tmp_path):
    run = settings(NoTreatment(), learning_rate=1e38, n_epochs=1, batch_size=64, n_samples=2)
    assert train(run, tmp_path) == "done"
    directory = run_directory(tmp_path, run.key)
    assert math.isnan(rows_of(tmp_path, run)[-1].train_loss)
    assert list(read_spectra(directory)[1]) == ["features.0.weight"]


def test_a_diverged_run_that_is_run_again_says_the_same(tmp_path):
    run = settings(NoTreatment(), learning_rate=1e38)
    train(run, tmp_path)
    path = run_directory(tmp_path, run.key) / "metrics.jsonl"
    before = path.read_bytes()
    assert train(run, tmp_path) == "diverged"
    assert path.read_bytes() == before
