"""The law of forgetting holds where it should, and fails where something is wrong."""

from dataclasses import replace

import pytest

from decayfree.theory import (
    law_of_forgetting,
    matched_recipes_forget_alike,
    turning_ignores_norm_and_rate,
)
from decayfree.theory.forgetting import CASES


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_decay_and_set_angles_forget_as_they_should(case):
    assert law_of_forgetting(case).verdict == "holds"
    assert matched_recipes_forget_alike(case).verdict == "holds"


def test_norms_and_rates_do_not_count():
    assert turning_ignores_norm_and_rate().verdict == "holds"


def test_a_wrong_rate_of_forgetting_is_seen():
    wrong = replace(CASES[1], forgetting=CASES[1].forgetting * 0.85)
    assert law_of_forgetting(wrong).verdict == "fails"
    assert matched_recipes_forget_alike(wrong).verdict == "fails"
