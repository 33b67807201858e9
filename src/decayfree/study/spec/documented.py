"""What do the settings of a dataclass mean? The text below a field, as the source has it."""

import ast
import inspect
import re
import textwrap
from functools import lru_cache
from itertools import pairwise


@lru_cache
def documented(cls: type) -> dict[str, str]:
    """The text below each field that has one, by name, on one line; those of the classes above included.

    Example:
        >>> from decayfree.study.run_settings import ModelSpec
        >>> documented(ModelSpec)["batch_norm"]
        'frozen: BatchNorms of the backbone stay in eval mode, their gains and biases as they are.'
    """
    told: dict[str, str] = {}
    for one in reversed(cls.__mro__[:-1]):
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(one)))
        except (OSError, TypeError):  # made at run time
            continue
        body = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else []
        for field, text in pairwise(body):
            match field, text:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(said))):
                    told[name] = _plain(said)
    return told


def _plain(text: str) -> str:
    """On one line, without the marks of code."""
    return re.sub(r"`+", "", " ".join(text.split()))
