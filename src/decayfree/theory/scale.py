"""Do weights before a normalization have no scale, as theory says?

Euler orthogonality, the exact share of the normalization's ε in it, homogeneity of the gradient, and the
orbit symmetry of whole trainings.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from decayfree.arguments.kinds import ABOVE_0, COUNT, checked
from decayfree.invariance.verdict import ScaleInvariantWeight
from decayfree.theory.check import Check, equality, figure, not_applicable
from decayfree.theory.subject import Subject
from decayfree.theory.trajectory import MakeOptimizer, cosines, dots, largest, norms, together, training

_LARGE_EPS = 1e-2
_ARORA = "Arora, Li, Lyu 2019, arXiv 1812.03981"


@checked()
def euler_orthogonality(subject: Subject) -> Check:
    """⟨w, ∂L/∂w⟩ = 0 for every block.

    References:
        Liu et al., arXiv 2102.03497v1; van Laarhoven, 2017, arXiv 1706.05350: f(cw) = f(w) makes the gradient
        orthogonal to w.
    """
    gradients = subject.copy().gradients(0)
    weights = {name: parameter.detach() for name, parameter in subject.held.items()}
    residual = largest([float(cosines(weights, gradients, weight).max()) for weight in subject.found])
    n_blocks = sum(weight.blocks.n_blocks for weight in subject.found)
    return Check(
        "The gradient is orthogonal to the weight: ⟨w, g⟩ = 0",
        "2102.03497v1; 1706.05350",
        f"|cos| ≤ {figure(residual)}",
        "0",
        residual,
        1e-10,
        f"Largest |⟨w, g⟩|/(‖w‖‖g‖) over {n_blocks} blocks of {len(subject.found)} weights, "
        f"with ε at {subject.eps:g}.",
    )


@checked()
def euler_with_eps(subject: Subject) -> Check:
    """⟨w, g⟩ = ε/(σ²+ε)·γ·∂L/∂γ for channels before a BatchNorm, σ² its biased batch variance; for any ε."""
    statement, source = "BatchNorm's ε enters exactly: ⟨w, g⟩ = ε/(σ²+ε)·γ·∂L/∂γ", "algebra"
    pairs = _followed_by_batch_norm(subject)
    if not pairs:
        return not_applicable(
            statement, source, "No weight is followed by a BatchNorm with a gain, channel by channel."
        )
    large = subject.with_eps(_LARGE_EPS)
    variances: dict[str, Tensor] = {}
    again: set[str] = set()
    modules = {name: large.model.get_submodule(name) for _, name in pairs}

    def watch(name: str) -> Any:
        def hook(module: Any, inputs: tuple[Tensor]) -> None:
            dims = [dim for dim in range(inputs[0].ndim) if dim != 1]
            again.update({name} & variances.keys())
            variances[name] = inputs[0].detach().var(dims, unbiased=False)

        return hook

    handles = [module.register_forward_pre_hook(watch(name)) for name, module in modules.items()]
    try:
        gradients = large.gradients(0)
    finally:
        for handle in handles:
            handle.remove()
    weights = {name: parameter.detach() for name, parameter in subject.parameters.items()}
    residuals, shares = [], []
    for weight, name in [pair for pair in pairs if pair[1] not in again]:
        measured = dots(weights, gradients, weight)
        gain = weights[f"{name}.weight"] * gradients[f"{name}.weight"]
        expected = _LARGE_EPS / (variances[name] + _LARGE_EPS) * gain
        size = norms(weights, weight) * norms(gradients, weight)
        size[size == 0] = torch.inf  # dead channels
        residuals.append(float(((measured - expected).abs() / size).max()))
        shares.append(float((expected.abs() / size).max()))
    if max(shares, default=0.0) < 1e-6:
        return not_applicable(
            statement,
            source,
            "Beside the variances that it meets, ε is lost in rounding, or a BatchNorm runs twice.",
        )
    return equality(
        statement,
        source,
        largest(residuals),
        1e-10,
        f"At ε = {_LARGE_EPS:g} the gradient leans on the weight by up to |cos| = {max(shares):.2g}, "
        "and all of it is this term.",
    )


@checked(factor=ABOVE_0)
def homogeneity(subject: Subject, *, factor: float = 4.0) -> Check:
    """∂L/∂w at c·w, with ε at c²ε, is 1/c of that at w; for a power of two, to the bit.

    References:
        Arora, Li, Lyu, "Theoretical Analysis of Auto Rate-Tuning by Batch Normalization", 2019, arXiv
        1812.03981, Lemma 2.4.
    """
    plain = subject.copy().gradients(0)
    scaled = _scaled(subject, factor).gradients(0)
    _scale_(subject, scaled, factor)
    residual = largest([_relative(scaled[name], plain[name]) for name in subject.held])
    return Check(
        "The gradient shrinks as the weight grows: g(cw) = g(w)/c",
        _ARORA,
        "bitwise equal" if residual == 0 else f"apart by {figure(residual)}",
        "equal",
        residual,
        1e-10,
        f"All {len(subject.found)} weights multiplied by c = {factor:g} at once, with ε times c².",
    )


@checked(n_steps=COUNT, factor=ABOVE_0)
def orbit_symmetry(
    subject: Subject,
    make_optimizer: MakeOptimizer = torch.optim.SGD,
    *,
    n_steps: int = 60,
    factor: float = 2.0,
) -> Check:
    """(w, η, λ, ε) → (cw, c²η, λ/c², c²ε) gives the same training for SGD with momentum and L2.

    References:
        Li, Lyu, Arora, "Reconciling Modern Deep Learning with Traditional Optimization Analyses", 2020, arXiv
        2010.02916.
    """
    lr = subject.learning_rate()
    settings = {"lr": lr, "weight_decay": 0.1 / (n_steps * lr), "momentum": 0.9}
    plain = training(subject, make_optimizer, **settings)
    twin = training(_scaled(subject, factor), make_optimizer, **settings)
    group = twin.optimizer.param_groups[0]
    group["lr"], group["weight_decay"] = lr * factor**2, group["weight_decay"] / factor**2
    for _ in together([plain, twin], n_steps):
        pass
    start, end, end_of_twin = (
        {name: parameter.detach() for name, parameter in one.parameters.items()}
        for one in (subject, plain.subject, twin.subject)
    )
    moved = largest([_relative(end[name], start[name]) for name in end])
    _scale_(subject, end_of_twin, 1 / factor)
    residual = largest([_relative(end_of_twin[name], end[name]) for name in end])
    return Check(
        "Whole trainings are equal: (w, η, λ) and (cw, c²η, λ/c²)",
        "2010.02916",
        "bitwise equal" if residual == 0 else f"apart by {figure(residual)}",
        "equal",
        residual,
        1e-9,
        f"SGD with momentum 0.9 and L2 decay, {n_steps} steps, c = {factor:g}; the weights moved by up to "
        f"{moved:.0%} of their size.",
    )


def _relative(a: Tensor, b: Tensor) -> float:
    size = float(torch.linalg.vector_norm(b))
    distance = float(torch.linalg.vector_norm(a - b))
    return distance / size if size else distance


def _scaled(subject: Subject, factor: float) -> Subject:
    twin = subject.with_eps(subject.eps * factor**2)
    _scale_(twin, twin.parameters, factor)
    return twin


def _scale_(subject: Subject, values: Mapping[str, Tensor], factor: float) -> None:
    """Multiply what belongs to held rows, and nothing else, in place."""
    for weight in subject.found:
        factors = torch.full((weight.blocks.n_blocks,), factor, dtype=torch.float64)
        weight.part(values).scale_(factors)


def _followed_by_batch_norm(subject: Subject) -> list[tuple[ScaleInvariantWeight, str]]:
    """Weights whose blocks are, one by one, the channels of a BatchNorm with a gain, and its name."""
    pairs = []
    for weight in subject.found:
        every_row = tuple(range(weight.blocks.n_blocks))
        for layer in weight.norm_layers[:1] if len(weight.norm_layers) == 1 else ():
            module = subject.model.get_submodule(layer.name)
            is_one_to_one = layer.channels == every_row and layer.blocks == every_row
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine and is_one_to_one:
                pairs.append((weight, layer.name))
    return pairs
