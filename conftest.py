"""What every test and doctest shares: one seed, and property tests that draw the same cases on every run.

No helper is here; tests import those by name from tests/support.
"""

import importlib
import random
from pathlib import Path

import pytest
import torch
from hypothesis import settings

# Same cases everywhere, no deadline (a shared machine is slow at times), no file left behind.
settings.register_profile("decayfree", derandomize=True, deadline=None, database=None)
settings.load_profile("decayfree")


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """No examples are tried of frameworks that do not import; tests/integrations says why they do not."""
    if collection_path.match("src/decayfree/integrations/*.py"):
        try:
            importlib.import_module(
                f"decayfree.integrations.{collection_path.stem}".removesuffix(".__init__")
            )
        except (ImportError, RuntimeError, OSError, AttributeError):
            return True
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Nobody else asks whether there is a GPU: tests that want one are marked."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a GPU that torch sees"))


@pytest.fixture
def seed() -> int:
    """The seed of the test; torch's and Python's global generators start from it."""
    seed = 20210206
    torch.manual_seed(seed)
    random.seed(seed)
    return seed


@pytest.fixture(autouse=True)
def _no_search_for_averages(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Averages are looked for among all objects of the process, 0.1 s each time: in their own tests only."""
    if "copies" not in request.node.nodeid:
        monkeypatch.setattr("decayfree.rescaling.copies.averages_of", lambda model: [])


@pytest.fixture(autouse=True)
def _seeded_examples(request: pytest.FixtureRequest) -> None:
    """Examples in docstrings draw the same numbers every time, and do not have to say so."""
    if isinstance(request.node, pytest.DoctestItem):
        request.getfixturevalue("seed")
