"""What is a figure drawn from: a study, what a recorder saw, or a file or folder of one of these?"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from decayfree.dynamics.recorder import Recorder
from decayfree.dynamics.samples import Sample, read_jsonl
from decayfree.errors import InvalidInputError, choice_faults, faults_of, raise_all
from decayfree.report.numbers.groups import Group, StudyGroups
from decayfree.study.files.results import Study, read_study

Source: TypeAlias = "Study | Recorder | str | os.PathLike[str]"
"""A study, a recorder that writes a file, a study's folder, or a recorder's file."""


def read(source: Source) -> Study | Sequence[Sample]:
    """A study, or samples.

    Raises:
        InvalidInputError: If it is neither, or there is no sample.
        ResultError: If there is no study in a folder, or its files are damaged.
    """
    if isinstance(source, Study):
        return source
    if isinstance(source, str | os.PathLike):
        if Path(source).is_dir():
            return read_study(Path(source))
        samples = read_jsonl(source)
    elif isinstance(source, Recorder):
        samples = source.samples()
    else:
        raise InvalidInputError(
            "a figure is drawn from a study, a Recorder, a study's folder or a recorder's file, got "
            f"{source!r:.60}"
        )
    if not samples:
        raise InvalidInputError(f"{source!r:.60} holds no sample: there is nothing to draw")
    return samples


def study_of(source: Source) -> Study:
    """A study, and nothing else.

    Raises:
        InvalidInputError: If it is what a recorder saw.
        ResultError: As `read`.
    """
    found = read(source)
    if not isinstance(found, Study):
        raise InvalidInputError(f"this figure needs a study or its folder, got {source!r:.60}")
    return found


def groups_of(numbers: StudyGroups, group: str | None, at_most: int = 12) -> tuple[Group, ...]:
    """The groups to draw: all, or the one that is called so on the page.

    Raises:
        InvalidInputError: If none is called so, or there are too many for one figure; names them.
    """
    labels = [one.label for one in numbers.groups]
    if group is not None:
        raise_all(faults_of(InvalidInputError, choice_faults("group", group, labels)))
    elif len(labels) > at_most:
        named = ", ".join(map(repr, labels))
        raise InvalidInputError(f"{len(labels)} groups are too many for a figure: choose group= from {named}")
    return tuple(one for one in numbers.groups if group in (None, one.label))
