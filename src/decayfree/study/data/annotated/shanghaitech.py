"""ShanghaiTech A or B: crowds with a point on each head, in ``GT_NAME.mat``.

Trains on ``train_data`` and tests on ``test_data``; which of the two parts is the folder's business. Its
authors give it away for research.

References:
    Zhang et al., "Single-Image Crowd Counting via Multi-Column Convolutional Neural Network", 2016.
"""

from pathlib import Path

from decayfree.study.data.annotated import matlab_points
from decayfree.study.data.annotated.listing import Listing, Part, first_with, images_in, root_of

_LAYOUT = (
    "It takes train_data and test_data with images/NAME.jpg and ground-truth/GT_NAME.mat (or ground_truth); "
    "name as data_dir the folder of one part, part_A or part_B, that has both. It is at "
    "https://github.com/desenzhou/ShanghaiTechDataset."
)


def find(data_dir: str | None) -> Listing:
    """List the images of both parts and their points.

    Raises:
        InvalidInputError: If files are not there or are damaged.
    """
    root = root_of(data_dir, "ShanghaiTech", _LAYOUT)
    folder = first_with([root], ["train_data/images", "test_data/images"], "ShanghaiTech", _LAYOUT)
    train, test = (_part(folder / part) for part in ("train_data", "test_data"))
    return Listing(train, test, ("head",), 1)


def _part(folder: Path) -> Part:
    images = images_in(folder / "images")
    truth = folder / ("ground-truth" if (folder / "ground-truth").is_dir() else "ground_truth")
    files = [truth / f"GT_{path.stem}.mat" for path in images]
    return matlab_points.part(images, files, lambda content: content["image_info"][0, 0][0, 0][0])
