"""Which images of the training part are trained on and validated on, and whether there are enough.

Reads no files and knows no format.
"""

from typing import Protocol, TypeVar

import torch
from torch import Tensor

from decayfree.errors import InvalidInputError
from decayfree.study.data.draws import generator_for
from decayfree.study.run_settings import DataSpec


def chosen(order: Tensor, spec: DataSpec, seed: int | None) -> tuple[Tensor, Tensor]:
    """Which of the training part to train on, and which to validate on, out of all in their order."""
    pool = order[spec.first : spec.first + spec.n_pool if spec.n_pool else None]
    if seed is None:
        return pool[: spec.n_train], pool[spec.n_train : spec.n_train + spec.n_validation]
    rest, to_validate = pool[: len(pool) - spec.n_validation], pool[len(pool) - spec.n_validation :]
    drawn = torch.randperm(len(rest), generator=generator_for("train images", seed))[: spec.n_train]
    return rest[drawn], to_validate


_List = TypeVar("_List", bound="_Listed")


class _Listed(Protocol):
    """Images in a list."""

    def __len__(self) -> int: ...

    def at(self: _List, positions: list[int]) -> _List:
        """Those at these positions, in this order."""


def chosen_of_lists(
    train: _List, test: _List, spec: DataSpec, seed: int | None
) -> tuple[_List, _List, _List]:
    """To train on, to validate on and to test with, out of lists that are mixed first."""
    check_enough(spec, len(train), len(test))
    to_train, to_validate = chosen(mixed(len(train), len(train)), spec, seed)
    of_test = mixed(len(test), spec.n_test)
    return train.at(to_train.tolist()), train.at(to_validate.tolist()), test.at(of_test.tolist())


def mixed(n_images: int, n_taken: int) -> Tensor:
    """(n_taken,), int64: which images, the same for fewer of them."""
    return torch.randperm(n_images, generator=generator_for("mixed", n_images))[:n_taken]


def check_enough(spec: DataSpec, n_train: int, n_test: int) -> None:
    """Raise where a part has fewer images than are asked for."""
    n_left = n_train - spec.first
    if max(spec.n_train + spec.n_validation, spec.n_pool) > n_left or spec.n_test > n_test:
        validation = f", n_validation={spec.n_validation}" if spec.n_validation else ""
        validation += f", first={spec.first}" if spec.first else ""
        validation += f", n_pool={spec.n_pool}" if spec.n_pool else ""
        raise InvalidInputError(
            f"{spec.name} has {n_train} training and {n_test} test images here, "
            f"but n_train={spec.n_train}{validation} and n_test={spec.n_test} are asked for"
        )
