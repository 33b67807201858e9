"""Studies on a Ray cluster of two nodes here: one is killed in mid-study; addresses where nothing is."""

import re
import socket
import sys
import warnings

import pytest

from decayfree.errors import MissingExtraError
from decayfree.methods import WRS, LearningRateScaling, NoTreatment, WeightDecay
from decayfree.study import StudySpec, run_study
from decayfree.study.files.checkpoint import load_checkpoint
from decayfree.study.files.results import run_directory
from decayfree.study.runner import ray_pool as on_ray
from decayfree.study.runner.process_pool import Job, Report
from decayfree.study.runner.ray_pool import ClusterError
from decayfree.study.training.loop import train
from support.available import import_or_skip
from support.own_parts import SOURCE, TEXT, written
from support.small_study import recipe
from support.study_files import assert_same_files

SPEC = StudySpec(methods=(NoTreatment(),), seeds=(0,), recipe=recipe())


@pytest.fixture(scope="module")
def cluster():
    """Two nodes of one CPU each; the second is there to be killed, by the first test."""
    import_or_skip("ray")
    with pytest.MonkeyPatch.context() as monkeypatch, warnings.catch_warnings():
        for name in ("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "RAY_DEDUP_LOGS", "RAY_USAGE_STATS_ENABLED"):
            monkeypatch.setenv(name, "0")
        warnings.simplefilter("ignore")
        from ray.cluster_utils import Cluster

        options = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 80_000_000}
        cluster = Cluster(initialize_head=True, head_node_args=options)
        try:
            victim = cluster.add_node(num_cpus=1, object_store_memory=80_000_000)
            yield cluster, victim  # whoever connects does so through the head
        finally:
            cluster.shutdown()


