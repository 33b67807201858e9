"""Is a package there? One that does not import skips the tests that need it, with the reason.

No package is named here, and none is installed.
"""

import importlib
import warnings
from types import ModuleType

import pytest


def import_or_skip(name: str) -> ModuleType:
    """Import a package or skip: torchvision beside a torch of another build raises more than ImportError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(name)
    except (ImportError, RuntimeError, OSError, AttributeError) as error:
        pytest.skip(f"{name} does not import here: {error}", allow_module_level=True)
