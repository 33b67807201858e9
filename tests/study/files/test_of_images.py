"""One bit an image, or one number, there and back."""

import numpy as np
import pytest

from decayfree.study.files.of_images import images_of_text, text_of_images


@pytest.mark.parametrize("n", [0, 1, 7, 8, 9, 1000, 10_000])
def test_bits_come_back(n):
    bits = np.random.default_rng(n).random(n) < 0.3
    assert images_of_text(text_of_images(bits)).tolist() == bits.tolist()


@pytest.mark.parametrize("n", [1, 2, 1000])
def test_numbers_come_back_in_float32(n):
    numbers = np.random.default_rng(n).normal(size=n)
    found = images_of_text(text_of_images(numbers))
    assert found.dtype == np.float32
    assert found.tolist() == numbers.astype(np.float32).tolist()


@pytest.mark.parametrize("text", ["9", "9:", "9:sI==A", "9:sA==", "17:sIA=", "0:sIA=", "-1:sIA=", "x:sIA="])
def test_what_is_none_is_refused(text):
    with pytest.raises(ValueError, match=r"expected .* (bits|images)"):
        images_of_text(text)


@pytest.mark.parametrize("text", ["f", "f1", "f1:", "f0:", "f2:AAAAPw==", "f1:AADAfw==", "f-1:AAAAPw=="])
def test_numbers_that_are_none_are_refused(text):
    with pytest.raises(ValueError, match="expected"):
        images_of_text(text)