@pytest.mark.slow
def test_a_node_that_is_killed_in_mid_study_changes_no_bit(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(on_ray, "_SEND_FILES_EVERY_S", 0.2)
    methods = (NoTreatment(), WeightDecay(0.01), LearningRateScaling(0.01), WRS(radius=1.5))
    spec = StudySpec(methods=methods, seeds=(0,), recipe=recipe(n_epochs=100))
    cluster, victim = cluster
    states = []

    def kill(progress):
        n_running = progress.label.count("; ") + 1
        if not states and progress.fraction > 0.15 and n_running == 2:
            states.append(progress)
            cluster.remove_node(victim, allow_graceful=False)

    outcome = run_study(spec, tmp_path / "cluster", ray_address=cluster.address, on_progress=kill)
    assert len(states) == 1, "the node was not killed"
    assert (outcome.n_done, outcome.reasons, outcome.set_aside) == (4, (), ())
    for run in spec.runs():
        train(run, tmp_path / "here", record_norms=run.method == WeightDecay(0.01))
        assert_same_files(run, tmp_path / "cluster", tmp_path / "here")


@pytest.mark.slow
def test_ctrl_c_pulls_what_was_done_and_another_machine_goes_on(cluster, tmp_path):
    cluster, _ = cluster
    spec = StudySpec(methods=(WRS(),), seeds=(0,), recipe=recipe(n_epochs=400))
    (run,) = spec.runs()
    told = []

    def interrupt(progress):
        if progress.fraction > 0:
            raise KeyboardInterrupt

    outcome = run_study(
        spec,
        tmp_path,
        ray_address=cluster.address,
        on_progress=interrupt,
        on_stopping=lambda: told.append("stopping"),
    )
    assert (outcome.interrupted, outcome.n_done, outcome.n_failed, told) == (True, 0, 0, ["stopping"])
    stopped_at = load_checkpoint(run_directory(tmp_path, run.key))["n_done"]
    assert 0 < stopped_at < run.recipe.n_steps
    began_at = []
    train(run, tmp_path, on_step=lambda n_done: began_at.append(n_done))
    assert began_at == [stopped_at + 1]


@pytest.mark.slow
def test_a_gpu_that_no_node_has_is_an_error(cluster, tmp_path):
    cluster, _ = cluster
    spec = StudySpec(methods=(NoTreatment(),), seeds=(0,), recipe=recipe(device="cuda"))
    message = f"no decay, seed 0 is to train on cuda, and no node at {cluster.address} has a GPU"
    with pytest.raises(ClusterError, match=re.escape(message)):
        run_study(spec, tmp_path, ray_address=cluster.address)


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_an_address_where_nothing_is_is_an_error(tmp_path, scheme):
    import_or_skip("ray")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"{scheme}127.0.0.1:{unused.getsockname()[1]}"
        message = (
            rf"^no Ray cluster answers at {re.escape(address)} \(.*refused.*\): "
            r"start one with 'ray start --head', or leave the address out to train on this machine$"
        )
        with pytest.raises(ClusterError, match=message):
            run_study(SPEC, tmp_path, ray_address=address)


def test_without_ray_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(
        MissingExtraError, match=r"ray, which is not installed: pip install 'decayfree\[ray\]'"
    ):
        run_study(SPEC, tmp_path, ray_address="auto")


def test_a_task_gets_what_its_run_has_left_and_the_norms_that_it_replays(tmp_path):
    spec = StudySpec(methods=(WeightDecay(0.01), LearningRateScaling(0.01)), seeds=(0,), recipe=recipe())
    (decay, scaling) = spec.runs()
    for run, names in ((decay, ["norms.f32", "last.pt"]), (scaling, ["last.pt", "run.json.partial"])):
        run_directory(tmp_path, run.key).mkdir(parents=True)
        for name in names:
            (run_directory(tmp_path, run.key) / name).write_bytes(name.encode())
    job = Job(scaling, tmp_path, None, record_norms=False, n_threads=1)
    assert on_ray._files_needed(job) == {
        f"runs/{decay.key}/norms.f32": b"norms.f32",
        f"runs/{scaling.key}/last.pt": b"last.pt",
    }


def test_a_task_gets_the_files_of_the_user_and_not_what_is_installed(tmp_path):
    (run,) = written(tmp_path, text=TEXT.replace("./mine.py:Steps", "torch.optim:SGD")).runs()
    job = Job(run, tmp_path / "out", None, record_norms=False, n_threads=1, source_dir=tmp_path)
    assert on_ray._files_needed(job) == {"sources/mine.py": SOURCE.encode()}


@pytest.mark.slow
def test_what_is_the_users_own_trains_on_a_node_that_does_not_have_it(cluster, tmp_path):
    (tmp_path / "spec").mkdir()
    spec = written(tmp_path / "spec")

    def gone(*_):
        (tmp_path / "spec" / "mine.py").unlink(missing_ok=True)  # sent already, and there is no other

    cluster, _ = cluster
    (run,) = spec.runs()
    train(run, tmp_path / "here", source_dir=tmp_path / "spec")
    outcome = run_study(spec, tmp_path / "cluster", ray_address=cluster.address, on_progress=gone)
    assert (outcome.n_done, outcome.reasons) == (1, ())
    assert_same_files(run, tmp_path / "cluster", tmp_path / "here")


def test_files_come_back_in_an_order_in_which_a_kill_does_no_harm(tmp_path, monkeypatch):
    (tmp_path / "last.pt").write_bytes(b"of before")
    written = []
    monkeypatch.setattr(on_ray, "replacing", lambda path: written.append(path.name) or path.open("wb"))
    names = ("run.json", "last.pt", "metrics.jsonl", "set-aside-1/reason.txt", "spectra.json")
    on_ray._write_files(tmp_path, {name: name.encode() for name in names})
    assert written == ["metrics.jsonl", "reason.txt", "spectra.json", "last.pt", "run.json"]
    assert (tmp_path / "last.pt").read_bytes() == b"last.pt"
    on_ray._write_files(tmp_path, {"run.json": b"begun anew"})
    assert not (tmp_path / "last.pt").exists()
    on_ray._write_files(tmp_path, {})
    assert (tmp_path / "run.json").read_bytes() == b"begun anew"


def test_of_what_a_task_says_the_last_report_and_the_last_files_count():
    mailbox = on_ray._Mailbox()
    assert mailbox.put(Report("a", 1, is_over=False), {"last.pt": b"1"})
    assert mailbox.put(Report("a", 2, is_over=False), {})
    mailbox.stop_listening()
    assert not mailbox.put(Report("b", 1, is_over=False), {})
    assert mailbox.take() == [
        (Report("a", 2, is_over=False), {"last.pt": b"1"}),
        (Report("b", 1, is_over=False), {}),
    ]
    assert mailbox.take() == []
