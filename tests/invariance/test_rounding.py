"""When is what a normalization sees nothing but rounding? Told of made measurements; models are elsewhere."""

from types import SimpleNamespace

import pytest

from decayfree.invariance.rounding import RoundingDecidesError, moved_by_rounding


def measured(of_a_normalization: float, of_outputs: float, eps: float) -> SimpleNamespace:
    return SimpleNamespace(eps=eps, jittered=lambda outputs: (of_a_normalization, of_outputs))


def test_with_a_larger_eps_a_few_constant_channels_do_no_harm() -> None:
    with pytest.raises(RoundingDecidesError):
        moved_by_rounding(measured(0.1, 0.0, eps=1e-30), [])
    assert moved_by_rounding(measured(0.1, 0.0, eps=1e-12), []) == 0.0
    with pytest.raises(RoundingDecidesError):
        moved_by_rounding(measured(0.8, 0.0, eps=1e-12), [])


def test_outputs_may_move_thirty_times_as_far_as_rounding_moves_them() -> None:
    assert moved_by_rounding(measured(1e-9, 1e-6, eps=1e-30), []) == pytest.approx(3e-5)
