"""The lock of a folder: held by one, told to others, gone with its holder and all his processes."""

import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys

import pytest

from decayfree.methods import WRS
from decayfree.study import StudySpec, run_study
from decayfree.study.files.folder_lock import LOCK_FILE, FolderInUseError, FolderLock, holder_of
from support.small_study import RECIPE

HOLD = """
import sys
from pathlib import Path
from decayfree.study.files.folder_lock import FolderLock
with FolderLock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_two_runners_exclude_each_other_and_a_killed_one_is_no_obstacle(tmp_path, holder):
    found = holder_of(tmp_path)
    assert (found.pid, found.host) == (holder.pid, socket.gethostname())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", found.since)
    message = (
        f"a study is being run in {tmp_path} by process {holder.pid} on {socket.gethostname()} since "
        f"{found.since}: wait until it has ended, end it, or choose another folder"
    )
    spec = StudySpec(methods=(WRS(),), seeds=(0,), recipe=RECIPE)
    with pytest.raises(FolderInUseError, match=re.escape(message)):
        run_study(spec, tmp_path, n_jobs=1)
    assert {path.name for path in tmp_path.iterdir()} == {LOCK_FILE}
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert holder_of(tmp_path) is None
    assert (tmp_path / LOCK_FILE).read_text()
    with FolderLock(tmp_path):
        assert holder_of(tmp_path).pid == os.getpid()


def test_the_lock_ends_with_its_context(tmp_path):
    for _ in range(2):
        with FolderLock(tmp_path):
            assert holder_of(tmp_path) is not None
        assert holder_of(tmp_path) is None


def test_nobody_holds_what_is_not_there(tmp_path):
    assert holder_of(tmp_path) is None
    assert not (tmp_path / LOCK_FILE).exists()


def test_a_holder_that_has_not_said_who_he_is_yet_is_a_holder(tmp_path):
    with FolderLock(tmp_path):
        (tmp_path / LOCK_FILE).write_text("")
        assert holder_of(tmp_path).host == "an unknown host"


def hold_on(share, connection) -> None:
    connection.recv()


def test_a_process_with_a_share_holds_the_lock_until_it_ends(tmp_path):
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    with FolderLock(tmp_path) as lock:
        process = context.Process(target=hold_on, args=(lock.share, theirs))
        process.start()
    assert holder_of(tmp_path).pid == os.getpid()
    with pytest.raises(FolderInUseError, match="a study is being run in"), FolderLock(tmp_path):
        pass
    ours.send("enough")
    process.join()
    assert holder_of(tmp_path) is None
