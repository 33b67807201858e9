"""UCF-QNRF: large crowds with a point on each head, in ``NAME_ann.mat`` beside the image.

Trains on ``Train`` and tests on ``Test``. Its authors give it away for research.

References:
    Idrees et al., "Composition Loss for Counting, Density Map Estimation and Localization in Dense Crowds",
    2018, arXiv 1808.01050.
"""

from pathlib import Path

from decayfree.study.data.annotated import matlab_points
from decayfree.study.data.annotated.listing import Listing, Part, first_with, images_in, root_of

_LAYOUT = (
    "It takes Train and Test with NAME.jpg and NAME_ann.mat; name as data_dir the folder above them, "
    "UCF-QNRF_ECCV18. It is at https://www.crcv.ucf.edu/data/ucf-qnrf/."
)


def find(data_dir: str | None) -> Listing:
    """List the images of both parts and their points.

    Raises:
        InvalidInputError: If files are not there or are damaged.
    """
    root = root_of(data_dir, "UCF-QNRF", _LAYOUT)
    folder = first_with([root, root / "UCF-QNRF_ECCV18"], ["Train", "Test"], "UCF-QNRF", _LAYOUT)
    return Listing(_part(folder / "Train"), _part(folder / "Test"), ("head",), 1)


def _part(folder: Path) -> Part:
    images = images_in(folder)
    files = [path.with_name(f"{path.stem}_ann.mat") for path in images]
    return matlab_points.part(images, files, lambda content: content["annPoints"])
