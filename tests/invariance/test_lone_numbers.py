"""A buffer of a single number may be a flag, or hide a dependence by being zero."""

import pytest
import torch
from torch import Tensor, nn

from decayfree import find_invariant


class Shifted(nn.Module):
    """A number behind the weight; as a flag it is only asked for, not added."""

    def __init__(self, shift: float, *, is_flag: bool) -> None:
        super().__init__()
        self.first, self.norm, self.head = nn.Linear(6, 8, bias=False), nn.RMSNorm(8), nn.Linear(8, 3)
        self.register_buffer("shift", torch.tensor([shift]))
        self.is_flag = is_flag

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.first(inputs)
        if self.is_flag:
            return self.head(self.norm(2 * hidden if self.shift else hidden))
        return self.head(self.norm(hidden + self.shift))


@pytest.mark.parametrize("shift", [0.0, 1.0, 0.3])
@pytest.mark.parametrize("is_flag", [True, False])
def test_a_single_number_hides_nothing_by_being_zero_and_a_flag_stays_a_flag(
    shift: float, is_flag: bool, seed: int
) -> None:
    model = Shifted(shift, is_flag=is_flag)
    found = find_invariant(model, torch.randn(16, 6))
    assert ("first.weight" in found) is is_flag
    assert float(model.shift) == pytest.approx(shift)
    assert not model.shift.requires_grad
