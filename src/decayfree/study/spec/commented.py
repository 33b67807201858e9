"""A study as a file to begin from: what was chosen stands there, everything else behind a # with its default.

Chooses nothing itself.
"""

import dataclasses
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from decayfree.arguments.address import Args
from decayfree.methods.method import Method
from decayfree.study.own_method import OwnMethod
from decayfree.study.run_settings import plain
from decayfree.study.spec.documented import documented
from decayfree.study.spec.rounds import Extension
from decayfree.study.spec.study_spec import StudySpec
from decayfree.study.spec.toml import is_table, to_toml

_ALWAYS = frozenset(
    ("task", "name", "learning_rate", "n_epochs", "batch_size", "n_train", "n_validation", "n_test")
)
"""What everybody chooses."""
_RULES = """\
# To choose a learning rate for each method, by images that are neither trained on nor tested with
# (n_validation above): a grid, the rule by which it grows while its best value is at an edge, and new seeds
# to confirm what was chosen (confirm_seeds, at the top).
#
# [[axes]]
# path = "learning_rate"
# values = {rates}
#
# [[extend]]
# path = "learning_rate"
# factor = {factor}
# at_most = {at_most}
#
# An axis may be any setting of the recipe, with its dotted name: "model.name", "optimizer.name",
# "data.label_noise". What differs in some of the runs, or that they are left out:
#
# [[overrides]]
# when = {{"method.name" = "wrs"}}
# set = {{n_epochs = 10}}
"""


def commented(spec: StudySpec, *, schema: str = "") -> str:
    """The text of a file for this study, whose axes and rules are left out.

    Args:
        spec: A study.
        schema: Where editors find the schema of the file, seen from there.
    """
    recipe, first = spec.recipe, f"#:schema {schema}\n" if schema else ""
    lines = [
        "# A study of decayfree. Behind a # are the settings that have their default, and what they mean.",
        f"title = {to_toml(spec.title)}",
        f"question = {to_toml(spec.question)}",
        *_settings(
            {"seeds": spec.seeds, "confirm_seeds": spec.confirm_seeds, "data_dir": spec.data_dir or ""},
            {"confirm_seeds": (), "data_dir": ""},
            documented(StudySpec),
        ),
        *_tables("recipe", recipe),
        "",
        "# What is compared: settings that are lists make a method for each of their values.",
    ]
    for method in spec.methods:
        lines += ["[[methods]]", f"name = {to_toml(method.name)}", *_of_method(method), ""]
    rates = [recipe.learning_rate * 2.0**power for power in (-2, -1, 0, 1, 2)]
    defaults = _defaults(Extension)
    rules = _RULES.format(rates=to_toml(rates), factor=defaults["factor"], at_most=defaults["at_most"])
    return first + "\n".join(lines) + "\n" + rules


def _tables(name: str, settings: Any) -> Iterator[str]:
    """The lines of a table and of those within."""
    cls: type = type(settings)
    hints = typing.get_type_hints(cls)
    within = [entry.name for entry in dataclasses.fields(settings) if is_table(hints[entry.name])]
    values = {key: value for key, value in plain(settings).items() if key not in within}
    yield from ("", f"[{name}]")
    yield from _settings(values, _defaults(cls), documented(cls))
    for key in within:
        yield from _tables(f"{name}.{key}", getattr(settings, key))


def _of_method(method: Method) -> Iterable[str]:
    if isinstance(method, OwnMethod):
        return [f"args = {to_toml(method.args)}"]
    return _settings(plain(method), _defaults(type(method)), {})


def _settings(
    values: Mapping[str, Any], defaults: Mapping[str, Any], told: Mapping[str, str]
) -> Iterator[str]:
    """A line a setting, with what it means behind it."""
    for key, value in values.items():
        is_quiet = key not in _ALWAYS and defaults.get(key, ...) == value
        line = f"{'# ' if is_quiet else ''}{key} = {to_toml(value)}"
        yield f"{line:<31} # {told[key].partition('. ')[0].rstrip('.')}" if told.get(key) else line


def _defaults(cls: type) -> dict[str, Any]:
    """As `plain` has them."""
    fields = [entry for entry in dataclasses.fields(cls) if entry.default is not dataclasses.MISSING]
    defaults = {entry.name: entry.default for entry in fields}
    return {key: one.to_dict() if isinstance(one, Args) else one for key, one in defaults.items()}
