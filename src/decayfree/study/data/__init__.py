"""The images of a study: where they are, how they are read, which are taken, and how a step is fed.

Does not train. What a step sees is a function of the spec, the seed and the step, whatever the method and the device.
"""

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
