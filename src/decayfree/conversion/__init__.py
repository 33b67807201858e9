"""What norm, or what learning rate at unit norm, does what weight decay does?

A tuned recipe, without its decay.
"""

from typing import TYPE_CHECKING

from decayfree.lazy_face import lazy_face

if TYPE_CHECKING:
    from decayfree.conversion.converted_rescaling import ConvertedRescaling, drop_decay, fixed_norm_recipe
    from decayfree.conversion.decay_rule import DecayRule
    from decayfree.conversion.fixed_norm import FixedNormRecipe
    from decayfree.conversion.gradient_norms import GradientNorms
    from decayfree.conversion.schedule import Multiplier, equal_angle_schedule
    from decayfree.conversion.weight_recipe import WeightRecipe

__all__ = [
    "ConvertedRescaling",
    "DecayRule",
    "GradientNorms",
    "Multiplier",
    "FixedNormRecipe",
    "WeightRecipe",
    "drop_decay",
    "equal_angle_schedule",
    "fixed_norm_recipe",
]

__getattr__ = lazy_face(
    __name__,
    {
        "converted_rescaling": "drop_decay fixed_norm_recipe ConvertedRescaling",
        "fixed_norm": "FixedNormRecipe WeightRecipe",
        "decay_rule": "DecayRule",
        "gradient_norms": "GradientNorms",
        "schedule": "Multiplier equal_angle_schedule",
    },
)
