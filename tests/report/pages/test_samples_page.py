"""The page of a recorder's file: a chart an instrument, equal files give equal pages, nothing is fetched."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest

from decayfree.dynamics.samples import BRIEF, Sample
from decayfree.dynamics.sinks import JsonLines
from decayfree.errors import InvalidInputError
from decayfree.report import write_samples
from decayfree.report.pages.samples import INSTRUMENTS, contents


def sample(step: int, run: str = "a") -> Sample:
    weights = {
        name: {
            "norm": {"mean": scale * (1 + step / 10)},
            "distance_to_equilibrium": {"mean": 0.5 - step / 10},
            "angular_update_rad": {"mean": math.nan if name == "head" and step == 2 else 1e-3},
        }
        for name, scale in (("conv</script>", 1.0), ("head", 3.0))
    }
    return Sample(run, step, dict.fromkeys(weights, 0.1), weights)


def test_a_chart_has_a_line_a_weight_and_one_for_the_mean() -> None:
    page = contents([sample(1), sample(2), sample(1, "b")])
    assert [chart.id for chart in page["charts"]] == ["norm", "angular-update-rad", "distance-to-equilibrium"]
    norm, angle, _ = (chart.figure["data"] for chart in page["charts"])
    assert [(line["legendgroup"], line["name"], line["x"], line["y"]) for line in norm] == [
        ("run a", "conv&lt;/script&gt;", [1, 2], [1.1, 1.2]),
        ("run a", "head", [1, 2], [3.3, 3.6]),
        ("run a", "mean of all weights", [1, 2], [2.2, 2.4]),
        ("run b", "conv&lt;/script&gt;", [1], [1.1]),
        ("run b", "head", [1], [3.3]),
        ("run b", "mean of all weights", [1], [2.2]),
    ]
    assert [line["x"] for line in angle[:3]] == [[1, 2], [1], [1, 2]]  # what is not finite is left out
    assert page["kicker"] == "3\xa0samples of 2\xa0runs and 2\xa0weights, step 1 to 2"
    rows = [[cell.text for cell in row.cells] for row in page["table"].rows]
    assert rows[1] == ["a", "head", "2", "3.60", "–", "–"]
    assert set(BRIEF) <= INSTRUMENTS.keys()


def test_equal_files_give_equal_pages_which_hold_all_they_need(tmp_path: Path) -> None:
    sink = JsonLines(tmp_path / "samples.jsonl")
    for one in (sample(1), sample(2)):
        sink(one)
    path = write_samples(tmp_path / "samples.jsonl")
    text = path.read_text(encoding="utf-8")
    assert path == tmp_path / "samples.html"
    assert write_samples(str(tmp_path / "samples.jsonl"), tmp_path / "again.html").read_text("utf-8") == text
    assert not re.search(r'<[^>]+(?:src|href)="http', text.split("<script")[0])
    assert "conv&lt;/script&gt;" in text
    figures = text.split('id="figures">')[1].split("</script>")[0]
    assert set(json.loads(figures)["figures"]) == {"norm", "angular-update-rad", "distance-to-equilibrium"}


def test_a_file_without_samples_has_no_page(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(InvalidInputError, match=r"empty\.jsonl holds no sample"):
        write_samples(tmp_path / "empty.jsonl")
    with pytest.raises(InvalidInputError, match="there is no file"):
        write_samples(tmp_path / "nothing.jsonl")
    assert list(tmp_path.iterdir()) == [tmp_path / "empty.jsonl"]
