"""What does a study train? A file of settings, read into axes and runs; every fault of it told at once."""

from typing import TYPE_CHECKING

from decayfree.lazy_face import lazy_face

if TYPE_CHECKING:
    from decayfree.study.spec.study_spec import SpecError as SpecError
    from decayfree.study.spec.study_spec import StudySpec as StudySpec

__getattr__ = lazy_face(__name__)
