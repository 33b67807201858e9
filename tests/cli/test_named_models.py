"""Models by name and inputs by shape, and one clear error for every name that leads nowhere.

The table that is printed is tested in `test_cli`.
"""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from decayfree.cli.named_models import build_named, random_input
from decayfree.errors import InvalidInputError, MissingExtraError
from support.available import import_or_skip

SOURCE = """
from torch import nn

def net():
    return nn.Linear(3, 2)

def fails():
    raise TypeError("three things are missing")

def returns_a_number():
    return 3

ready = nn.Linear(2, 1).eval()
number = 3
"""


WIDE = """
from torch import nn

def net(width, bias=True, sides=()):
    made = nn.Linear(width, 2, bias=bias)
    made.sides = sides
    return made
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry != ""])
    for name in ("named_by_a_test", "broken_by_a_test", "needs_by_a_test"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    (tmp_path / "named_by_a_test.py").write_text(SOURCE, encoding="utf-8")
    (tmp_path / "broken_by_a_test.py").write_text("1 / 0\n", encoding="utf-8")
    (tmp_path / "needs_by_a_test.py").write_text("import no_such_package\n", encoding="utf-8")
    return tmp_path


def test_a_factory_in_the_current_directory_is_called_with_a_seed(here: Path) -> None:
    state = torch.get_rng_state()
    first, second = (build_named("named_by_a_test:net", seed=3) for _ in range(2))
    other = build_named("named_by_a_test:net", seed=4)
    assert isinstance(first, nn.Linear)
    assert torch.equal(first.weight, second.weight)
    assert not torch.equal(first.weight, other.weight)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_ready_model_is_put_in_train_mode(here: Path) -> None:
    assert build_named("named_by_a_test:ready").training


def test_arguments_are_typed_as_toml_has_them(here: Path) -> None:
    (here / "wide.py").write_text(WIDE, encoding="utf-8")
    model = build_named("./wide.py:net", args=["width=8", "bias=false", "sides=[1, 2]"])
    assert isinstance(model, nn.Linear)
    assert (model.in_features, model.bias, model.sides) == (8, None, (1, 2))
    assert (
        repr(build_named("wide:net", args=["width=3"])) == "Linear(in_features=3, out_features=2, bias=True)"
    )


@pytest.mark.parametrize(
    "text", ["width", "width=", "width=relu", "=8", "a b=8", "width=8\nb=3", "width=2020-01-01"]
)
def test_an_argument_that_is_none_is_said(here: Path, text: str) -> None:
    with pytest.raises(
        InvalidInputError, match=r"--arg .*: expected NAME=VALUE with a value as TOML has it"
    ) as told:
        build_named("named_by_a_test:net", args=["w", text])
    assert str(told.value).count("--arg ") == 2


def test_a_library_gets_arguments() -> None:
    import_or_skip("timm")
    model = build_named("timm:vit_tiny_patch16_224", args=["img_size=64", "depth=1"])
    assert model.pos_embed.shape[1] == 17  # 4 × 4 patches and the class
    with pytest.raises(InvalidInputError, match="could not be built: TypeError"):
        build_named("timm:resnet10t", args=["no_such_argument=1"])


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "resnet18",
            r"expected torchvision:NAME, timm:NAME, smp:NAME, package\.module:NAME or \./file\.py:NAME, "
            "got 'resnet18'",
        ),
        (":net", "expected torchvision:NAME"),
        ("torchvison:resnet18", "there is no library 'torchvison'; did you mean torchvision"),
        ("named_by_a_test:", "expected torchvision:NAME"),
        ("named_by_a_test:nets", r"named_by_a_test:nets: there is no 'nets'; did you mean net\?"),
        ("named_by_a_test:number", "expected a class or a function that gives a torch.nn.Module, got 3"),
        ("named_by_a_test:fails", "named_by_a_test:fails raised TypeError: three things are missing"),
        ("named_by_a_test:returns_a_number", r"expected to give a torch\.nn\.Module, got int"),
        ("no_such_module:net", "no module named 'no_such_module'.*looked in"),
        ("broken_by_a_test:net", "broken_by_a_test:net cannot be imported: ZeroDivisionError"),
        ("needs_by_a_test:net", "no module named 'no_such_package'"),
    ],
)
def test_a_name_that_leads_nowhere_is_refused(here: Path, name: str, said: str) -> None:
    with pytest.raises(InvalidInputError, match=said):
        build_named(name)


@pytest.mark.parametrize("package", ["torchvision", "timm"])
def test_a_package_that_is_not_installed_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    for name in (package, f"{package}.models"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(
        MissingExtraError, match=rf"{package} cannot be imported.*pip install 'decayfree\[models\]'"
    ):
        build_named(f"{package}:resnet18")


@pytest.mark.parametrize(("package", "source"), [("torchvision.models", "torchvision"), ("timm", "timm")])
def test_an_unknown_model_is_answered_with_its_likes(package: str, source: str) -> None:
    import_or_skip(package)
    with pytest.raises(InvalidInputError, match=rf"{source} has no model 'resnet19'; did you mean resnet\d+"):
        build_named(f"{source}:resnet19")


@pytest.mark.parametrize("name", ["resnet18", "deeplabv3_mobilenet_v3_large"])
def test_a_torchvision_model_is_built_without_a_download(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import_or_skip("torchvision.models")

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("a download was tried")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", refuse)
    monkeypatch.setattr("torchvision._internally_replaced_utils.load_state_dict_from_url", refuse)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    assert build_named(f"torchvision:{name}").training


def test_a_timm_model_is_built() -> None:
    import_or_skip("timm")
    assert sum(parameter.numel() for parameter in build_named("timm:resnet10t").parameters()) > 1e6


def test_a_random_input_has_its_shape_and_kind() -> None:
    state = torch.get_rng_state()
    image, again = random_input("4,3,8,8", seed=1), random_input("4, 3, 8, 8", seed=1)
    assert (image.shape, image.dtype) == ((4, 3, 8, 8), torch.float32)
    assert torch.equal(image, again)
    assert not torch.equal(image, random_input("4,3,8,8", seed=2))
    tokens = random_input("64,16", n_tokens=5)
    assert tokens.dtype == torch.int64
    assert set(tokens.unique().tolist()) == {0, 1, 2, 3, 4}
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("shape", ["", "4,,3", "4,x", "4,0", "-1", "4.5"])
def test_a_text_that_is_no_shape_is_refused(shape: str) -> None:
    with pytest.raises(InvalidInputError, match="expected a shape such as 4,3,64,64"):
        random_input(shape)
