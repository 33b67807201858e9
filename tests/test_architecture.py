"""The house rules of the package: who imports whom, what an import loads, what is documented, how long a file may be."""

import ast
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

import decayfree

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "decayfree"
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

# From the ground up. A module imports from its own floor and from those below it, never from above.
FLOORS: tuple[frozenset[str], ...] = (
    frozenset({"errors"}),
    frozenset({"blocks"}),
    # Which weights.
    frozenset(
        {
            "exact",
            "probe",
            "partition",
            "running",
            "cancelling",
            "evidence",
            "search",
            "reasons",
            "table",
            "invariance",
            "unsupported",
        }
    ),
    # When; what happened; where; why.
    frozenset(
        {
            "radius",
            "holding",
            "fusing",
            "following",
            "faults",
            "once",
            "deviation",
            "rescaling",
            "families",
            "comparing",
            "dynamics",
            "patches",
            "watchable",
            "second_moment",
            "layer_span",
            "span",
            "cleaning",
            "equilibrium",
        }
    ),
    # Watching while training; recipes.
    frozenset(
        {
            "counting",
            "readings",
            "sinks",
            "recorder",
            "schedule",
            "gradient_norms",
            "derivation",
            "recipe",
            "conversion",
        }
    ),
    frozenset({"methods"}),
    frozenset({"theory"}),
    frozenset({"study"}),
    frozenset({"report"}),
    frozenset({"cli", "study_cli", "study_tables", "watching", "inspecting", "converting", "verifying"}),
    frozenset({"integrations"}),
)
# Narrower than their floor.
ONLY = {
    "blocks": {"errors"},
    "dynamics": {"families", "comparing", "blocks", "errors"},
    "span": {"layer_span", "patches", "second_moment", "watchable", "table", "blocks", "errors"},
    "equilibrium": {"errors"},
    "recorder": {
        "counting",
        "readings",
        "sinks",
        "dynamics",
        "families",
        "faults",
        "invariance",
        "unsupported",
        "errors",
    },
    "report": {"study", "errors"},
}
# What a unit may import besides torch and the standard library; the rest needs torch alone.
EXTRAS = {
    "fusing": {"numba"},
    "methods": {"adamp"},
    "study": {"sklearn", "scipy", "PIL", "numpy", "pytorch_optimizer", "optuna", "ray"},
    "report": {"jinja2", "markupsafe", "plotly"},
    "cli": {"typer", "rich"},
    "study_cli": {"typer", "rich"},
    "study_tables": {"typer", "rich"},
    "watching": {"typer", "rich"},
    "verifying": {"rich"},
}
MODULES = sorted(PACKAGE.rglob("*.py"))


def unit_of(path: Path) -> str:
    """The module at the top of the package, or the subpackage, that a file belongs to."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports_of(path: Path, *, at_import_only: bool = False) -> Iterator[str]:
    """Dotted names under decayfree that a file imports; ``decayfree`` itself for its public names."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in statements_at_import(tree) if at_import_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "decayfree")
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} imports relatively"
            if node.module == "decayfree":
                yield from (
                    f"decayfree.{alias.name}" if is_module(alias.name) else "decayfree"
                    for alias in node.names
                )
            elif (node.module or "").startswith("decayfree."):
                yield str(node.module)


def is_module(name: str) -> bool:
    return (PACKAGE / f"{name}.py").exists() or (PACKAGE / name).is_dir()


def statements_at_import(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those inside functions and under ``if TYPE_CHECKING``."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        yield from statements_at_import(node)


def floor_of(unit: str) -> int:
    for number, units in enumerate(FLOORS):
        if unit in units:
            return number
    raise AssertionError(f"{unit} has no floor: add it to FLOORS")


def test_every_module_has_one_floor() -> None:
    units = {unit_of(path) for path in MODULES} - {"__init__", "__main__"}
    listed = [unit for units_of_floor in FLOORS for unit in units_of_floor]
    assert len(listed) == len(set(listed))
    assert not units - set(listed), "new modules need a floor in FLOORS"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_one_way(path: Path) -> None:
    unit = unit_of(path)
    if unit == "__init__":
        allowed = set().union(*FLOORS[: floor_of("methods")])
    elif unit == "__main__":
        allowed = {"cli"}
    else:
        allowed = set().union(*FLOORS[: floor_of(unit) + 1])
        allowed = ONLY.get(unit, allowed) | {unit}
    for name in imports_of(path):
        parts = name.split(".")
        # The public names are for the users' side of the house: methods and above.
        target = parts[1] if len(parts) > 1 else "recorder"
        assert target in allowed, f"{path.name} must not import {name}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_packages_are_imported_where_they_belong(path: Path) -> None:
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)]
    allowed = {"torch", "decayfree"} | EXTRAS.get(unit_of(path), set()) | sys.stdlib_module_names
    assert not {name.partition(".")[0] for name in names} - allowed


