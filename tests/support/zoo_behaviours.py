"""Which weights are found whatever a model takes, returns and draws, and in whatever precision it runs?

Inputs and outputs of every structure around one small network, randomness, zeros and unused parameters,
models without float64.
The networks with a structure of their own are in zoo_networks.py.
"""

import random
from dataclasses import dataclass
from typing import Any

import numpy
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from support.zoo_entry import (
    LEFT_OUT,
    NORM_AND_HEAD,
    NOT,
    UNDECIDED,
    ZooModel,
    blocks,
    each,
    images,
    kernels,
    net,
    tail,
    tokens,
)
from support.zoo_modules import Functional, HandRMSNorm, Refuses64, ScalarGain
from support.zoo_networks import GAIN_ALONG_WITH_BIAS, conv3, gains


def small_net() -> nn.Sequential:
    return net(conv=nn.Conv2d(3, 6, 3, bias=False), norm=nn.BatchNorm2d(6), **tail(6))


SMALL_NET = {"net.conv.weight": kernels(6, net__norm=each(6))} | {
    f"net.{name}": NOT for name in ("norm.weight", "norm.bias", "head.weight", "head.bias")
}


class Wrapped(nn.Module):
    """The small network with something around it."""

    def __init__(self) -> None:
        super().__init__()
        self.net = small_net()


@dataclass
class Prediction:
    """What a model might return."""

    logits: Tensor
    features: list[Tensor] | None = None
    label: str = "none"


class ReturnsDict(Wrapped):
    def forward(self, x: Tensor) -> dict[str, Any]:
        logits = self.net(x)
        return {"logits": logits, "classes": logits.argmax(-1), "n": len(x), "none": None}


class ReturnsNested(Wrapped):
    def forward(self, x: Tensor) -> tuple[Any, ...]:
        features = F.relu(self.net.norm(self.net.conv(x)))
        return [{"features": (features,)}], (self.net(x), "text"), 3


class ReturnsDataclass(Wrapped):
    def forward(self, x: Tensor) -> Prediction:
        return Prediction(self.net(x), [x.mean((2, 3))])


class ReturnsLoss(Wrapped):
    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(self.net(images), labels)


class TakesList(Wrapped):
    def forward(self, pictures: list[Tensor], *, gain: float) -> list[Tensor]:
        return list(gain * self.net(torch.stack(pictures)))


def labels(generator: torch.Generator) -> Tensor:
    return torch.randint(3, (5,), generator=generator)


def loss_of_batch(model: nn.Module, batch: dict[str, Any]) -> Tensor:
    return F.cross_entropy(model.net(batch["pictures"][0]), batch["labels"]["classes"])


STRUCTURES = [
    ZooModel("returns_a_dict", "the outputs are the tensors in it", ReturnsDict, images, SMALL_NET),
    ZooModel("returns_nested_tuples", "the outputs are the tensors in it", ReturnsNested, images, SMALL_NET),
    ZooModel("returns_a_dataclass", "the outputs are its tensors", ReturnsDataclass, images, SMALL_NET),
    ZooModel(
        "returns_a_loss_of_two_inputs",
        "a loss is an output; the inputs are a tuple with whole numbers in it",
        ReturnsLoss,
        lambda g: (images(g), labels(g)),
        SMALL_NET,
    ),
    ZooModel(
        "takes_a_mapping",
        "inputs by name, as language models take them",
        ReturnsLoss,
        lambda g: {"labels": labels(g), "images": images(g)},
        SMALL_NET,
    ),
    ZooModel(
        "takes_a_list_and_a_number",
        "inputs that hold tensors in a list, as detection models take them",
        TakesList,
        lambda g: {"pictures": list(images(g)), "gain": 2.0},
        SMALL_NET,
    ),
    ZooModel(
        "called_by_a_forward_of_the_users",
        "forward makes a loss from a batch of any structure",
        Wrapped,
        lambda g: {"pictures": [images(g)], "labels": {"classes": labels(g)}},
        SMALL_NET,
        forward=loss_of_batch,
    ),
]


