"""docs/optimizers.md says what every optimizer really does: a section is written anew, and is the same."""

import re
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
import torch

from support.available import import_or_skip
from support.scripts import script

PAGE = Path(__file__).parents[2] / "docs" / "optimizers.md"
PACKAGES = "torch timm pytorch_optimizer heavyball schedulefree prodigyopt bitsandbytes torchao"
LARGE = {"pytorch_optimizer", "heavyball"}


@cache
def optimizers() -> ModuleType:
    return script("docs/optimizers.py")


@pytest.mark.skipif(torch.cuda.is_available(), reason="the page is about the CPU")
@pytest.mark.parametrize(
    "package", [pytest.param(one, marks=pytest.mark.slow if one in LARGE else ()) for one in PACKAGES.split()]
)
def test_a_section_is_what_the_optimizers_of_a_package_do(package: str) -> None:
    import_or_skip(package)
    text = PAGE.read_text(encoding="utf-8")
    assert "\n".join(optimizers().section(package)).rstrip() in text


def test_the_rest_of_the_page_is_what_the_script_writes() -> None:
    filled = re.compile(r"(<!-- ([\w-]+) -->\n).*?(<!-- /\2 -->)", re.DOTALL)
    text = filled.sub(r"\1\n\3", PAGE.read_text(encoding="utf-8"))
    assert text.startswith("\n".join(optimizers().intro()))
    assert text.endswith("\n".join(optimizers().outro()).rstrip() + "\n")


def test_the_page_has_every_section() -> None:
    heads = [line.split()[1] for line in PAGE.read_text(encoding="utf-8").splitlines() if line[:3] == "## "]
    assert heads[: len(optimizers().COLLECTIONS)] == list(optimizers().COLLECTIONS) == PACKAGES.split()
