"""Something of the user's own by its address: found, called, and its source told; what is wrong is said."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from decayfree.arguments.address import Address, Args, looking_in
from decayfree.errors import InvalidInputError

SOURCE = """
from beside_an_address import WIDTH

class Box:
    def __init__(self, n_classes, width=WIDTH):
        self.width, self.n_classes = width, n_classes

    @classmethod
    def small(cls):
        return cls(2, 1)

def fails(n_classes):
    raise KeyError("three")

number = 3
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "beside_an_address", raising=False)
    (tmp_path / "mine.py").write_text(SOURCE, encoding="utf-8")
    (tmp_path / "beside_an_address.py").write_text("WIDTH = 8\n", encoding="utf-8")
    (tmp_path / "broken.py").write_text("1 / 0\n", encoding="utf-8")
    (tmp_path / "needs.py").write_text("import no_such_package\n", encoding="utf-8")
    return tmp_path


def made(text: str, folder: Path, **args: object) -> object:
    with looking_in(folder):
        address = Address(text)
        return address.call(args=args, also={"n_classes": 4}, gives=object, said="a thing")


def test_a_class_in_a_file_is_called_with_what_it_takes(folder: Path) -> None:
    box = made("./mine.py:Box", folder, width=3)
    assert (box.width, box.n_classes) == (3, 4)  # type: ignore[attr-defined]
    assert made("./mine.py:Box.small", folder).width == 1  # type: ignore[attr-defined]


def test_what_lies_beside_can_be_imported_and_named(folder: Path) -> None:
    assert made("./mine.py:Box", folder).width == 8  # type: ignore[attr-defined]
    with looking_in(folder):
        assert Address("beside_an_address:WIDTH").thing() == 8


def test_a_file_that_changed_is_another_module_but_not_where_it_is_in_use(folder: Path) -> None:
    with looking_in(folder):
        before = Address("./mine.py:Box").thing()
        (folder / "beside_an_address.py").write_text("WIDTH = 16\n", encoding="utf-8")
        assert Address("./mine.py:Box").thing() is before
    assert made("./mine.py:Box", folder).width == 16  # type: ignore[attr-defined]
    with looking_in(folder):
        assert Address("beside_an_address:WIDTH").thing() == 16


@pytest.mark.parametrize(
    ("text", "args", "said"),
    [
        ("./none.py:Box", {}, r"\./none\.py:Box: there is no file .*none\.py"),
        ("./mine.py:Bok", {}, r"\./mine\.py:Bok: there is no 'Bok'; did you mean Box\?"),
        ("./mine.py:number", {}, "expected a class or a function that gives a thing, got 3"),
        (
            "./mine.py:Box",
            {"wdth": 3},
            r"called as Box\(n_classes=4, wdth=3\), got one that takes \(n_classes, wid",
        ),
        ("./mine.py:fails", {}, r"\./mine\.py:fails raised KeyError: 'three'"),
        ("./broken.py:Box", {}, r"\./broken\.py:Box cannot be imported: ZeroDivisionError"),
        ("./needs.py:Box", {}, "no module named 'no_such_package'"),
        ("no_such_package:Box", {}, "no module named 'no_such_package' .looked in"),
        ("mine.py:Box", {}, r"; a file is \./mine\.py:Box"),
    ],
)
def test_what_leads_nowhere_is_said(folder: Path, text: str, args: dict[str, object], said: str) -> None:
    with pytest.raises(InvalidInputError, match=said):
        made(text, folder, **args)


def test_another_kind_than_asked_for_is_refused(folder: Path) -> None:
    with looking_in(folder), pytest.raises(InvalidInputError, match="expected to give a number, got Box"):
        Address("./mine.py:Box").call(2, args={}, gives=int, said="a number")


@pytest.mark.parametrize(
    "text", ["Box", "./mine.py", "./a/../mine.py:Box", "../mine.py:Box", "/mine.py:Box", "a:1"]
)
def test_other_texts_are_no_addresses(text: str) -> None:
    assert Address.taken(text) == text
    assert not isinstance(Address.taken(text), Address)
    with pytest.raises(InvalidInputError, match=r"expected package\.module:NAME or \./file\.py:NAME, got"):
        Address(text)


@pytest.mark.parametrize("text", ["./a/../mine.py:Box", "../mine.py:Box", "/mine.py:Box", "~/mine.py:Box"])
def test_a_file_elsewhere_is_told_where_files_are_looked_for(text: str) -> None:
    with pytest.raises(InvalidInputError, match="looked for in the current folder and below it"):
        Address(text)


def test_a_class_or_function_is_taken_by_its_name() -> None:
    assert Address.taken(Path) == f"{Path.__module__}:Path"
    assert Address.taken(made) == f"{__name__}:made"
    with pytest.raises(InvalidInputError, match="has no name that other processes could import it by"):
        Address.taken(lambda: 3)


def test_what_is_in_a_script_is_taken_by_its_file(tmp_path: Path) -> None:
    text = "from decayfree.arguments.address import Address\ndef f(): pass\nprint(Address.taken(f))\n"
    (tmp_path / "script.py").write_text(text, encoding="utf-8")
    command = [sys.executable, "script.py"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout == "./script.py:f\n"
    command = [sys.executable, "-c", text]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert "f is defined where other processes cannot import it: put it into a file" in run.stderr


def test_a_source_is_told_without_running_it(folder: Path) -> None:
    broken, several = folder / "broken.py", ("beside_an_address.py", "mine.py")
    with looking_in(folder):
        alone, both = Address("./broken.py:Box").source(), Address("./mine.py:Box").source()
        missing = Address("./none.py:Box").source()
        installed = Address("torch.optim:SGD").source()
    assert alone.sha256 == hashlib.sha256(broken.read_bytes()).hexdigest()
    command = ["sha256sum", *several]
    printed = subprocess.run(command, cwd=folder, capture_output=True, check=True, timeout=60).stdout
    assert both.sha256 == hashlib.sha256(printed).hexdigest()
    assert tuple(both.files) == several
    assert (missing.sha256, missing.version) == ("", "")
    assert installed.version.startswith("torch 2.")
    assert not installed.files


def test_relative_imports_are_of_the_source_and_packages_around_it_are_not_run(folder: Path) -> None:
    package = folder / "nets"
    package.mkdir()
    (package / "__init__.py").write_text("1 / 0\n", encoding="utf-8")
    (package / "net.py").write_text("from .parts import part\n", encoding="utf-8")
    (package / "parts.py").write_text("part = 1\n", encoding="utf-8")
    with looking_in(folder):
        assert list(Address("nets.net:Net").source().files) == [
            "nets/__init__.py",
            "nets/net.py",
            "nets/parts.py",
        ]


def test_arguments_can_be_hashed_and_are_what_a_file_can_say() -> None:
    args = Args.of({"width": 8, "sides": [3, [4]], "inner": {"a": True}})
    assert hash(args) == hash(Args.of({"width": 8, "sides": (3, (4,)), "inner": {"a": True}}))
    assert args.to_dict() == {"width": 8, "sides": (3, (4,)), "inner": {"a": True}}
    assert Address("./a.py:Net").label(args) == "a.py:Net, width 8, sides (3, (4,)), inner {'a': True}"
    with pytest.raises(
        InvalidInputError, match=r"name: expected a number, a text, true or false, .* got None"
    ):
        Args.of({"name": None})
