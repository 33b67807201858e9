"""The table of methods: a method is one file, and a file is loaded when its method is asked for."""

import subprocess
import sys

import pytest
from typer.testing import CliRunner

import decayfree.methods
from decayfree.cli.app import app
from decayfree.methods import METHODS, Method
from decayfree.study import StudySpec

# In this order messages list them.
NAMES = [
    *("none", "weight_decay", "learning_rate_scaling", "exact_replay", "wrs", "turning", "projection"),
    *("weight_standardization", "weight_normalization", "hyperball", "rotational_equilibrium"),
]
SPEC = """
seeds = [0]
[[methods]]
name = "wrs"
[[methods]]
name = "none"
"""
NEW_METHOD = '''"""A method that somebody has just written."""

from dataclasses import dataclass
from typing import ClassVar

from decayfree.methods.method import Method


@dataclass(frozen=True)
class Frozen(Method):
    """Does nothing, with a setting."""

    name: ClassVar[str] = "frozen_norms"
    strength: float = 0.5

    @property
    def label(self) -> str:
        return f"frozen norms {self.strength:g}"
'''


def loaded_after(statement: str) -> set[str]:
    """The modules of the package that a fresh Python has loaded after a statement."""
    code = f"import sys\nsys.path.insert(0, {SRC!r})\n{statement}\nprint('MODULES', *sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    names = done.stdout.partition("MODULES\n")[2].split()
    return {name for name in names if name.split(".")[0] == "decayfree"}


SRC = str(next(iter(decayfree.methods.__path__)).rpartition("/decayfree/")[0])


@pytest.fixture
def new_method(tmp_path, monkeypatch):
    """The name of a method in a file that has just been dropped in."""
    (tmp_path / "frozen_norms.py").write_text(NEW_METHOD, encoding="utf-8")
    monkeypatch.setattr(decayfree.methods, "__path__", [*decayfree.methods.__path__, str(tmp_path)])
    yield "frozen_norms"
    sys.modules.pop("decayfree.methods.frozen_norms", None)


def test_methods_are_listed_in_their_order():
    assert list(METHODS) == NAMES
    assert len(METHODS) == len(NAMES)
    assert repr(METHODS) == f"METHODS({', '.join(NAMES)})"


@pytest.mark.parametrize("name", NAMES)
def test_a_method_is_in_the_file_of_its_name(name):
    assert issubclass(METHODS[name], Method)
    assert METHODS[name].name == name
    assert METHODS[name].__module__ == f"decayfree.methods.{name}"


@pytest.mark.parametrize("name", ["method", "table", "turned", "", None])
def test_what_is_no_method_is_not_in_the_table(name):
    assert name not in METHODS
    with pytest.raises(KeyError):
        METHODS[name]


def test_a_new_method_is_one_file(new_method):
    assert list(METHODS) == [*NAMES, new_method]
    spec = StudySpec.from_toml(
        f'seeds = [0]\n[[methods]]\nname = "{new_method}"\nstrength = [0.25, 1.0]\n'
        '[[methods]]\nname = "none"\n'
    )
    assert [method.label for method in spec.methods] == ["frozen norms 0.25", "frozen norms 1", "no decay"]
    assert StudySpec.from_toml(spec.to_toml()) == spec


def test_a_new_method_is_in_the_messages_and_commands(new_method, tmp_path):
    with pytest.raises(ValueError, match=f"rotational_equilibrium, {new_method}, .*; got 'wrong'"):
        StudySpec.from_toml('seeds = [0]\n[[methods]]\nname = "wrong"\n')
    study = tmp_path / "study"
    study.mkdir()
    spec = StudySpec.from_toml(f'seeds = [0]\n[[methods]]\nname = "{new_method}"\n')
    (study / "study.toml").write_text(spec.to_toml(), encoding="utf-8")
    shown = CliRunner().invoke(app, ["study", "list", str(study)], prog_name="decayfree")
    assert (shown.exit_code, "frozen norms 0.5" in shown.stdout) == (0, True), shown.output


def test_names_are_known_without_loading_a_method():
    loaded = loaded_after("from decayfree.methods.table import METHODS; list(METHODS); 'wrs' in METHODS")
    assert not loaded & {f"decayfree.methods.{name}" for name in NAMES}


def test_a_study_loads_the_methods_that_it_names_and_nothing_that_trains():
    loaded = loaded_after(
        f"from decayfree.study.spec.study_spec import StudySpec; StudySpec.from_toml({SPEC!r})"
    )
    known = {f"decayfree.methods.{name}" for name in NAMES}
    # Weight decay's is the one equilibrium that is drawn beside what was measured: study.optimizers knows it.
    assert loaded & known - {"decayfree.methods.weight_decay"} == {
        "decayfree.methods.wrs",
        "decayfree.methods.none",
    }


@pytest.mark.parametrize("name", NAMES)
def test_a_methods_settings_load_nothing_that_trains(name):
    loaded = loaded_after(f"from decayfree.methods.table import METHODS; METHODS[{name!r}]")
    trains = (
        "decayfree.rescaling",
        "decayfree.invariance",
        "decayfree.dynamics",
        "decayfree.methods.turned",
    )
    assert not [one for one in loaded if one.startswith(trains)]
