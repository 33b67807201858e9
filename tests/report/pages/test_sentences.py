"""Sentences that can be read: on no page one has more than three figures, and no share lies beyond 100 %.

What they say is tested beside the words.
"""

import html
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from decayfree.report import render
from decayfree.study import Study, read_study
from support.synthetic_study import Writer, axes_spec, bumpy, hot, sweep_spec

RESULTS = Path(__file__).resolve().parents[3] / "results"
MOST = 3
# The 11 of vgg11-bn and the 0 of features.0.weight are no figures, nor are those of a method's name.
FIGURE = re.compile(r"(?<![\w.-])\d(?:[\d.,]*\d)?(?:e[+−-]?\d+)?")
PARAGRAPH = re.compile(r"<(p|li|caption|summary)\b([^>]*)>(.*?)</\1>", re.DOTALL)
END = re.compile(r"(?<=[.?!:])\s+(?=[A-Z0-9])")


def paragraphs(page: str) -> Iterator[str]:
    """All that is told on a page outside of its tables; the line above the title is none."""
    body, _, script = page.split("<body>")[1].partition('<script type="application/json" id="figures">')
    for _, attributes, text in PARAGRAPH.findall(body):
        if "kicker" not in attributes:
            yield html.unescape(re.sub(r"<[^>]+>", "", text))
    for view in json.loads(script.split("</script>")[0])["views"].values():
        yield from (one["text"] for one in view["views"])


def too_full(page: str, names: set[str]) -> list[str]:
    """Sentences with more than three figures."""
    found = []
    for text in dict.fromkeys(paragraphs(page)):
        plain = " ".join(text.replace("\N{NO-BREAK SPACE}", " ").split())
        for name in sorted(names, key=len, reverse=True):
            plain = plain.replace(name, "NAME")
        found += [sentence for sentence in END.split(plain) if len(FIGURE.findall(sentence)) > MOST]
    return found


def names_in(study: Study) -> set[str]:
    """What methods and optimizers are called, with the figures in their names."""
    runs = study.spec.runs()
    labels = {name for one in runs for name in (one.label, one.method.label, one.method.short)}
    return labels | {one.recipe.optimizer.label for one in runs}


@pytest.mark.parametrize("name", ["figure1", "counting", "sensitivity", "memory"])
def test_no_sentence_of_a_kept_page_has_more_than_three_figures(name: str) -> None:
    study = read_study(RESULTS / name)
    page = render(study)
    assert too_full(page, names_in(study)) == []
    assert not re.search(r"\de\+\d+\W*%", page)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["optimizers", "segmentation", "baselines", "preset"])
def test_no_sentence_of_a_large_page_has_more_than_three_figures(name: str) -> None:
    test_no_sentence_of_a_kept_page_has_more_than_three_figures(name)


@pytest.mark.parametrize("kind", ["methods", "axes", "sweep", "few"])
def test_no_sentence_of_any_page_has_more_than_three_figures(kind: str, tmp_path: Path) -> None:
    writers = {
        "methods": lambda: Writer(tmp_path, states={("no decay", 1): ("failed", "no memory")}),
        "axes": lambda: Writer(tmp_path, spec=axes_spec(), final_of=bumpy, n_intervals=3),
        "sweep": lambda: Writer(tmp_path, spec=sweep_spec(), final_of=bumpy, state_of=hot, n_intervals=3),
        "few": lambda: Writer(tmp_path, spec=axes_spec(n_seeds=2), final_of=bumpy, n_intervals=3),
    }
    study = read_study(writers[kind]().write())
    assert too_full(render(study), names_in(study)) == []


def test_a_sentence_with_four_figures_is_found() -> None:
    told = "<p>Of 3 methods. 1 and 2.5 are 3 to 4e−5 in vgg11-bn.</p>"
    page = f'<body>{told}<script type="application/json" id="figures">{{"views": {{}}}}</script>'
    assert too_full(page, set()) == ["1 and 2.5 are 3 to 4e−5 in vgg11-bn."]
