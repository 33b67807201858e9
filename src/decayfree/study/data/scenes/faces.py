"""Faces among non-faces, pasted on photographs: scenes whose items are scikit-image's 200 patches.

100 patches are faces and 100 parts of what was behind them, all of Labeled Faces in the Wild, which is given
away for research; the photographs are scikit-learn's, under CC BY 2.0. Scenes to train on, to validate on and
to test with have 60, 20 and 20 patches of either kind, and different parts of the photographs.

References:
    Huang et al., "Labeled Faces in the Wild", 2007.
"""

from functools import lru_cache

import torch

from decayfree.errors import InvalidInputError, extra_needed
from decayfree.study.data.annotated.packaged import folder_of
from decayfree.study.data.scenes.pool import NO_CLASS, PartName, Pool, photographs

CLASS_NAMES = ("face",)
_FILE = "lfw_subset.npy"
_SHAPE, _N_FACES = (200, 25, 25), 100
_MOST_BYTES = 1 << 21
_WHICH: dict[PartName, slice] = {
    "train": slice(0, 60),
    "validation": slice(60, 80),
    "test": slice(80, 100),
}


@lru_cache(maxsize=2)
def pools(data_dir: str | None) -> dict[PartName, Pool]:
    """Each part's patches and ground, grey; what is no face has no class.

    Raises:
        InvalidInputError: If the file is not there, or is another.
        MissingExtraError: If scikit-image, scikit-learn, Pillow or numpy is not installed.
    """
    with extra_needed("study", "the faces are read with numpy, which is not installed"):
        import numpy as np
    path = folder_of("skimage", "data", [_FILE], "the faces", data_dir) / _FILE
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError(f"it has more than {_MOST_BYTES:,} bytes")
        values = torch.from_numpy(np.load(path, allow_pickle=False)).double()
    except Exception as error:  # a damaged file may raise anything
        raise InvalidInputError(f"{path} cannot be read: {type(error).__name__}: {error}") from error
    if tuple(values.shape) != _SHAPE or not ((values >= 0) & (values <= 1)).all():
        raise InvalidInputError(f"{path}: expected {_SHAPE} numbers from 0 to 1, got {tuple(values.shape)}")
    patches = (values * 255).round().to(torch.uint8).split(_N_FACES)
    grounds = {
        part: color.double().mean(3, keepdim=True).to(torch.uint8) for part, color in photographs().items()
    }
    return {
        part: Pool(
            torch.cat([patch[which] for patch in patches]),
            torch.tensor([0, NO_CLASS]).repeat_interleave(which.stop - which.start),
            grounds[part],
            threshold=-1,
        )
        for part, which in _WHICH.items()
    }