class StochasticDepth(nn.Module):
    """A residual branch that is dropped for some samples, with dropout inside."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1, self.conv2, self.bn2 = (
            conv3(3, 5),
            nn.BatchNorm2d(5),
            conv3(5, 3),
            nn.BatchNorm2d(3),
        )
        self.head = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        branch = self.bn2(self.conv2(F.dropout(F.relu(self.bn1(self.conv1(x))), 0.2, self.training)))
        keep = torch.bernoulli(torch.full((len(x), 1, 1, 1), 0.7, dtype=x.dtype)) / 0.7
        return self.head(F.relu(x + keep * branch).mean((2, 3)))


class NumpyAndPythonNoise(Wrapped):
    """Draws from the random states of Python and numpy too."""

    def forward(self, x: Tensor) -> Tensor:
        return (1.0 + random.random() + numpy.random.rand()) * self.net(x)


class Unused(Wrapped):
    """Has a layer and a parameter that its forward never reads."""

    def __init__(self) -> None:
        super().__init__()
        self.spare = nn.Linear(4, 4)
        self.extra = nn.Parameter(torch.ones(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


BEHAVIOURS = [
    ZooModel(
        "stochastic_depth_and_dropout",
        "with the same random numbers the same samples are dropped, whatever the scale",
        StochasticDepth,
        images,
        {
            "conv1.weight": kernels(5, bn1=each(5)),
            "conv2.weight": kernels(3, bn2=each(3)),
        }
        | gains("bn2", "head")
        | GAIN_ALONG_WITH_BIAS,
    ),
    ZooModel(
        "random_numbers_of_python_and_numpy",
        "noise that is the same in both runs proves nothing against a weight",
        NumpyAndPythonNoise,
        images,
        SMALL_NET,
    ),
    ZooModel(
        "parameters_that_nobody_uses",
        "a parameter without effect is not thereby invariant",
        Unused,
        images,
        SMALL_NET | {"spare.weight": UNDECIDED, "spare.bias": UNDECIDED, "extra": UNDECIDED},
    ),
    ZooModel(
        "no_float64_kernel",
        "an operation that exists in float32 only: found there, with that precision",
        lambda: net(conv=nn.Conv2d(3, 6, 3, bias=False), fast=Refuses64(), norm=nn.BatchNorm2d(6), **tail(6)),
        images,
        {"conv.weight": kernels(6, norm=each(6))} | NORM_AND_HEAD,
        dtype=torch.float32,
    ),
    ZooModel(
        "statistics_forced_to_float32",
        "norms that compute in float32 whatever comes in: invariant to that precision",
        lambda: net(
            fc=nn.Linear(8, 6, bias=False),
            norm=HandRMSNorm(6, in_float32=True),
            act=nn.ReLU(),
            second=nn.Linear(6, 6, bias=False),
            other=Functional(lambda x: F.layer_norm(x.float(), (6,)).to(x.dtype)),
            head=nn.Sequential(nn.ReLU(), nn.Linear(6, 3)),
        ),
        tokens,
        {
            "fc.weight": blocks(6),
            "norm.weight": LEFT_OUT,
            "second.weight": blocks(6),
            "head.1.weight": NOT,
            "head.1.bias": NOT,
        },
        dtype=torch.float32,
    ),
]


def zero_gain() -> nn.Module:
    model = net(conv=nn.Conv2d(3, 6, 3, bias=False), norm=nn.BatchNorm2d(6), **tail(6))
    nn.init.zeros_(model.norm.weight)
    return model


def zero_weight() -> nn.Module:
    model = net(conv=nn.Conv2d(3, 6, 3, bias=False), norm=nn.BatchNorm2d(6), **tail(6))
    nn.init.zeros_(model.conv.weight)
    nn.init.zeros_(model.head.weight)
    return model


ZEROS = [
    ZooModel(
        "zero_initialized_gain",
        "with a gain of zero the weight has no effect and no gradient; with any other it is invariant",
        zero_gain,
        images,
        {"conv.weight": kernels(6, norm=each(6))} | NORM_AND_HEAD,
    ),
    ZooModel(
        "zero_initialized_weights",
        "a zero weight times anything is zero, which proves nothing; "
        "off zero one is invariant, the other is not",
        zero_weight,
        images,
        {"conv.weight": kernels(6, norm=each(6))} | NORM_AND_HEAD,
    ),
    ZooModel(
        "scalar_parameters",
        "of a scalar before a norm only the sign has an effect; one at the end scales the output",
        lambda: net(
            before=ScalarGain(0.5),
            conv=nn.Conv2d(3, 6, 3, bias=False),
            norm=nn.BatchNorm2d(6, affine=False),
            act=nn.ReLU(),
            after=ScalarGain(0.0),
        ),
        images,
        {"before.gain": LEFT_OUT, "conv.weight": kernels(6, norm=each(6)), "after.gain": NOT},
    ),
]

ZOO_BEHAVIOURS = [*STRUCTURES, *BEHAVIOURS, *ZEROS]
