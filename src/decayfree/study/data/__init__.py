"""The images of a study: where they are, how they are read, which are taken, and how a step is fed.

Does not train. What a step sees is a function of the spec, the seed and the step, whatever the method and the
device.
"""

from typing import TYPE_CHECKING

from decayfree.lazy_face import lazy_face

if TYPE_CHECKING:
    from decayfree.study.data.annotated.coco import write_coco as write_coco
    from decayfree.study.data.augmentation import augmented as augmented
    from decayfree.study.data.augmentation import cropped as cropped
    from decayfree.study.data.augmentation import cut_out as cut_out
    from decayfree.study.data.augmentation import flipped as flipped
    from decayfree.study.data.draws import batch_indices as batch_indices
    from decayfree.study.data.draws import generator_for as generator_for
    from decayfree.study.data.draws import with_label_noise as with_label_noise
    from decayfree.study.data.images import N_CHANNELS as N_CHANNELS
    from decayfree.study.data.images import Dataset as Dataset
    from decayfree.study.data.images import Images as Images
    from decayfree.study.data.loading import load as load
    from decayfree.study.data.truth import Ragged as Ragged
    from decayfree.study.data.truth import Truth as Truth

__getattr__ = lazy_face(__name__)
