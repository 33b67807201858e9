"""Cores and threads: what the scheduler, a container and the user leave, in equal shares."""

import os

import pytest

from decayfree.study.runner import cores
from decayfree.study.runner.cores import n_cores, threads_each


@pytest.fixture
def eight_cores(tmp_path, monkeypatch):
    """A machine of eight cores without a quota; the folder of its control group."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(cores, "_CGROUPS", tmp_path)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    return tmp_path


@pytest.mark.parametrize(("n_processes", "n_threads"), [(1, 8), (2, 4), (3, 2), (8, 1), (9, 1)])
def test_cores_are_shared_equally(eight_cores, n_processes, n_threads):
    assert threads_each(n_processes) == n_threads


@pytest.mark.parametrize(
    ("wanted", "n_threads"), [("1", 1), ("3", 3), ("6", 4), ("2,4", 2), ("0", 4), ("many", 4)]
)
def test_the_user_may_ask_for_fewer(eight_cores, monkeypatch, wanted, n_threads):
    monkeypatch.setenv("OMP_NUM_THREADS", wanted)
    assert threads_each(2) == n_threads


@pytest.mark.parametrize(
    ("content", "n"),
    [("max 100000", 8), ("300000 100000", 3), ("50000 100000", 1), ("1600000 100000", 8), ("", 8)],
)
def test_a_container_has_the_cores_that_its_quota_pays_for(eight_cores, content, n):
    (eight_cores / "cpu.max").write_text(content + "\n")
    assert n_cores() == n


@pytest.mark.parametrize(("quota", "n"), [("-1", 8), ("250000", 2)])
def test_old_control_groups_count_as_well(eight_cores, quota, n):
    (eight_cores / "cpu").mkdir()
    (eight_cores / "cpu" / "cpu.cfs_quota_us").write_text(quota + "\n")
    (eight_cores / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert n_cores() == n


def test_where_the_scheduler_does_not_say_the_machine_counts(eight_cores, monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    assert n_cores() == 5
