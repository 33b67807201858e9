"""Does a function that a model keeps, such as a patched forward, run the copy and not the model?"""

import functools

import pytest
from torch import Tensor, nn

from decayfree import InvalidInputError, find_invariant
from support.around import Around, assert_found, pictures
from support.unchanged import unchanged


class KeepsAFunction(Around):
    """Its function knows it by a closure, and itself, and something that it counts with."""

    def __init__(self) -> None:
        super().__init__()
        calls: list[int] = []

        def run(x: Tensor, depth: int = 1) -> Tensor:
            calls.append(depth)
            return run(x, depth - 1) if depth else self.net(x) * len(calls)

        self.run = run

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x)


class Patched(Around):
    """Its forward was wrapped by somebody who kept the old one, as trainers do."""

    def __init__(self) -> None:
        super().__init__()
        old = self.net.forward

        @functools.wraps(old)
        def forward(x: Tensor) -> Tensor:
            return 2 * old(x)

        self.net.forward = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


@pytest.mark.usefixtures("seed")
@pytest.mark.parametrize("kind", [KeepsAFunction, Patched], ids=lambda kind: kind.__name__)
def test_a_function_that_a_model_keeps_runs_the_copy(kind: type[nn.Module]) -> None:
    model = kind()
    with unchanged(model):
        assert_found(model)


class NotCopied(list):
    def __deepcopy__(self, memo: dict) -> "NotCopied":
        return self


@pytest.mark.usefixtures("seed")
def test_what_reaches_the_original_by_other_ways_is_refused_before_it_changes() -> None:
    model = Around()
    model.forward = functools.partial(lambda held, x: held[0](x), NotCopied([model.net]))
    with unchanged(model), pytest.raises(InvalidInputError, match=r"not the original.*through self"):
        find_invariant(model, pictures())
