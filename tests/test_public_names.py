"""One public name is one thing, wherever it is shown."""

import importlib
from pathlib import Path

import decayfree

ROOT = Path(str(decayfree.__file__)).parent


def test_a_public_name_is_one_thing_across_the_faces() -> None:
    things: dict[str, object] = {}
    for path in sorted(ROOT.rglob("__init__.py")):
        face = importlib.import_module(".".join(["decayfree", *path.parent.relative_to(ROOT).parts]))
        for name in getattr(face, "__all__", []):
            thing = getattr(face, name)
            assert things.setdefault(name, thing) is thing, f"{face.__name__} shows another {name}"
    assert "FixedNormRecipe" in things
    assert "DecayCase" in things