def test_no_modules_import_each_other_in_a_circle() -> None:
    files = {"decayfree." + ".".join(p.relative_to(PACKAGE).with_suffix("").parts): p for p in MODULES}
    files = {name.removesuffix(".__init__"): path for name, path in files.items()}
    edges = {
        name: {other for other in imports_of(path, at_import_only=True) if other in files}
        for name, path in files.items()
    }
    # A package's front door imports its rooms, and they may be asked for through it by others.
    edges = {name: others for name, others in edges.items() if files[name].name != "__init__.py"}

    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail[trail.index(name) :], name))
        if name in done:
            return
        for other in sorted(edges.get(name, ())):
            visit(other, (*trail, name))
        done.add(name)

    for name in sorted(edges):
        visit(name, ())


def loaded_by(statement: str) -> set[str]:
    """Names of the modules that a fresh Python has loaded after a statement."""
    code = f"import sys; sys.path.insert(0, {str(PACKAGE.parent)!r}); {statement}; print(*sys.modules, sep='\\n')"
    result = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=120
    )
    return set(result.stdout.split())


def test_importing_decayfree_loads_torch_and_nothing_else() -> None:
    loaded = loaded_by("import decayfree")
    top = {name.partition(".")[0] for name in loaded - loaded_by("import torch")}
    assert "decayfree.blocks" in loaded
    assert top - sys.stdlib_module_names <= {"decayfree"}
    forbidden = ("study", "report", "methods", "cli", "integrations")
    assert not [name for name in loaded if name.startswith(tuple(f"decayfree.{unit}" for unit in forbidden))]


@pytest.mark.parametrize("name", decayfree.__all__)
def test_every_public_name_is_documented(name: str) -> None:
    thing = getattr(decayfree, name)
    assert own_doc(thing), f"decayfree.{name} has no docstring"
    if inspect.isclass(thing):
        for attribute, member in vars(thing).items():
            function = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
            if not attribute.startswith("_") and inspect.isfunction(function):
                assert own_doc(function), f"decayfree.{name}.{attribute} has no docstring"


def own_doc(thing: object) -> str:
    """The docstring that was written for it: not inherited, and not the signature that dataclasses put there."""
    doc = getattr(thing, "__doc__", None) or ""
    return "" if doc.startswith(f"{getattr(thing, '__name__', '')}(") else doc


def test_every_public_name_is_listed_once() -> None:
    assert len(set(decayfree.__all__)) == len(decayfree.__all__)


@pytest.mark.parametrize("folder", ["src", "tests", "benchmarks", "examples"])
def test_no_file_has_more_than_500_lines(folder: str) -> None:
    lengths = {
        path: len(path.read_text(encoding="utf-8").splitlines()) for path in (ROOT / folder).rglob("*.py")
    }
    assert not {str(path.relative_to(ROOT)): n for path, n in lengths.items() if n > 500}


@pytest.mark.parametrize("name", ["utils", "util", "base", "core", "common", "helpers"])
def test_no_file_has_a_name_that_says_nothing(name: str) -> None:
    assert not list((ROOT / "src").rglob(f"{name}.py"))
    assert not list((ROOT / "tests").rglob(f"{name}.py"))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_documents_link_to_files_that_are_there(document: Path) -> None:
    targets = re.findall(r"\]\((?!https?://|#)([^)#\s]+)", document.read_text(encoding="utf-8"))
    assert not [target for target in targets if not (document.parent / target).exists()]


def test_readme_shows_the_table_that_is_printed(seed: int) -> None:
    model = nn.Sequential(
        *(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Conv2d(16, 32, 3), nn.GroupNorm(4, 32), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)),
    )
    printed = repr(decayfree.find_invariant(model, torch.randn(8, 3, 32, 32)))
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = re.search(r"<!-- table -->\n```text\n(.*?)\n```\n<!-- /table -->", readme, re.DOTALL)
    assert shown

    def without_rounding(text: str) -> str:
        return re.sub(r"\b\de-\d\d\b|by [\d.]+ of", "#", text)

    assert without_rounding(shown.group(1)) == without_rounding(printed)


def tree_in_readme() -> list[str]:
    """The paths of README's file tree: what stands before the comment on each line, below the folder it is indented under."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = re.search(r"## The files\n.*?```text\n(.*?)```", text, re.DOTALL)
    assert block, "README has no file tree under the heading 'The files'"
    paths: list[str] = []
    folders: list[tuple[int, str]] = []
    for line in block.group(1).splitlines():
        if not line.strip():
            continue
        indent = len(line) - len(line.lstrip())
        while folders and folders[-1][0] >= indent:
            folders.pop()
        path = "".join(name for _, name in folders) + line.split()[0]
        if path.endswith("/"):
            folders.append((indent, line.split()[0]))
        paths.append(path)
    return paths


def test_readme_shows_files_that_are_there() -> None:
    assert not [path for path in tree_in_readme() if not (ROOT / path).exists()]


def test_readme_shows_every_file_of_the_package() -> None:
    names = [*PACKAGE.glob("*.py"), *(path.parent for path in PACKAGE.glob("*/__init__.py"))]
    expected = {f"src/decayfree/{path.name}{'/' if path.is_dir() else ''}" for path in names}
    assert not expected - set(tree_in_readme())
