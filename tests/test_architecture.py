"""The house rules: who imports whom, what an import loads, what is documented, how long a file may be."""

import ast
import importlib
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

import decayfree

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "decayfree"
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

# From the ground up: what lies on one floor does not know each other, and imports from the floors below.
FLOORS: tuple[frozenset[str], ...] = (
    frozenset({"errors", "columns"}),
    frozenset({"shards", "display", "lazy_face"}),
    frozenset({"arguments"}),
    frozenset({"forward", "blocks", "equilibrium"}),
    frozenset({"invariance", "span", "optimizers"}),
    frozenset({"attachment", "step_counter"}),
    frozenset({"rescaling", "dynamics"}),
    frozenset({"conversion"}),
    frozenset({"methods"}),
    frozenset({"theory"}),
    frozenset({"study"}),
    frozenset({"report"}),
    frozenset({"integrations", "plots"}),
    frozenset({"cli"}),
    frozenset({"__main__"}),
)
# The same inside the two largest folders.
STUDY_FLOORS: tuple[frozenset[str], ...] = (
    frozenset({"own", "checked_settings", "disk"}),
    frozenset({"run_settings", "own_method"}),
    frozenset({"optimizers", "models", "data", "statistics"}),
    frozenset({"spec", "tasks"}),
    frozenset({"builtin", "files", "demo"}),
    frozenset({"training"}),
    frozenset({"runner"}),
    frozenset({"search"}),
)
REPORT_FLOORS: tuple[frozenset[str], ...] = (
    frozenset({"numbers"}),
    frozenset({"words", "frames"}),
    frozenset({"tables", "charts"}),
    frozenset({"pages"}),
    frozenset({"page", "written"}),
)
# What a reader of files needs of studies and recorders.
ONLY = {
    "report": (
        *("study.files", "study.spec", "study.run_settings", "study.optimizers", "study.statistics"),
        *("study.tasks.metric", "study.disk", "dynamics.samples", "errors", "arguments", "display.frame"),
    )
}
# Who calls a room above it, by its name, when somebody asks: a method of what lies below, for one line in a
# notebook.
WAYS_UP = {"study.files.results": "decayfree.report.frames"}
LONGEST_CHAIN = 20
# Statement -> at most so many of our modules are loaded after it.
LOADED_AT_MOST = {
    "import decayfree.report; decayfree.report.render": 94,
    "import decayfree.study.statistics; decayfree.study.statistics.mean_interval": 8,
}
MAX_FILES_AT_THE_TOP = 13
# What a unit may import besides torch and the standard library; the rest needs torch alone.
EXTRAS = {
    "rescaling.fused_holder": {"numba"},
    "dynamics.fused_rows": {"numba"},
    "dynamics.readings": {"numpy"},
    "dynamics.sinks": {"wandb", "mlflow"},
    "methods": {"adamp"},
    "study.data.annotated.yolo": {"yaml"},
    # Where Python has no tomllib yet.
    "study.spec.bounds": {"tomli"},
    "cli.named_models": {"tomli"},
    "study": {"sklearn", "scipy", "PIL", "numpy", "pytorch_optimizer", "optuna", "ray", "pycocotools"},
    "report": {"jinja2", "markupsafe"},
    "display.paper": {"matplotlib"},
    "display.frame": {"polars", "pandas"},
    "invariance.picture": {"matplotlib"},
    "invariance.result": {"matplotlib"},  # for type checkers
    "plots": {"matplotlib"},
    "integrations.flax": {"jax", "flax", "numpy"},
    "integrations.lightning": {"lightning"},
    "integrations.optax": {"jax", "optax", "numpy"},
    "integrations.transformers": {"transformers"},
    "integrations.tree_probe": {"jax", "numpy"},
    "cli": {"typer", "rich"},
}
MODULES = sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    """The dotted name of a file, without the package's own; empty for its face."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {name_of(path): path for path in MODULES}
FACES = {name for name, path in FILES.items() if path.name == "__init__.py"}
ROOMS = sorted(FILES.keys() - FACES)


def nodes_at_import(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those inside functions and under ``if TYPE_CHECKING``."""
    for node in ast.iter_child_nodes(tree):
        is_typing = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if not is_typing and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node
            yield from nodes_at_import(node)


@cache
def imports_of(name: str, *, at_import_only: bool = False) -> frozenset[str]:
    """The files of the package that one imports, what stands under ``TYPE_CHECKING`` counted."""
    tree = ast.parse(FILES[name].read_text(encoding="utf-8"))
    found = set()
    for node in nodes_at_import(tree) if at_import_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == "decayfree"}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports relatively"
            if str(node.module).split(".")[0] == "decayfree":
                whole = (f"{node.module}.{alias.name}" for alias in node.names)
                found |= {
                    one if one.removeprefix("decayfree.") in FILES else str(node.module) for one in whole
                }
    return frozenset(one.removeprefix("decayfree").removeprefix(".") for one in found)


