"""The 1,797 scanned digits that come inside scikit-learn: 8×8, grey, values from 0 to 16.

Reads no files of its own and splits nothing.
"""

import torch

from decayfree.errors import extra_needed
from decayfree.study.data.draws import generator_for
from decayfree.study.data.images import Images

N_CLASSES = 10


def read() -> Images:
    """All of them, in a mixed order that is the same for all seeds.

    Raises:
        MissingExtraError: If scikit-learn is not installed.
    """
    with extra_needed("study", "the digits come with scikit-learn, which is not installed"):
        from sklearn.datasets import load_digits
    digits = load_digits()
    order = torch.randperm(len(digits.target), generator=generator_for("split"))
    pixels = torch.from_numpy(digits.images).to(torch.uint8)[order]
    return Images(pixels, torch.from_numpy(digits.target).long()[order])
