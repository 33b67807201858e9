"""Is what docs/discovery.md computes true? Its snippets run, and its table is worked out again."""

import doctest
import re
from pathlib import Path

import torch

from decayfree.invariance.exact_arithmetic import _EPS_NAMES, NEGLIGIBLE_EPS
from decayfree.invariance.partition import TOLERANCES, partition
from decayfree.invariance.radial import RadialDerivatives

TEXT = (Path(__file__).parents[2] / "docs" / "discovery.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| (\d) \| (−?[\d.]+) \| (−?[\d.]+) \| (cut)? ?\|$", re.MULTILINE)


def test_the_snippets_run_and_print_what_they_show(seed: int) -> None:
    examples = re.sub(r"^```.*$", "", TEXT, flags=re.MULTILINE)
    test = doctest.DocTestParser().get_doctest(examples, {}, "discovery.md", "discovery.md", 0)
    runner = doctest.DocTestRunner()
    runner.run(test)
    assert runner.failures == 0
    assert runner.tries == len(re.findall(r"^>>> ", TEXT, flags=re.MULTILINE)) > 15


def test_the_running_sums_and_cuts_of_the_table_are_those_of_the_project() -> None:
    rows = ROW.findall(TEXT)
    assert [int(row) for row, *_ in rows] == list(range(1, 9))
    radial = torch.tensor([number(value) for _, value, *_ in rows], dtype=torch.float64)
    ones = torch.ones(8, dtype=torch.float64)
    found = partition(0, 1, [RadialDerivatives(radial, ones, ones)], TOLERANCES[torch.float64])
    assert found is not None
    sums = torch.cat([block.cumsum(0) for block in radial.split(list(found.blocks.block_sizes))])
    assert torch.allclose(sums, torch.tensor([number(value) for *_, value, _ in rows]).double())
    ends = torch.tensor(found.blocks.block_sizes).cumsum(0).tolist()
    assert [int(row) for row, *_, cut in rows if cut] == ends
    # The rows are those that the snippet computes with.
    assert ", ".join(str(value) for value in radial.tolist()) in TEXT


def test_the_page_names_what_the_search_goes_by() -> None:
    for name in _EPS_NAMES:
        assert f"`{name}`" in TEXT
    assert NEGLIGIBLE_EPS == 1e-30
    assert "10⁻³⁰" in TEXT
    exact, rough = TOLERANCES[torch.float64], TOLERANCES[torch.float32]
    assert (exact.zero, exact.confirm, exact.moved) == (1e-9, 1e-9, 1e-5)
    assert (rough.zero, rough.confirm, rough.moved) == (1e-3, 1e-3, 1e-4)


def number(text: str) -> float:
    return float(text.replace("−", "-"))
