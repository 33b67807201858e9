"""A finished study in one file: the same study when it is read, the same bytes when it is written."""

import dataclasses
import shutil
import tarfile

import pytest

from decayfree.study import ResultError, StudySpec, read_study, run_study
from decayfree.study.files.archive import ARCHIVE_FILE
from decayfree.study.files.integrity import sealed_json, unsealed_json
from decayfree.study.files.keeping import keep, take_out
from support.small_study import METHODS, RECIPE


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("finished")
    recipe = dataclasses.replace(RECIPE, n_epochs=1, n_samples=2)
    run_study(StudySpec(methods=METHODS[:1], seeds=(0, 1), recipe=recipe), out, n_jobs=1)
    return out


def test_a_kept_study_is_read_like_its_folder(finished, tmp_path):
    keep(finished, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [ARCHIVE_FILE, "study.toml"]
    assert read_study(tmp_path) == read_study(finished)
    assert len(read_study(tmp_path).runs) == 2


def test_the_same_runs_are_kept_as_the_same_bytes(finished, tmp_path):
    first, second = keep(finished, tmp_path / "1"), keep(finished, tmp_path / "2")
    assert first.read_bytes() == second.read_bytes()


def test_the_runs_of_a_folder_count_more_than_its_archive(finished, tmp_path):
    keep(finished, tmp_path)
    (tmp_path / "runs").mkdir()
    assert read_study(tmp_path).runs == ()


def test_a_damaged_archive_is_named(finished, tmp_path):
    path = keep(finished, tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ResultError, match=r"runs.tar.xz: not an archive of runs"):
        read_study(tmp_path)


def test_a_folder_without_a_study_cannot_be_kept(tmp_path):
    with pytest.raises(ResultError, match=r"no study in .*: there is no study.toml"):
        keep(tmp_path, tmp_path / "kept")


def test_runs_that_the_spec_does_not_name_are_not_kept(finished, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    spec = StudySpec.load(out / "study.toml")
    (out / "study.toml").write_text(dataclasses.replace(spec, seeds=(1,)).to_toml())
    keep(out, tmp_path / "kept")
    with tarfile.open(tmp_path / "kept" / ARCHIVE_FILE) as archive:
        assert {name.split("/")[1] for name in archive.getnames()} == {
            run.key for run in spec.runs() if run.seed == 1
        }


def test_what_is_kept_of_a_study_under_way_goes_on_elsewhere(finished, tmp_path):
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    shutil.copytree(finished, out)
    spec = StudySpec.load(out / "study.toml")
    first, second = (out / "runs" / run.key for run in spec.runs())
    record = unsealed_json((second / "run.json").read_text())
    (second / "run.json").write_text(sealed_json({**record, "state": "running"}))
    keep(out, tmp_path / "kept")
    assert take_out(tmp_path / "kept", elsewhere) == 1
    assert [path.name for path in (elsewhere / "runs").iterdir()] == [first.name]
    before = (elsewhere / "runs" / first.name / "metrics.jsonl").stat().st_mtime_ns
    assert run_study(spec, elsewhere, n_jobs=1).n_done == 2
    assert (elsewhere / "runs" / first.name / "metrics.jsonl").stat().st_mtime_ns == before
    rows = [[run.rows for run in read_study(folder).runs] for folder in (finished, elsewhere)]
    assert rows[0] == rows[1]


def test_runs_that_are_there_stay_as_they_are(finished, tmp_path):
    keep(finished, tmp_path / "kept")
    assert take_out(tmp_path / "kept", tmp_path / "out") == 2
    run = next((tmp_path / "out" / "runs").iterdir())
    (run / "metrics.jsonl").write_text("mine")
    (tmp_path / "out" / "study.toml").write_text("mine too")
    assert take_out(tmp_path / "kept", tmp_path / "out") == 0
    assert (run / "metrics.jsonl").read_text() == "mine"
    assert (tmp_path / "out" / "study.toml").read_text() == "mine too"


def test_nothing_kept_is_told(tmp_path):
    with pytest.raises(ResultError, match=r"expected study.toml and runs.tar.xz of a kept study"):
        take_out(tmp_path, tmp_path / "out")
