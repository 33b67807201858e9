"""On what are the statements of theory tried?

On a model in float64 with its scale-invariant weights and a loss for every step: a small network on images
that the caller brings, or the caller's own model on random targets. Trains nothing.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from decayfree.arguments.kinds import COUNT, SEED, checked
from decayfree.errors import InvalidInputError
from decayfree.forward import Forward, ProcessRandomness, Surroundings, call_model, cast, tensors_in
from decayfree.invariance.discovery import find_invariant
from decayfree.invariance.exact_arithmetic import NEGLIGIBLE_EPS, ExactArithmetic, use_eps_
from decayfree.invariance.probe import Probe
from decayfree.invariance.result import Invariance
from decayfree.theory.image_loss import ImageLoss, image_network

_T = TypeVar("_T")

_ANGLE_RAD = 0.03
_FASTEST = 10.0


@dataclass(frozen=True, eq=False)
class Subject:
    """A model to try statements on. Checks train copies of it and leave it alone.

    Args:
        model: In float64 and train mode.
        found: Its scale-invariant weights.
        loss: Loss of a model at a step, (); equal steps give equal losses.
        eps: ε of all normalizations while a copy is run.
        is_centered: Whether a BatchNorm takes the mean of every weight's outputs away, before anything else
            does something to them.
        trains_rest: Whether trainings move the parameters that have a scale, too.
        is_exact: Whether the model itself computes in float64, its layers have this ε, and nothing in it is
            random: then nobody has to watch each of its operations.
        notes: What checks have found out about it, so that no two do the same work.
        randomness: The random states of the process, for models that draw from them.
    """

    model: nn.Module
    found: Invariance
    loss: Callable[[nn.Module, int], Tensor]
    eps: float = NEGLIGIBLE_EPS
    is_centered: bool = False
    trains_rest: bool = False
    is_exact: bool = False
    notes: dict[str, Any] = field(default_factory=dict)
    randomness: ProcessRandomness = field(default_factory=ProcessRandomness)

    def copy(self) -> "Subject":
        """The same with a model of its own."""
        model = copy.deepcopy(self.model)
        return replace(self, model=model, found=Invariance.from_dict(self.found.to_dict(), model), notes={})

    def with_eps(self, eps: float) -> "Subject":
        """A copy that is run with another ε."""
        twin = replace(self.copy(), eps=eps)
        if twin.is_exact:
            use_eps_(twin.model, eps)
        return twin

    def run(self, step: int) -> Tensor:
        """The loss of ``step``, (), with its graph; all randomness in the model is a function of the step."""
        return self._alone(step, lambda: self.loss(self.model, step))

    def _alone(self, step: int, function: Callable[[], _T]) -> _T:
        """Runs the model in float64 with its ε and the random numbers of a step."""
        if self.is_exact:
            return function()

        def call() -> _T:
            with Surroundings(step, torch.float64), ExactArithmetic(torch.float64, self.eps):
                return function()

        return self.randomness.call(call, step)

    @cached_property
    def parameters(self) -> dict[str, nn.Parameter]:
        """All parameters, by name."""
        return dict(self.model.named_parameters())

    @cached_property
    def held(self) -> dict[str, nn.Parameter]:
        """The scale-invariant weights with the biases that belong to them, by name."""
        names = {name for weight in self.found for name in weight.names}
        return {name: parameter for name, parameter in self.parameters.items() if name in names}

    @cached_property
    def rest(self) -> dict[str, nn.Parameter]:
        """The trainable parameters that have a scale, by name."""
        return {name: parameter for name, parameter in self.trainable.items() if name not in self.held}

    @cached_property
    def trainable(self) -> dict[str, nn.Parameter]:
        """All parameters that want a gradient, by name."""
        return {name: parameter for name, parameter in self.parameters.items() if parameter.requires_grad}

    def gradients(self, step: int) -> dict[str, Tensor]:
        """Gradient of the loss of ``step`` for every trainable parameter; zeros where there is none."""
        trainable = self.trainable
        gradients = self._alone(
            step,
            lambda: torch.autograd.grad(
                self.loss(self.model, step),
                list(trainable.values()),
                allow_unused=True,
                materialize_grads=True,
            ),
        )
        return dict(zip(trainable, gradients, strict=True))

    def learning_rate(self, angle_rad: float = _ANGLE_RAD) -> float:
        """Rate at which SGD first turns the median block by ``angle_rad``, and none over ten times as far."""
        return angle_rad * self._rate_per_radian

    @cached_property
    def _rate_per_radian(self) -> float:
        gradients = self.copy().gradients(0)
        ratios = []
        for weight in self.found:
            norms = weight.part(self.parameters).each(Tensor.detach).norms()
            slopes = weight.part(gradients).norms()
            ratios.append((norms / slopes)[slopes > 0])
        moving = torch.cat(ratios)
        if not len(moving):
            raise InvalidInputError(
                "no scale-invariant weight gets a gradient from this loss, so nothing can be measured"
            )
        return min(float(moving.median()), _FASTEST * float(moving.min()))


def gradients_of(subjects: Sequence[Subject], step: int) -> list[dict[str, Tensor]]:
    """`Subject.gradients` of copies of one subject, up to rounding; in one program if their loss has one."""
    loss, eps = subjects[0].loss, subjects[0].eps
    if not isinstance(loss, ImageLoss):
        return [subject.gradients(step) for subject in subjects]
    if any(subject.eps != eps for subject in subjects):
        return [gradients for subject in subjects for gradients in gradients_of([subject], step)]
    twins = {
        name: torch.stack([subject.parameters[name].detach() for subject in subjects]).requires_grad_()
        for name in subjects[0].trainable
    }
    gradients = torch.autograd.grad(loss.of_many(twins, step, eps), list(twins.values()))
    return [dict(zip(twins, of_one, strict=True)) for of_one in zip(*gradients, strict=True)]


@checked(seed=SEED, width=COUNT)
def image_subject(
    images: Tensor,
    labels: Tensor,
    *,
    label_noise: float = 0.0,
    activation: type[nn.Module] = nn.ReLU,
    width: int = 6,
    seed: int = 0,
) -> Subject:
    """A small BatchNorm network on real images: two convolutions and a linear layer, each before a BatchNorm.

    Args:
        images: (n, n_channels, 8, 8), floating.
        labels: (n,), int64.
        label_noise: Share of the labels of every batch that are drawn anew, so that gradients do not die out.
        activation: What follows each BatchNorm.
        width: Channels of the first convolution.
        seed: Of the initial weights, the batches and the noise.

    Returns:
        The subject; a step sees 64 images.
    """
    inputs = images.double()
    with Surroundings(seed, torch.float64):
        model = image_network(images.shape[1], int(labels.max()) + 1, width, activation)
    loss = ImageLoss(inputs, labels, label_noise, activation, seed)
    found = find_invariant(model, inputs[:64], seed=seed)
    use_eps_(model, NEGLIGIBLE_EPS)
    return Subject(model, found, loss, is_centered=True, trains_rest=True, is_exact=True)


@checked(seed=SEED)
def subject_of(model: nn.Module, inputs: Any, *, forward: Forward | None = None, seed: int = 0) -> Subject:
    """Any model on given inputs with random targets: bounded waves of the outputs, new phases every step.

    Args:
        model: Copied in float64 and slightly perturbed, in the modes it is in; never changed.
        inputs: As for :func:`decayfree.find_invariant`.
        forward: As there.
        seed: Of the targets.

    Raises:
        InvalidInputError: If no weight of it is scale-invariant, or the model gives no floating output.
    """
    found = find_invariant(model, inputs, forward=forward, seed=seed)
    if not len(found):
        raise InvalidInputError(
            f"this {type(model).__name__} has no scale-invariant weight to try statements on:\n{found!r}"
        )
    probe = Probe(model, inputs, forward, torch.float64, seed)
    probe.perturb_()  # zero gains hide the weights before them
    twin = probe.copy.cpu()
    raised = torch.utils._pytree.tree_map(lambda leaf: _on_host(cast(leaf, torch.float64, copy=True)), inputs)
    call = forward or call_model

    def loss(model: nn.Module, step: int) -> Tensor:
        outputs = [
            leaf
            for leaf in tensors_in(call(model, raised))
            if (leaf.is_floating_point() or leaf.is_complex()) and leaf.requires_grad
        ]
        generator = torch.Generator().manual_seed(1_000_003 * seed + step)
        total = torch.zeros((), dtype=torch.float64)
        for output in (torch.view_as_real(one) if one.is_complex() else one for one in outputs):
            phases = 6.28 * torch.rand(output.shape, generator=generator, dtype=torch.float64)
            size = output.detach().std() if output.numel() > 1 else output.detach().abs()
            total = total + torch.sin(output / size.clamp_min(1e-12) + phases).mean()
        return total

    return Subject(twin, Invariance.from_dict(found.to_dict(), twin), loss)


def _on_host(leaf: Any) -> Any:
    return leaf.cpu() if isinstance(leaf, Tensor) else leaf
