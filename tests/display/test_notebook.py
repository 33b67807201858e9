"""What notebooks show is small, escaped, and has no colors of its own."""

import torch
from torch import nn

import decayfree
from decayfree.display.notebook import MAX_ROWS, titled
from decayfree.study import read_study
from support.parsed_page import HOSTILE
from support.synthetic_study import Writer, study_spec


def shown(thing: object) -> str:
    return thing._repr_html_()  # type: ignore[attr-defined, no-any-return]


def test_everything_is_escaped_and_nothing_is_colored() -> None:
    text = titled(HOSTILE, [[HOSTILE], [HOSTILE]], HOSTILE)
    assert "<script" not in text
    assert "<img" not in text
    assert text.count("&lt;script&gt;") == 4
    assert "color" not in text.replace("currentColor", "")


def test_of_many_rows_the_first_are_shown_and_the_rest_counted() -> None:
    text = titled("Many", [["head"], *([str(number)] for number in range(MAX_ROWS + 5))])
    assert text.count("<tr>") == MAX_ROWS + 1
    assert "and 5 more" in text


def test_results_recorders_and_recipes_show_their_tables() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
    found = decayfree.find_invariant(model, torch.randn(16, 4))
    assert "<b>1 scale-invariant weights with 8 blocks: 32 of 74 parameters.</b>" in shown(found)
    assert "The rest: " in shown(found)
    assert "4 not invariant" in shown(found)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
    recorder = decayfree.Recorder(optimizer, found, every=1, sink=lambda sample: None)
    assert "No step was looked at yet." in shown(recorder)
    wrs = decayfree.drop_decay(optimizer, found)
    assert shown(wrs) == shown(wrs.recipe)
    assert "<b>AdamW, lr 0.001, weight decay 0.1, betas 0.9 and 0.999</b>" in shown(wrs)
    model(torch.randn(16, 4)).square().mean().backward()
    optimizer.step()
    assert "step 1, means over blocks" in shown(recorder)
    assert "angular update rad" in shown(recorder)
    nothing = decayfree.find_invariant(nn.Linear(4, 2), torch.randn(16, 4))
    assert "0.weight" not in shown(nothing)
    assert "2 not invariant; print(found) says why." in shown(nothing)


def test_a_study_shows_what_became_of_its_runs(tmp_path) -> None:
    states = {("no decay", 1): ("failed", HOSTILE)}
    text = shown(read_study(Writer(tmp_path, spec=study_spec(title=HOSTILE), states=states).write()))
    assert "<script" not in text
    assert "25 of 25 runs have begun" in text
    cells = '</td><td style="text-align:left;vertical-align:top;padding:.15em .8em .15em 0">'.join
    assert cells(["no decay", "4", "1"]) in text
