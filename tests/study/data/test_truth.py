"""What is true of images: chosen, moved and mirrored with them."""

import pytest
import torch

from decayfree.study.data.truth import Ragged, mirrored

POINTS = [torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.zeros(0, 2), torch.tensor([[5.0, 6.0]])]


@pytest.mark.parametrize("chosen", [[2, 0], [1], [], [0, 0, 2, 1]])
def test_ragged_rows_are_chosen_by_image(chosen):
    taken = Ragged.of_lists(POINTS)[torch.tensor(chosen, dtype=torch.int64)]
    assert len(taken) == len(chosen)
    for rows, number in zip(taken.split(), chosen, strict=True):
        assert torch.equal(rows, POINTS[number])


def test_a_slice_of_ragged_rows_is_that_of_the_images():
    taken = Ragged.of_lists(POINTS)[1:]
    assert [rows.tolist() for rows in taken.split()] == [[], [[5.0, 6.0]]]


def test_what_is_true_is_mirrored_with_the_image():
    which = torch.tensor([True, False, True])
    points = mirrored(Ragged.of_lists(POINTS), which, width=8)
    assert [rows.tolist() for rows in points.split()] == [[[7.0, 2.0], [5.0, 4.0]], [], [[3.0, 6.0]]]
    boxes = Ragged.of_lists([torch.tensor([[1.0, 2, 4, 5, 3, 1]])] * 3)
    moved = mirrored(boxes, which, width=8)
    assert [rows.tolist() for rows in moved.split()] == [
        [[4.0, 2, 7, 5, 3, 1]], [[1.0, 2, 4, 5, 3, 1]], [[4.0, 2, 7, 5, 3, 1]]
    ]  # fmt: skip
    masks = torch.arange(12, dtype=torch.uint8).view(3, 2, 2)
    assert mirrored(masks, which, width=2).tolist() == [
        [[1, 0], [3, 2]],
        [[4, 5], [6, 7]],
        [[9, 8], [11, 10]],
    ]
    labels = torch.tensor([4, 5, 6])
    assert mirrored(labels, which, width=8) is labels