def unit_in(folder: str, name: str) -> str:
    """The file or folder directly in ``folder`` that a file belongs to."""
    return name.removeprefix(f"{folder}." if folder else "").split(".")[0]


def floor_of(unit: str, floors: tuple[frozenset[str], ...]) -> int:
    for number, units in enumerate(floors):
        if unit in units:
            return number
    raise AssertionError(f"{unit} has no floor")


@pytest.mark.parametrize(
    ("folder", "floors"), [("", FLOORS), ("study", STUDY_FLOORS), ("report", REPORT_FLOORS)]
)
def test_a_folder_imports_only_folders_below_it(folder: str, floors: tuple[frozenset[str], ...]) -> None:
    inside = [name for name in ROOMS if name.startswith(f"{folder}.") or not folder]
    units = {unit_in(folder, name) for name in inside}
    assert units >= set().union(*floors), "a floor names what is not there"
    for name in inside:
        unit = unit_in(folder, name)
        for other in sorted(imports_of(name)):
            if (other.startswith(f"{folder}.") or not folder) and unit_in(folder, other) != unit:
                assert floor_of(unit_in(folder, other), floors) < floor_of(unit, floors), (
                    f"{name} must not import {other}"
                )


def test_the_page_knows_only_the_files_of_studies() -> None:
    for unit, allowed in ONLY.items():
        for name in ROOMS:
            if name.split(".")[0] == unit:
                others = [other for other in imports_of(name) if other.split(".")[0] != unit]
                assert not [other for other in others if not other.startswith(allowed)], name


@pytest.mark.parametrize("name", ROOMS)
def test_rooms_are_imported_never_faces(name: str) -> None:
    assert not imports_of(name) & FACES


@pytest.mark.parametrize("name", sorted(FACES))
def test_a_face_shows_what_type_checkers_see(name: str) -> None:
    """TYPE_CHECKING, __all__ and __getattr__ give the same names, each the very thing its room defines."""
    face = importlib.import_module(f"decayfree.{name}".rstrip("."))
    tree = ast.parse(FILES[name].read_text(encoding="utf-8"))
    shown = [
        (alias, str(node.module))
        for block in tree.body
        if isinstance(block, ast.If)
        for node in ast.walk(block)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    ]
    # "as" the same name is how type checkers are told that a name is public.
    assert not [alias.name for alias, _ in shown if alias.asname != alias.name]
    typed = {alias.name: room for alias, room in shown}
    assert list(typed) == list(getattr(face, "__all__", []))
    assert len(typed) == len(shown)
    for public, room in typed.items():
        assert getattr(face, public) is getattr(importlib.import_module(room), public)
    with pytest.raises(AttributeError, match="nothing_of_this_name"):
        _ = face.nothing_of_this_name


def test_no_files_import_each_other_in_a_circle() -> None:
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail[trail.index(name) :], name))
        if name not in done:
            for other in sorted(imports_of(name)):
                visit(other, (*trail, name))
            done.add(name)

    for name in sorted(FILES):
        visit(name, ())


def test_ways_up_are_few() -> None:
    named = re.compile(r"""import_module\(["'](decayfree\.[\w.]+)["']\)""")
    texts = {name: path.read_text(encoding="utf-8") for name, path in FILES.items() if name in ROOMS}
    assert {name: found[0] for name, text in texts.items() if (found := named.findall(text))} == WAYS_UP


def test_no_chain_of_imports_is_long() -> None:
    @cache
    def longest_from(name: str) -> tuple[str, ...]:
        # A face loads its rooms when somebody asks.
        others = () if name in FACES else imports_of(name, at_import_only=True)
        return (name, *max((longest_from(other) for other in others), key=len, default=()))

    longest = max((longest_from(name) for name in ROOMS), key=len)
    assert len(longest) <= LONGEST_CHAIN, " -> ".join(longest)


def test_few_files_lie_at_the_top() -> None:
    files = [path.name for path in PACKAGE.iterdir() if path.is_file()]
    assert len(files) <= MAX_FILES_AT_THE_TOP, sorted(files)


@pytest.mark.parametrize(("statement", "most"), LOADED_AT_MOST.items())
def test_an_import_loads_few_of_our_modules(statement: str, most: int) -> None:
    ours = {name for name in loaded_by(statement) if name.split(".")[0] == "decayfree"}
    assert len(ours) <= most, sorted(ours)


@pytest.mark.parametrize(
    "statement",
    [
        "import decayfree.report; decayfree.report.render",
        "from decayfree.study import StudySpec; StudySpec.from_toml('[[methods]]\\nname = \"wrs\"').runs()",
    ],
)
def test_reading_a_study_and_drawing_its_page_load_nothing_that_trains(statement: str) -> None:
    trains = ("training", "runner", "search", "data", "models")
    trains = (*(f"study.{unit}" for unit in trains), "theory", "cli")
    loaded = loaded_by(statement)
    assert "decayfree.study.spec.study_spec" in loaded
    assert not [name for name in loaded if name.startswith(tuple(f"decayfree.{unit}" for unit in trains))]


