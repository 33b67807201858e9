"""Does the first layer's off-span part do what algebra says?

Follows it through a run, where it can be followed. Does not train. A model whose first layer is no plain
convolution has nothing to follow; an optimizer whose law is unknown is measured without being predicted.
"""

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from decayfree.arguments.address import Address
from decayfree.forward import Surroundings
from decayfree.invariance.result import Invariance
from decayfree.methods.exact_replay import ExactReplay
from decayfree.methods.learning_rate_scaling import LearningRateScaling
from decayfree.methods.method import Method
from decayfree.methods.none import NoTreatment
from decayfree.methods.weight_decay import WeightDecay
from decayfree.methods.wrs import WRS
from decayfree.span.input_span import InputSpan
from decayfree.span.layer_span import LayerSpan
from decayfree.study.data.images import Dataset
from decayfree.study.data.loading import load
from decayfree.study.own import source_of
from decayfree.study.run_settings import DataSpec, Recipe
from decayfree.study.training.laws import OffSpanLaw

N_SPAN_IMAGES = 2000
"""So many training images at most, the first ones, make the span."""
IMAGES_AT_ONCE = 500
_FOLLOWED = (NoTreatment, WeightDecay, LearningRateScaling, ExactReplay, WRS)


class FirstLayer:
    """The first convolution, the span of the patches that it sees, and what its off-span part must be.

    Args:
        model: Its first convolution must see the images as they come out of ``dataset``.
        name: Parameter name of that convolution's weight.
        span: Of the patches that it sees in the training images.
        law: Followed step by step; None where it is not known.
    """

    def __init__(self, model: nn.Module, name: str, span: LayerSpan, law: OffSpanLaw | None) -> None:
        self.name, self.law = name, law
        self._weight, self._span = model.get_parameter(name), span

    def share(self) -> float:
        """Mean over the rows of ‖Qw‖/‖w‖ as measured."""
        return float(self._span.off_span_share(self._weight.detach().cpu()).mean())

    def predicted_share(self) -> float:
        """The same with ‖Qw‖ as the law has it; NaN without a law."""
        if self.law is None:
            return math.nan
        weight = self._weight.detach().cpu().double()
        return float((self.law.lengths / torch.linalg.vector_norm(weight.flatten(1), dim=1)).mean())

    def step(self) -> None:
        """Follow one step of the optimizer, after it was taken."""
        if self.law is not None:
            self.law.step()

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs; loadable with ``weights_only=True``."""
        return {} if self.law is None else self.law.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict`."""
        if self.law is not None:
            self.law.load_state_dict(state)


def first_layer(
    model: nn.Module,
    optimizer: Optimizer,
    found: Invariance,
    method: Method,
    *,
    recipe: Recipe,
    data_dir: str | None,
    seed: int = 0,
    replayed: Mapping[str, Tensor] | None,
) -> FirstLayer | None:
    """The first layer of a model before its first step; None where it is no plain convolution."""
    first = first_convolution(model)
    if first is None:
        return None
    name, convolution = first
    span = span_seen(recipe, data_dir, convolution, seed)
    is_followed = (
        isinstance(optimizer, SGD)
        and not isinstance(recipe.optimizer.name, Address)
        and isinstance(method, _FOLLOWED)
        and getattr(method, "form", "own") == "own"
        # Else no normalization centers its inputs, and its gradients leave this span.
        and found.holds(name)
        and not found[name].blocks.is_partial
    )
    if not is_followed:
        return FirstLayer(model, name, span, None)
    decay: dict[str, Any] = {}
    if isinstance(method, ExactReplay) and replayed is not None:
        decay = {"replayed_weight_decay": method.replayed_weight_decay, "replayed": replayed[name]}
    lengths = torch.linalg.vector_norm(span.off_span(convolution.weight.detach().cpu()).flatten(1), dim=1)
    return FirstLayer(model, name, span, OffSpanLaw(optimizer, found, name, lengths, **decay))


def first_convolution(model: nn.Module) -> tuple[str, nn.Conv2d] | None:
    """Parameter name of the first layer's weight, and that layer; None where it is no plain convolution."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and isinstance(module._parameters.get("weight"), nn.Parameter):
            return f"{name}.weight", module
        if next(module.parameters(recurse=False), None) is not None:
            return None
    return None


def span_seen(recipe: Recipe, data_dir: str | None, convolution: nn.Conv2d, seed: int = 0) -> LayerSpan:
    """The span of the patches that a first convolution sees in the training images."""
    c = convolution
    settings = (c.in_channels, c.out_channels, c.kernel_size, c.stride, c.padding, c.dilation, c.groups)
    same = seed if recipe.data.by_seed else 0
    source = source_of(recipe.data.name)
    return _span(recipe.task, recipe.data, data_dir, (*settings, False, c.padding_mode), same, source)


@lru_cache(maxsize=2)
def _span(
    task: str, data: DataSpec, data_dir: str | None, settings: tuple[Any, ...], seed: int, source: object
) -> LayerSpan:
    """The span for a convolution with these settings, in the order in which torch takes them."""
    dataset: Dataset = load(data, data_dir, seed=seed, task=task)
    images = dataset.to_input(dataset.train.pixels[:N_SPAN_IMAGES])
    with torch.no_grad(), Surroundings(0):
        alike = nn.Conv2d(*settings)
        with InputSpan(alike, centered="overall") as span:
            for part in torch.split(images, IMAGES_AT_ONCE):
                alike(part)
    return span["weight"]
