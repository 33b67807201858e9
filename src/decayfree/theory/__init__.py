"""The paper's statements, and the algebra behind them, as checks on a model.

Each gives a residual, its tolerance and a sentence. :func:`verify` runs all of them on a small network,
:func:`verify_model` those that make sense on any model. Changes no model.
"""

from typing import TYPE_CHECKING

from decayfree.lazy_face import lazy_face

if TYPE_CHECKING:
    from decayfree.theory.check import Check as Check
    from decayfree.theory.equilibria import RULES as RULES
    from decayfree.theory.equilibria import DecayCase as DecayCase
    from decayfree.theory.equilibria import equilibrium_angle as equilibrium_angle
    from decayfree.theory.equilibria import rates_after_a_drop as rates_after_a_drop
    from decayfree.theory.equivalences import decay_is_a_replayed_norm as decay_is_a_replayed_norm
    from decayfree.theory.equivalences import (
        decay_is_an_exponential_schedule as decay_is_an_exponential_schedule,
    )
    from decayfree.theory.flow import euler_steps_halve_the_growth as euler_steps_halve_the_growth
    from decayfree.theory.flow import runge_kutta_keeps_the_norm as runge_kutta_keeps_the_norm
    from decayfree.theory.forgetting import CASES as CASES
    from decayfree.theory.forgetting import ForgettingCase as ForgettingCase
    from decayfree.theory.forgetting import law_of_forgetting as law_of_forgetting
    from decayfree.theory.forgetting import matched_recipes_forget_alike as matched_recipes_forget_alike
    from decayfree.theory.forgetting import turning_ignores_norm_and_rate as turning_ignores_norm_and_rate
    from decayfree.theory.growth import adam_is_not_orthogonal as adam_is_not_orthogonal
    from decayfree.theory.growth import growth_of_momentum as growth_of_momentum
    from decayfree.theory.growth import growth_of_nesterov as growth_of_nesterov
    from decayfree.theory.growth import growth_of_sgd as growth_of_sgd
    from decayfree.theory.growth import growth_under_rescaling as growth_under_rescaling
    from decayfree.theory.scale import euler_orthogonality as euler_orthogonality
    from decayfree.theory.scale import euler_with_eps as euler_with_eps
    from decayfree.theory.scale import homogeneity as homogeneity
    from decayfree.theory.scale import orbit_symmetry as orbit_symmetry
    from decayfree.theory.spans import adam_leaves_the_span as adam_leaves_the_span
    from decayfree.theory.spans import gradients_in_span as gradients_in_span
    from decayfree.theory.spans import off_span_part_decays as off_span_part_decays
    from decayfree.theory.spans import (
        off_span_part_decays_with_momentum as off_span_part_decays_with_momentum,
    )
    from decayfree.theory.spans import off_span_part_stays as off_span_part_stays
    from decayfree.theory.spans import off_span_part_under_rescaling as off_span_part_under_rescaling
    from decayfree.theory.spans import (
        rescaled_training_feels_the_outside as rescaled_training_feels_the_outside,
    )
    from decayfree.theory.spans import training_ignores_the_outside as training_ignores_the_outside
    from decayfree.theory.spans import updates_in_span as updates_in_span
    from decayfree.theory.subject import Subject as Subject
    from decayfree.theory.subject import image_subject as image_subject
    from decayfree.theory.subject import subject_of as subject_of
    from decayfree.theory.verification import verify as verify
    from decayfree.theory.verification import verify_model as verify_model

__getattr__ = lazy_face(__name__)
