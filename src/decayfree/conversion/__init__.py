"""What norm, or what learning rate at unit norm, does what weight decay does?

A tuned recipe, without its decay.
"""

from typing import TYPE_CHECKING

from decayfree.lazy_face import lazy_face

if TYPE_CHECKING:
    from decayfree.conversion.converted_rescaling import ConvertedRescaling as ConvertedRescaling
    from decayfree.conversion.converted_rescaling import drop_decay as drop_decay
    from decayfree.conversion.converted_rescaling import fixed_norm_recipe as fixed_norm_recipe
    from decayfree.conversion.decay_rule import DecayRule as DecayRule
    from decayfree.conversion.fixed_norm import FixedNormRecipe as FixedNormRecipe
    from decayfree.conversion.forgetting import Forgetting as Forgetting
    from decayfree.conversion.gradient_norms import GradientNorms as GradientNorms
    from decayfree.conversion.rate_schedule import RateSchedule as RateSchedule
    from decayfree.conversion.schedule import Multiplier as Multiplier
    from decayfree.conversion.schedule import equal_angle_schedule as equal_angle_schedule
    from decayfree.conversion.weight_recipe import WeightRecipe as WeightRecipe

__getattr__ = lazy_face(__name__)
