"""What can a word on the command line become, for shells that complete it?

Names only; what is heavy to import is imported when a shell asks.
"""

from collections.abc import Iterable
from glob import escape
from pathlib import Path


def studies_named(incomplete: str) -> list[str]:
    """Built-in studies, and files and folders that may hold one."""
    from decayfree.study.builtin.specs import BUILTIN

    paths = Path().glob(f"{escape(incomplete)}*") if not incomplete.startswith(("/", "~")) else []
    files = [f"{path}/" if path.is_dir() else str(path) for path in paths]
    return [*_beginning(incomplete, BUILTIN), *(one for one in files if one.endswith(("/", ".toml")))]


def methods_named(incomplete: str) -> list[str]:
    """Methods of studies."""
    from decayfree.methods.table import METHODS

    return _beginning(incomplete, METHODS)


def tasks_named(incomplete: str) -> list[str]:
    """Tasks of studies."""
    from decayfree.study.run_settings import DATA_OF_TASK

    return _beginning(incomplete, DATA_OF_TASK)


def data_named(incomplete: str) -> list[str]:
    """Data of all tasks."""
    from decayfree.study.run_settings import DATA_OF_TASK

    return _beginning(incomplete, dict.fromkeys(one for names in DATA_OF_TASK.values() for one in names))


def models_named(incomplete: str) -> list[str]:
    """Networks of our own, for all tasks."""
    from decayfree.study.run_settings import OWN_MODELS

    return _beginning(incomplete, OWN_MODELS)


def optimizers_named(incomplete: str) -> list[str]:
    """Optimizers of studies."""
    from decayfree.optimizers import in_studies

    return _beginning(incomplete, in_studies())


def _beginning(incomplete: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]
