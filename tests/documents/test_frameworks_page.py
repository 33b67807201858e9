"""docs/frameworks.md lists what is tested in each framework: the tests' own names, with the versions."""

import ast
import textwrap
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "frameworks.md"
TESTS = ROOT / "tests" / "integrations"
# What a file is about -> the packages whose versions count.
PACKAGES = {
    "jax": ("jax", "flax", "optax"),
    "lightning": ("lightning",),
    "timm": ("timm",),
    "transformers": ("transformers", "accelerate"),
}
MARKS = "<!-- tests -->", "<!-- /tests -->"


def listed() -> str:
    """What stands between the marks; print it to write the page."""
    lines: list[str] = []
    for name, packages in PACKAGES.items():
        versions = ", ".join(f"{one} {version(one)}" for one in packages)
        lines += [f"**{versions}** ([test_{name}.py](../tests/integrations/test_{name}.py))", ""]
        for sentence in sentences(TESTS / f"test_{name}.py"):
            lines += textwrap.wrap(f"- {sentence}", 110, subsequent_indent="  ")
        lines.append("")
    return "\n".join(["", *lines])


def sentences(path: Path) -> Iterator[str]:
    """The names of its tests, with what they are tried for where that has names."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    tables = {
        ast.unparse(target): [ast.literal_eval(key) for key in node.value.keys if key is not None]
        for node in tree.body
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Dict)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
    }
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            of = [
                name
                for mark in node.decorator_list
                if isinstance(mark, ast.Call) and "parametrize" in ast.unparse(mark.func)
                for name in tables.get(ast.unparse(mark.args[1]), [])
            ]
            yield node.name.removeprefix("test_").replace("_", " ") + (f": {', '.join(of)}" if of else "")


def test_the_page_lists_what_is_tested_with_the_versions() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text.partition(MARKS[0])[2].partition(MARKS[1])[0] == listed()


def test_every_file_of_tests_is_on_the_page() -> None:
    assert {path.stem.removeprefix("test_") for path in TESTS.glob("test_*.py")} == PACKAGES.keys()
