"""docs/errors.md: a section for each class of error that the package raises, with its cause and cure."""

import ast
import re
from importlib import import_module
from pathlib import Path

import decayfree

PAGE = Path(__file__).parents[2] / "docs" / "errors.md"
PACKAGE = Path(decayfree.__file__).parent
TEXT = PAGE.read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^##+ (\w+Error)\n(.*?)(?=^##|\Z)", TEXT, re.DOTALL | re.MULTILINE))


def defined() -> dict[str, type[Exception]]:
    """Every child of `DecayFreeError` in the package, public or not, by its name."""
    found: dict[str, type[Exception]] = {"DecayFreeError": decayfree.DecayFreeError}
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and "DecayFreeError" in map(ast.unparse, node.bases):
                module = ".".join(["decayfree", *path.relative_to(PACKAGE).with_suffix("").parts])
                found[node.name] = getattr(import_module(module), node.name)
    return found


def test_every_class_of_error_has_a_section_and_every_section_a_class() -> None:
    assert SECTIONS.keys() == defined().keys()
    assert SECTIONS.keys() >= {name for name in decayfree.__all__ if name.endswith("Error")}


def test_a_section_says_cause_and_cure_and_of_which_built_in_the_error_is() -> None:
    for name, kind in defined().items():
        said = SECTIONS[name].partition("**Cause:**")[0]
        assert set(re.findall(r"`(\w+Error)`", said)) == {
            base.__name__ for base in kind.__bases__ if base not in (decayfree.DecayFreeError, Exception)
        }
        if name != "DecayFreeError":
            assert re.search(r"\*\*Cause:\*\* .{20}.*\*\*Cure:\*\* .{20}", SECTIONS[name], re.DOTALL), name
