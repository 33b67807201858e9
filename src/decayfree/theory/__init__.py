"""The paper's statements, and the algebra behind them, as checks on a model.

Each gives a residual, its tolerance and a sentence. :func:`verify` runs all of them on a small network,
:func:`verify_model` those that make sense on any model. Changes no model.
"""

from typing import TYPE_CHECKING

from decayfree.lazy_face import lazy_face

if TYPE_CHECKING:
    from decayfree.theory.check import Check
    from decayfree.theory.equilibria import RULES, DecayCase, equilibrium_angle, rates_after_a_drop
    from decayfree.theory.equivalences import decay_is_a_replayed_norm, decay_is_an_exponential_schedule
    from decayfree.theory.flow import euler_steps_halve_the_growth, runge_kutta_keeps_the_norm
    from decayfree.theory.growth import (
        adam_is_not_orthogonal,
        growth_of_momentum,
        growth_of_nesterov,
        growth_of_sgd,
        growth_under_rescaling,
    )
    from decayfree.theory.scale import euler_orthogonality, euler_with_eps, homogeneity, orbit_symmetry
    from decayfree.theory.spans import (
        adam_leaves_the_span,
        gradients_in_span,
        off_span_part_decays,
        off_span_part_decays_with_momentum,
        off_span_part_stays,
        off_span_part_under_rescaling,
        rescaled_training_feels_the_outside,
        training_ignores_the_outside,
        updates_in_span,
    )
    from decayfree.theory.subject import Subject, image_subject, subject_of
    from decayfree.theory.verification import verify, verify_model

__all__ = [
    "verify",
    "verify_model",
    "Check",
    "Subject",
    "image_subject",
    "subject_of",
    "euler_orthogonality",
    "euler_with_eps",
    "homogeneity",
    "orbit_symmetry",
    "euler_steps_halve_the_growth",
    "runge_kutta_keeps_the_norm",
    "growth_of_sgd",
    "growth_of_momentum",
    "growth_of_nesterov",
    "growth_under_rescaling",
    "adam_is_not_orthogonal",
    "gradients_in_span",
    "updates_in_span",
    "adam_leaves_the_span",
    "off_span_part_stays",
    "off_span_part_decays",
    "off_span_part_decays_with_momentum",
    "off_span_part_under_rescaling",
    "training_ignores_the_outside",
    "rescaled_training_feels_the_outside",
    "decay_is_a_replayed_norm",
    "decay_is_an_exponential_schedule",
    "equilibrium_angle",
    "DecayCase",
    "RULES",
    "rates_after_a_drop",
]

__getattr__ = lazy_face(
    __name__,
    {
        "check": "Check",
        "equilibria": "RULES DecayCase equilibrium_angle rates_after_a_drop",
        "equivalences": "decay_is_a_replayed_norm decay_is_an_exponential_schedule",
        "flow": "euler_steps_halve_the_growth runge_kutta_keeps_the_norm",
        "growth": (
            "adam_is_not_orthogonal growth_of_momentum growth_of_nesterov growth_of_sgd "
            "growth_under_rescaling"
        ),
        "scale": "euler_orthogonality euler_with_eps homogeneity orbit_symmetry",
        "spans": (
            "adam_leaves_the_span gradients_in_span off_span_part_decays off_span_part_decays_with_momentum "
            "off_span_part_stays off_span_part_under_rescaling rescaled_training_feels_the_outside "
            "training_ignores_the_outside updates_in_span"
        ),
        "subject": "Subject image_subject subject_of",
        "verification": "verify verify_model",
    },
)
