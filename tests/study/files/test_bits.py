"""One bit an image, there and back."""

import numpy as np
import pytest

from decayfree.study.files.bits import bits_of_text, text_of_bits


@pytest.mark.parametrize("n", [0, 1, 7, 8, 9, 1000, 10_000])
def test_bits_come_back(n):
    bits = np.random.default_rng(n).random(n) < 0.3
    assert bits_of_text(text_of_bits(bits)).tolist() == bits.tolist()


@pytest.mark.parametrize("text", ["9", "9:", "9:sI==A", "9:sA==", "17:sIA=", "0:sIA=", "-1:sIA=", "x:sIA="])
def test_what_is_none_is_refused(text):
    with pytest.raises(ValueError, match=r"expected .* bits"):
        bits_of_text(text)
