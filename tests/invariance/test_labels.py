"""Does the factor by which a channel grew tell its block, however many blocks there are?

Labels alone; models in which they are used are in test_discovery.py.
"""

import math

import pytest
import torch

from decayfree.invariance.labels import (
    LabelTable,
    factors_for_one,
    is_scaled,
    labelled_factors,
    labels_of,
    opposite_factors,
)


@pytest.fixture(scope="module")
def labels() -> dict[str, torch.Tensor]:
    return labels_of({"few": 3, "many": 99_997}, seed=0)


@pytest.fixture(scope="module")
def table(labels: dict[str, torch.Tensor]) -> LabelTable:
    return LabelTable({name: labelled_factors(one, -6, seed=1) for name, one in labels.items()})


def test_the_example_in_the_file() -> None:
    factors = torch.tensor([0.20 - 2, 0.83 + 5, 0.47], dtype=torch.float64).exp2()
    table = LabelTable({"w": factors})
    assert [round(value, 3) for value in factors.tolist()] == [0.287, 56.886, 1.385]
    assert table.blocks_of([math.log2(2 * factors[1])])[0] == ("w", 1)
    assert table.blocks_of([math.log2(4)])[0] is None
    assert not is_scaled(math.log2(4))
    product = math.log2(factors[0] * factors[2])
    assert (round(product, 2), round(product % 1, 2)) == (-1.33, 0.67)
    assert table.blocks_of([product])[0] is None
    assert is_scaled(product)


def test_a_hundred_thousand_blocks_are_told_apart(labels: dict[str, torch.Tensor], table: LabelTable) -> None:
    """Whatever was doubled, and with a growth that is rounded to 1e-9."""
    for name, values in labels.items():
        for block in range(0, len(values), 7):
            for error in (-1e-9, 1e-9):
                assert table.blocks_of([float(values[block]) + block % 13 - 6 + error])[0] == (name, block)


def test_labels_lie_far_from_each_other_and_from_whole_numbers(labels: dict[str, torch.Tensor]) -> None:
    ordered = torch.cat(list(labels.values())).sort().values
    assert float(ordered.diff().min()) >= 0.45 / 100_000
    assert float(ordered[0]) > 0.05
    assert float(ordered[-1]) < 0.95


def test_a_product_of_two_factors_is_nobodys(labels: dict[str, torch.Tensor], table: LabelTable) -> None:
    """But by chance: all labels together cover 0.2 % of the fractions."""
    one, other = labels["many"][:10_000], labels["many"][10_000:20_000]
    matched = sum(table.blocks_of([value])[0] is not None for value in (one + other).tolist())
    assert matched <= 60  # 22 are expected


@pytest.mark.parametrize("growth", [0.0, 3.0, -2.0 + 1e-9, math.nan, math.inf])
def test_what_gains_alone_do_has_no_label(growth: float, table: LabelTable) -> None:
    assert not is_scaled(growth)
    assert table.blocks_of([growth])[0] is None


def test_factors_are_far_below_one_or_far_above() -> None:
    labels = labels_of({"w": 1000}, seed=0)["w"]
    logs = labelled_factors(labels, -6, seed=1).log2()
    assert torch.allclose(logs - logs.floor(), labels, atol=1e-12)
    assert logs.floor().unique().tolist() == [-6, -5, -4, 10, 11, 12, 13]
    assert labelled_factors(labels, 0, seed=1).min() > 1


def test_what_was_made_shorter_is_made_longer_and_the_other_way_round() -> None:
    first = labelled_factors(labels_of({"w": 1000}, seed=0)["w"], -6, seed=1)
    second = opposite_factors(first, -7, 16, seed=1).log2()
    assert bool(((first.log2() > 0) != (second > 0)).all())
    assert (float(second[second > 0].min()), float(second.max())) == pytest.approx((13, 16), abs=0.1)
    assert (float(second.min()), float(second[second < 0].max())) == pytest.approx((-7, -4.9), abs=0.1)
    # Several weights in a row: the product is long in one of the two runs.
    together = torch.stack([first.log2(), second]).reshape(2, 250, 4).sum(-1)
    assert float(together.max(dim=0).values.min()) > 5
    # A larger ε shows where a block is small: there none is made shorter.
    only_longer = labelled_factors(labels_of({"w": 1000}, seed=0)["w"], 0, seed=1)
    assert float(opposite_factors(only_longer, 0, 16, seed=1).min()) == 1


def test_factors_for_one_weight_differ_by_more_than_float32_rounds() -> None:
    logs = factors_for_one(1000, seed=0).float().double().log2().sort().values
    assert float(logs.diff().min()) > 1e-3
    assert (float(logs[0]), float(logs[-1])) == pytest.approx((0.25, 3.0), abs=0.01)
