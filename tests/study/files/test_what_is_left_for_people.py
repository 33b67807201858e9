"""Folders, notes and links that people may change, rename and delete: none is trusted, none stops a study."""

import json
import lzma
import os
import shutil
import tarfile
from io import BytesIO

import pytest

from decayfree.errors import DecayFreeError
from decayfree.methods import WeightDecay
from decayfree.study import ResultError, StudySpec, read_study, study_status
from decayfree.study.disk import open_unlinked, read_bytes, replace_text
from decayfree.study.files import archive, results
from decayfree.study.files.archive import ARCHIVE_FILE
from decayfree.study.files.checkpoint import read_n_threads, set_aside, write_record
from decayfree.study.files.folder_lock import FolderLock, holder_of
from decayfree.study.files.integrity import sealed_json, unsealed_json
from decayfree.study.files.keeping import keep
from decayfree.study.files.results import read_record, run_directory, set_aside_reasons
from decayfree.study.training import train
from support.small_study import settings
from support.study_stand_in import SPEC, written

RUN = settings(WeightDecay(0.01))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run that was stopped after 9 of 16 steps."""
    out = tmp_path_factory.mktemp("trained")
    spec = StudySpec(methods=(RUN.method,), seeds=(RUN.seed,), recipe=RUN.recipe)
    (out / "study.toml").write_text(spec.to_toml())
    train(RUN, out, on_step=lambda n_done: n_done < 9)
    return out


@pytest.fixture
def stopped(trained, tmp_path):
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    return tmp_path, run_directory(tmp_path, RUN.key)


def test_reasons_come_from_numbered_folders_alone_in_their_order(tmp_path):
    for name in ("10", "2", "old", "3-old", "-1", "²"):
        (tmp_path / f"set-aside-{name}").mkdir()
        (tmp_path / f"set-aside-{name}" / "reason.txt").write_text(f"reason {name}\n")
    (tmp_path / "set-aside-4").mkdir()
    (tmp_path / "set-aside-5").write_text("a file")
    (tmp_path / "set-aside-6").symlink_to(tmp_path / "set-aside-2")
    (tmp_path / "set-aside-7").mkdir()
    (tmp_path / "set-aside-7" / "reason.txt").write_bytes(b"\xffreason 7")
    (tmp_path / "set-aside-8" / "reason.txt").mkdir(parents=True)
    assert set_aside_reasons(tmp_path) == ("reason 2", "\N{REPLACEMENT CHARACTER}reason 7", "reason 10")


def test_the_next_folder_has_a_number_that_nothing_has(tmp_path):
    (tmp_path / "set-aside-3").mkdir()
    (tmp_path / "set-aside-4").write_text("a file")
    (tmp_path / "set-aside-5").symlink_to("nowhere")
    (tmp_path / "metrics.jsonl").write_text("damaged")
    set_aside(tmp_path, "why")
    assert (tmp_path / "set-aside-6" / "metrics.jsonl").read_text() == "damaged"
    assert set_aside_reasons(tmp_path) == ("why",)


@pytest.mark.parametrize(
    ("number", "expected"), [(3, 3), (0, None), (10**9, None), ("3", None), (True, None)]
)
def test_threads_that_no_machine_has_are_not_taken_from_what_was_set_aside(number, expected, tmp_path):
    write_record(tmp_path, RUN, state="running")
    record = unsealed_json((tmp_path / "run.json").read_text())
    record["hardware"]["n_threads"] = number
    (tmp_path / "set-aside-1").mkdir()
    (tmp_path / "set-aside-1" / "run.json").write_text(sealed_json(record))
    (tmp_path / "run.json").unlink()
    assert read_n_threads(tmp_path) == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[
            (name, None)
            for name in ("settings", "label", "versions", "hardware", "cost", "set_aside", "files")
        ],
        *(("settings", {}), ("settings", {"method": "wrs", "seed": 0}), ("reason", 1), ("n_steps", "9")),
        *(
            ("elapsed_s", "long"),
            ("cost", {"seconds": "9"}),
            ("set_aside", [1]),
            ("files", {"metrics.jsonl": 3}),
        ),
        *(("files", {"metrics.jsonl": {"n_bytes": "1", "crc32": 1}}), ("state", []), ("first_layer", 1)),
    ],
)
def test_a_record_of_other_kinds_is_damage_and_not_a_traceback(name, value, stopped):
    out, directory = stopped
    record = json.loads((directory / "run.json").read_text())
    del record["crc32"]  # as older ones are: taken as it is
    (directory / "run.json").write_text(json.dumps({**record, name: value}))
    with pytest.raises(ResultError, match=r"run.json: not the record of a run"):
        read_study(out)
    assert "made again" in study_status(out).runs[0].reason


@pytest.mark.parametrize("content", [b"[" * 10**5, b"\xff", b"", b"1", b"null"])
@pytest.mark.parametrize("name", ["run.json", "metrics.jsonl", "spectra.json"])
def test_no_content_of_a_file_is_a_traceback(name, content, stopped):
    out, directory = stopped
    (directory / name).write_bytes(content + b"\n")
    (directory / "last.pt").unlink()
    with pytest.raises(ResultError, match=f"{name}(:|, line 1:)"):
        read_study(out)
    assert study_status(out).runs


def test_a_file_larger_than_any_of_its_kind_is_not_read(stopped):
    out, directory = stopped
    for name in ("spectra.json", "metrics.jsonl", "run.json"):
        with (directory / name).open("r+b") as file:
            file.truncate(1 << 40)  # takes no room
        (directory / "last.pt").unlink(missing_ok=True)
        with pytest.raises(ResultError, match="1,099,511,627,776 bytes, expected at most"):
            read_study(out)


def test_rows_of_a_run_that_goes_on_are_held_against_its_checkpoint(stopped):
    out, directory = stopped
    path = directory / "metrics.jsonl"
    n_rows = len(read_study(out).runs[0].rows)
    with path.open("a") as file:  # what a run writes before its next checkpoint
        file.write(path.read_text().splitlines()[-1].replace('"step": 8', '"step": 12') + "\n")
    assert len(read_study(out).runs[0].rows) == n_rows + 1
    text = path.read_text()
    path.write_text(text.replace("0.", "1.", 1))
    with pytest.raises(ResultError, match=r"metrics.jsonl: its content has changed"):
        read_study(out)
    (status,) = study_status(out).runs
    assert (status.state, status.n_done) == ("waiting", 0)
    assert "metrics.jsonl: its content has changed" in status.reason
    path.write_text(text)
    (directory / "last.pt").write_bytes(b"PK")
    with pytest.raises(ResultError, match=r"last.pt: not a whole checkpoint"):
        read_study(out)


def test_metrics_that_became_a_link_are_set_aside_and_what_it_points_to_is_kept(stopped):
    out, directory = stopped
    path = directory / "metrics.jsonl"
    path.rename(out / "elsewhere.jsonl")
    path.symlink_to(out / "elsewhere.jsonl")
    before = (out / "elsewhere.jsonl").read_bytes()
    assert train(RUN, out) == "done"
    assert (out / "elsewhere.jsonl").read_bytes() == before
    assert not path.is_symlink()
    assert "symbolic link, which is not followed" in set_aside_reasons(directory)[0]


@pytest.mark.parametrize("name", ["report.html", "run.json", "last.pt"])
def test_a_link_in_the_place_of_what_is_unfinished_is_not_followed(name, tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("precious")
    (tmp_path / f"{name}.partial").symlink_to(precious)
    replace_text(tmp_path / name, "whole")
    assert precious.read_text() == "precious"
    assert not (tmp_path / name).is_symlink()
    assert (tmp_path / name).read_text() == "whole"
    assert not os.path.lexists(tmp_path / f"{name}.partial")


def test_a_lock_that_is_a_link_or_a_pipe_is_not_opened(tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("precious")
    (tmp_path / ".lock").symlink_to(precious)
    with pytest.raises(OSError, match=r"\.lock is a symbolic link, which is not followed: delete it"):
        FolderLock(tmp_path).__enter__()
    assert holder_of(tmp_path) is None
    assert precious.read_text() == "precious"
    (tmp_path / ".lock").unlink()
    os.mkfifo(tmp_path / ".lock")
    assert holder_of(tmp_path) is None
    with pytest.raises(OSError, match="is not a file"):
        open_unlinked(tmp_path / ".lock", "r")
    with pytest.raises(OSError, match="is not a file"):
        read_bytes(tmp_path / ".lock", at_most=10)


@pytest.mark.parametrize(
    "text", ["[" * 10_000, '{"pid": "x", "host": [], "since": 1}', "[]", "{}", "x" * 10**6]
)
def test_a_holder_who_says_nonsense_is_a_holder(text, tmp_path):
    with FolderLock(tmp_path):
        (tmp_path / ".lock").write_text(text)
        assert holder_of(tmp_path).host == "an unknown host"


def test_a_kept_study_is_listed_as_it_ended(tmp_path):
    out = written(tmp_path / "out", spec=SPEC)
    keep(out, tmp_path / "kept")
    kept, status = study_status(tmp_path / "kept"), study_status(out)
    assert [run.state for run in kept.runs] == ["done"] * 4
    assert kept.runs == status.runs
    assert kept.holder is None


def packed(path, *entries):
    with lzma.open(path, "wb") as file, tarfile.open(fileobj=file, mode="w") as tar:
        for name, content, kind in entries:
            entry = tarfile.TarInfo(name)
            entry.size, entry.type, entry.linkname = len(content), kind, "/etc/passwd" if kind != b"0" else ""
            tar.addfile(entry, BytesIO(content))


GOOD = "runs/0123456789abcdef/run.json"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *(
            (name, b"0")
            for name in ("../run.json", "/run.json", "runs/x/run.json", GOOD + "/../../x", "a" * 5000)
        ),
        *((GOOD, kind) for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE)),
    ],
)
def test_an_archive_of_anything_but_runs_is_refused(name, kind, tmp_path):
    (tmp_path / "study.toml").write_text(SPEC.to_toml())
    packed(tmp_path / ARCHIVE_FILE, (name, b"", kind))
    with pytest.raises(ResultError, match=r"runs.tar.xz: not an archive of runs \(.* is no file of a run"):
        read_study(tmp_path)


def test_an_archive_that_unpacks_to_more_than_a_study_has_is_refused(tmp_path, monkeypatch):
    (tmp_path / "study.toml").write_text(SPEC.to_toml())
    monkeypatch.setattr(archive, "_MOST_BYTES", 100_000)
    packed(tmp_path / ARCHIVE_FILE, (GOOD, bytes(50_000), b"0"))
    assert read_study(tmp_path).runs == ()
    packed(tmp_path / ARCHIVE_FILE, (GOOD, bytes(10**7), b"0"))
    assert (tmp_path / ARCHIVE_FILE).stat().st_size < 10_000
    for read in (read_study, study_status):
        with pytest.raises(ResultError, match="it unpacks to more than 100,000 bytes"):
            read(tmp_path)


def test_finished_runs_that_the_spec_does_not_name_are_known(tmp_path):
    out = written(tmp_path, spec=SPEC)
    assert results.left_out(out, SPEC) == ()
    spec = StudySpec(methods=SPEC.methods, seeds=(0,), recipe=SPEC.recipe)
    gone = [run for run in SPEC.runs() if run.seed == 1]
    assert results.left_out(out, spec) == tuple(sorted(f"{run.key} ({run.label}, seed 1)" for run in gone))
    (run_directory(out, gone[0].key) / "run.json").write_text("{")
    assert len(results.left_out(out, spec)) == 1
    assert read_record(run_directory(out, gone[1].key))["state"] == "done"


@pytest.mark.parametrize("read", [read_study, study_status])
def test_a_folder_is_given_as_text_too(read, tmp_path):
    written(tmp_path, spec=SPEC)
    assert read(str(tmp_path)) == read(tmp_path)
    for wrong in (None, 5, b"out", []):
        with pytest.raises(DecayFreeError, match="out must be a path, as str or Path, got"):
            read(wrong)