def test_help_is_told_without_torch() -> None:
    loaded = loaded_by(
        "import sys; sys.argv = ['decayfree', '--help']\n"
        "try:\n    from decayfree.__main__ import main; main()\nexcept SystemExit:\n    pass"
    )
    assert "decayfree.cli.app" in loaded
    assert "torch" not in loaded


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_packages_are_imported_where_they_belong(path: Path) -> None:
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)]
    name = name_of(path)
    allowed = {"torch", "decayfree"} | EXTRAS.get(name, set()) | EXTRAS.get(name.split(".")[0], set())
    allowed |= sys.stdlib_module_names
    assert not {name.partition(".")[0] for name in names} - allowed


def loaded_by(statement: str) -> set[str]:
    """Names of the modules that a fresh Python has loaded after a statement."""
    path = f"import sys; sys.path.insert(0, {str(PACKAGE.parent)!r})"
    code = f"{path}\n{statement}\nprint('MODULES', *sys.modules, sep='\\n')"
    result = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=120
    )
    return set(result.stdout.partition("MODULES\n")[2].split())


def test_importing_decayfree_loads_nothing_until_a_name_is_asked_for() -> None:
    assert "torch" not in loaded_by("import decayfree")


def test_the_public_names_load_torch_and_nothing_else() -> None:
    loaded = loaded_by("from decayfree import *")
    top = {name.partition(".")[0] for name in loaded - loaded_by("import torch")}
    assert "decayfree.blocks" in loaded
    assert top - sys.stdlib_module_names <= {"decayfree"}
    forbidden = ("study", "report", "methods", "cli", "integrations")
    assert not [name for name in loaded if name.startswith(tuple(f"decayfree.{unit}." for unit in forbidden))]


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
    """The docstring that was written for it: not inherited, and not the signature that dataclasses put."""
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


def test_no_docstring_or_page_names_a_file_that_is_not_there() -> None:
    folders = ("src", "tests", "benchmarks", "docs", "results", "examples")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    texts = {path: ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "" for path in files}
    texts |= {path: path.read_text(encoding="utf-8") for path in DOCUMENTS}
    known = {path.name for path in files}
    for page in DOCUMENTS:  # files of the reader's, which begin with their name
        known |= set(re.findall(r"^# ([a-z_]+\.py)$", page.read_text(encoding="utf-8"), re.MULTILINE))
    named = {
        (str(path.relative_to(ROOT)), name)
        for path, text in texts.items()
        for name in re.findall(r"(?<!\./)\b[a-z_]+\.py\b", text)
    }
    assert not {(path, name) for path, name in named if name not in known}


def test_a_page_shows_the_table_that_is_printed(seed: int) -> None:
    model = nn.Sequential(
        *(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Conv2d(16, 32, 3), nn.GroupNorm(4, 32), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)),
    )
    printed = repr(decayfree.find_invariant(model, torch.randn(8, 3, 32, 32)))
    page = (ROOT / "docs" / "which-weights.md").read_text(encoding="utf-8")
    shown = re.search(r"<!-- table -->\n```text\n(.*?)\n```\n<!-- /table -->", page, re.DOTALL)
    assert shown

    def without_rounding(text: str) -> str:
        return re.sub(r"\b\de-\d\d\b|by [\d.]+ of", "#", text)

    assert without_rounding(shown.group(1)) == without_rounding(printed)


def tree_of_files() -> list[str]:
    """The paths of the tree in CONTRIBUTING.md: what stands before a comment, below its folder."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    block = re.search(r"## The files\n.*?```text\n(.*?)```", text, re.DOTALL)
    assert block, "CONTRIBUTING.md has no file tree under the heading 'The files'"
    paths: list[str] = []
    folders: list[tuple[int, str]] = []
    for line in block.group(1).splitlines():
        if not line.strip():
            continue
        indent = len(line) - len(line.lstrip())
        while folders and folders[-1][0] >= indent:
            folders.pop()
        path = "".join(name for _, name in folders) + line.split()[0]
        assert path.endswith("/"), f"the tree lists folders, not files: {path}"
        folders.append((indent, line.split()[0]))
        paths.append(path)
    return paths


def test_the_tree_shows_folders_that_are_there() -> None:
    assert not [path for path in tree_of_files() if not (ROOT / path).exists()]


def test_the_tree_shows_every_folder_of_the_package() -> None:
    expected = {f"src/decayfree/{path.parent.name}/" for path in PACKAGE.glob("*/__init__.py")}
    assert not expected - set(tree_of_files())
