"""The built-in studies, one TOML file each, in a size for two cores and in the paper's for a GPU.

Runs none of them. Every file says in comments what the paper claims, so that results can be held against it.
"""

import dataclasses
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

from decayfree.arguments.kinds import checked
from decayfree.errors import InvalidInputError, closest
from decayfree.study.spec.study_spec import StudySpec, first_seeds

BUILTIN = (
    *("figure1", "optimizers", "architectures", "sensitivity", "baselines"),
    *("memory", "preset", "rates", "angles", "figure1-tuned", "transfer", "endless", "off-span"),
    *("segmentation", "detection", "counting"),
)
"""Names of the built-in studies, the headline comparison first."""
SIZES = ("small", "paper")
"""``small``: Fashion-MNIST on two cores; ``paper``: CIFAR-10 on a GPU."""


@checked()
def builtin_text(name: str, size: str = "small") -> str:
    """The file of a built-in study, with its comments; a start for a spec of one's own.

    Args:
        name: One of `BUILTIN`.
        size: One of `SIZES`.

    Raises:
        InvalidInputError: If there is no such study or size.
    """
    if name not in BUILTIN:
        raise InvalidInputError(
            f"expected a built-in study, one of {', '.join(BUILTIN)}; got {name!r}{closest(name, BUILTIN)}"
        )
    if size not in SIZES:
        raise InvalidInputError(f"size must be one of {', '.join(SIZES)}; got {size!r}")
    return files(__package__).joinpath(f"{name}-{size}.toml").read_text(encoding="utf-8")


@checked()
def builtin_spec(
    name: str,
    size: str = "small",
    *,
    device: str | None = None,
    seeds: int | None = None,
    data_dir: str | Path | None = None,
) -> StudySpec:
    """A built-in study, ready to run.

    Args:
        name: One of `BUILTIN`.
        size: One of `SIZES`.
        device: Where to train, in torch's words, instead of what the file says.
        seeds: How many seeds, counted from 0, instead of what the file says.
        data_dir: Where the images lie.

    Raises:
        InvalidInputError: If there is no such study or size.
        SpecError: If a number is out of range.
    """
    return adjusted(_loaded(name, size), device=device, seeds=seeds, data_dir=data_dir)


@checked()
def adjusted(
    spec: StudySpec,
    *,
    device: str | None = None,
    seeds: int | None = None,
    data_dir: str | Path | None = None,
) -> StudySpec:
    """``spec`` on another device, with as many seeds, with images from elsewhere; None leaves it as it is.

    Raises:
        SpecError: If a number is out of range.
    """
    if device is None and seeds is None and data_dir is None:
        return spec
    recipe = spec.recipe if device is None else dataclasses.replace(spec.recipe, device=device)
    return dataclasses.replace(
        spec,
        recipe=recipe,
        seeds=spec.seeds if seeds is None else first_seeds(seeds),
        data_dir=spec.data_dir if data_dir is None else str(data_dir),
    )


@lru_cache(maxsize=len(BUILTIN) * len(SIZES))
def _loaded(name: str, size: str) -> StudySpec:
    return StudySpec.from_toml(builtin_text(name, size))
