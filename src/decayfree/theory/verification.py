"""Does theory hold, statement by statement?

Runs the checks: all of them on a small network on images, or those that make sense on any model. Prints
nothing.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from decayfree.arguments.kinds import COUNT, SEED, checked
from decayfree.forward import Forward
from decayfree.theory import equilibria, equivalences, flow, forgetting, growth, scale, spans
from decayfree.theory.check import Check
from decayfree.theory.subject import Subject, image_subject, subject_of

_LABEL_NOISE = 0.6


@checked(seed=SEED)
def verify(images: Tensor, labels: Tensor, *, seed: int = 0) -> Iterator[Check]:
    """Check every statement on a small BatchNorm network, one after the other.

    Args:
        images: (n, n_channels, 8, 8), floating. Outside the span of their patches some direction should be
            left.
        labels: (n,), int64.
        seed: Of weights, batches and label noise.

    Yields:
        One check for each statement, as soon as it is done.
    """
    # So that gradients do not die out.
    subject = image_subject(images, labels, label_noise=_LABEL_NOISE, seed=seed)
    smooth = image_subject(images, labels, activation=nn.SiLU, seed=seed)
    checks: tuple[Callable[[], Check], ...] = (
        *_for_any_model(subject),
        partial(flow.euler_steps_halve_the_growth, subject),
        partial(flow.runge_kutta_keeps_the_norm, smooth),
    )
    for check in checks:
        yield check()
    yield from equilibria.equilibrium_angles(subject)
    yield equilibria.rates_after_a_drop(subject)
    yield equilibria.rates_after_a_drop(subject, rescaled=True, n_before=100, n_after=200)
    yield from forgetting.forgetting(seed=seed)


@checked(n_steps=COUNT, seed=SEED)
def verify_model(
    model: nn.Module, inputs: Any, *, forward: Forward | None = None, n_steps: int = 6, seed: int = 0
) -> Iterator[Check]:
    """Check on a model what can be checked without its data: all but equilibrium and the small-step limit.

    Args:
        model: Copied in float64; never changed.
        inputs: As for :func:`decayfree.find_invariant`.
        forward: As there.
        n_steps: Of each short training.
        seed: Of random targets.

    Yields:
        One check for each statement, as soon as it is done.

    Raises:
        InvalidInputError: If the model has no scale-invariant weight, or does not run on the inputs.
    """
    subject = subject_of(model, inputs, forward=forward, seed=seed)
    for check in _for_any_model(subject, n_steps=n_steps):
        yield check()


def _for_any_model(subject: Subject, **steps: Any) -> tuple[Callable[[], Check], ...]:
    """Every check that needs neither data nor smoothness; ``steps`` may set the short trainings' lengths."""
    return (
        partial(scale.euler_orthogonality, subject),
        partial(scale.euler_with_eps, subject),
        partial(scale.homogeneity, subject),
        partial(scale.orbit_symmetry, subject, **steps),
        partial(growth.growth_of_sgd, subject, **steps),
        partial(growth.growth_of_sgd, subject, decayed=True, **steps),
        partial(growth.growth_of_momentum, subject, **steps),
        partial(growth.growth_of_momentum, subject, decayed=True, **steps),
        partial(growth.growth_of_momentum, subject, decoupled=True, **steps),
        partial(growth.growth_of_nesterov, subject, **steps),
        partial(growth.growth_under_rescaling, subject, **steps),
        partial(growth.growth_under_rescaling, subject, momentum=0.9, **steps),
        partial(growth.adam_is_not_orthogonal, subject, **steps),
        partial(spans.gradients_in_span, subject),
        partial(spans.updates_in_span, subject, **steps),
        partial(spans.adam_leaves_the_span, subject, **steps),
        partial(spans.off_span_part_stays, subject, **steps),
        partial(spans.off_span_part_decays, subject, **steps),
        partial(spans.off_span_part_decays_with_momentum, subject, **steps),
        partial(spans.off_span_part_under_rescaling, subject, **steps),
        partial(spans.training_ignores_the_outside, subject, **steps),
        partial(spans.training_ignores_the_outside, subject, torch.optim.Adam, **steps),
        partial(spans.rescaled_training_feels_the_outside, subject, **steps),
        partial(equivalences.decay_is_a_replayed_norm, subject, **steps),
        partial(equivalences.decay_is_an_exponential_schedule, subject, **steps),
    )
