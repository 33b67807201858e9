"""The 1,797 scanned digits that come inside scikit-learn: 8×8, grey, values from 0 to 16.

Reads no files of its own and splits nothing.
"""

import gzip
from importlib.util import find_spec
from pathlib import Path

import torch

from decayfree.errors import extra_needed
from decayfree.study.data.draws import generator_for
from decayfree.study.data.images import Images

N_CLASSES = 10


def locate() -> Path:
    """Scikit-learn's own file, since importing it all takes as long as importing torch.

    Raises:
        MissingExtraError: If scikit-learn is not installed.
    """
    with extra_needed("study", "the digits come with scikit-learn, which is not installed"):
        spec = find_spec("sklearn")
        if spec is None or spec.origin is None:
            raise ImportError("there is no module sklearn")
    return Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz"


def read() -> Images:
    """All of them, in a mixed order that is the same for all seeds.

    Raises:
        MissingExtraError: If scikit-learn is not installed.
    """
    rows = gzip.decompress(locate().read_bytes()).decode().split()
    numbers = torch.tensor([list(map(int, map(float, row.split(",")))) for row in rows])
    order = torch.randperm(len(numbers), generator=generator_for("split"))
    pixels, labels = numbers[order].split([64, 1], dim=1)
    return Images(pixels.to(torch.uint8).view(-1, 8, 8), labels[:, 0])
