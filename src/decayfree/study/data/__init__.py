"""The images of a study: where they are, how they are read, which are taken, and how a step is fed.

Does not train. What a step sees is a function of the spec, the seed and the step, whatever the method and the
device.
"""

from typing import TYPE_CHECKING

from decayfree.lazy_face import lazy_face

if TYPE_CHECKING:
    from decayfree.study.data.augmentation import augmented, cropped, cut_out, flipped
    from decayfree.study.data.draws import batch_indices, generator_for, with_label_noise
    from decayfree.study.data.images import N_CHANNELS, Dataset, Images
    from decayfree.study.data.loading import load

__all__ = [
    "N_CHANNELS",
    "Dataset",
    "Images",
    "augmented",
    "batch_indices",
    "cropped",
    "cut_out",
    "flipped",
    "generator_for",
    "load",
    "with_label_noise",
]

__getattr__ = lazy_face(
    __name__,
    {
        "augmentation": "augmented cropped cut_out flipped",
        "draws": "batch_indices generator_for with_label_noise",
        "images": "N_CHANNELS Dataset Images",
        "loading": "load",
    },
)
