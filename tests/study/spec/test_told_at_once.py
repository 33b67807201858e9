"""Every fault of a spec is told at once, whatever else is wrong with it, and nothing that is not so."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decayfree.study import SpecError, StudySpec
from decayfree.study.spec.told import Fault

SOUND = """
title = "Study"
seeds = [0, 1]
[recipe]
batch_size = 16
[recipe.data]
n_train = 64
[[methods]]
name = "none"
[[methods]]
name = "wrs"
[[methods]]
name = "projection"
[[axes]]
path = "n_epochs"
values = [1, 2]
[[overrides]]
when = {"method.name" = "none"}
set = {label_smoothing = 0.1}
"""

# What a line of the sound spec is replaced with -> the beginnings of the faults that are told for it.
CHANGES = {
    ('title = "Study"', "title = 3"): ["title: expected a text, got 3"],
    ('title = "Study"', 'titel = "Study"'): ["titel: no such key; known keys: methods, "],
    ("seeds = [0, 1]", "seeds = [0, 0]"): ["seeds: expected each once, got [0, 0]"],
    ("seeds = [0, 1]", 'seeds = "x"'): ["seeds: expected a list of whole numbers, got 'x'"],
    ("seeds = [0, 1]", "seeds = []"): ["seeds: expected at least one"],
    ("batch_size = 16", 'batch_size = "x"'): ["recipe.batch_size: expected a whole number, got 'x'"],
    ("batch_size = 16", "batch_size = 65"): [
        "recipe.batch_size: expected at most the 64 training images, got 65"
    ],
    ("batch_size = 16", "batch_sise = 16"): ["recipe.batch_sise: no such key; known keys: task, "],
    ("[recipe.data]", "learning_rate = -1\n[recipe.data]"): [
        "recipe.learning_rate: expected a finite number above 0, got -1.0"
    ],
    ("[recipe.data]", '[recipe.model]\nname = "vgg4bn"\nwidth_factor = 0\n[recipe.data]'): [
        "recipe.model.name: expected one of vgg4-bn, ",
        "recipe.model.width_factor: expected a finite number above 0, got 0.0",
    ],
    ("[recipe.data]", '[recipe.optimizer]\nname = "lions"\nbeta1 = 2\n[recipe.data]'): [
        "recipe.optimizer.name: expected one of sgd, ",
        "recipe.optimizer.beta1: expected at least 0 and below 1, got 2.0",
    ],
    ("[recipe.data]", '[recipe.data]\nname = "cifar11"\ncutout = -2'): [
        "recipe.data.name: expected one of digits, ",
        "recipe.data.cutout: expected at least 0, got -2",
    ],
    ('name = "none"', 'name = "non"'): ["methods[0].name: expected one of none, "],
    ('name = "wrs"', 'name = "wrs"\nradius = -1\nevry = 2'): [
        "methods[1].evry: no such key; known keys: radius, every, ",
        "methods[1].radius must be a finite number above 0, got -1.0",
    ],
    ('name = "wrs"', 'name = "wrs"\nradius = "a, got b"\nevery = 0'): [
        "methods[1].radius: expected a number or 'init', got 'a, got b'",
        "methods[1].every must be a whole number of at least 1, got 0",
    ],
    ('name = "projection"', 'name = "projection"\ndelta = -1\nwd_ratio = "x"'): [
        "methods[2].delta must be a finite number from 0, got -1.0",
        "methods[2].wd_ratio: expected a number, got 'x'",
    ],
    ("values = [1, 2]", 'values = [1, 2]\n[[axes]]\npath = "n_epoch"\nvalues = [1]'): [
        "axes[1].path: n_epoch: no such setting of the recipe; known are "
    ],
    ("values = [1, 2]", "values = [1, 2.5, 0]"): [
        "axes[0].values: expected a whole number, got 2.5",
        "recipe.n_epochs: expected at least 1, got 0",
    ],
    ("values = [1, 2]", 'values = [1, 2]\n[[axes]]\npath = "n_warmup_epochs"\nvalues = ["x"]'): [
        "axes[1].values: expected a number, got 'x'"
    ],
    ('"method.name" = "none"', '"method.nam" = "none"'): [
        "overrides[0].when: method.nam: no such setting of a method; known are "
    ],
    ("label_smoothing = 0.1", "label_smoothing = 2"): [
        "recipe.label_smoothing: expected at least 0 and below 1, got 2.0"
    ],
    ("label_smoothing = 0.1", 'label_smoothing = "x", rest_weight_decay = -1'): [
        "overrides[0].set.label_smoothing: expected a number, got 'x'",
        "recipe.rest_weight_decay: expected a finite number from 0, got -1.0",
    ],
}
MEANT = {
    'titel = "Study"': "title",
    "batch_sise = 16": "batch_size",
    '[recipe.model]\nname = "vgg4bn"\nwidth_factor = 0\n[recipe.data]': "vgg4-bn",
    '[recipe.optimizer]\nname = "lions"\nbeta1 = 2\n[recipe.data]': "lion",
    '[recipe.data]\nname = "cifar11"\ncutout = -2': "cifar10",
    'name = "non"': "none",
    'name = "wrs"\nradius = -1\nevry = 2': "every",
    'values = [1, 2]\n[[axes]]\npath = "n_epoch"\nvalues = [1]': "n_epochs",
}


def told(text: str) -> list[str]:
    with pytest.raises(SpecError) as caught:
        StudySpec.from_toml(text)
    first, *lines = str(caught.value).splitlines()
    assert int(first.split()[0]) == len(lines)
    return [line.strip() for line in lines]


def without_counts(line: str) -> str:
    """How many runs have a fault is not known where some could not be read."""
    return re.sub(r" \(in .* runs\)$", "", line)


def test_the_spec_that_is_broken_here_is_sound():
    assert len(StudySpec.from_toml(SOUND).runs()) == 12


@pytest.mark.parametrize(("change", "expected"), CHANGES.items(), ids=[new for _, new in CHANGES])
def test_each_fault_is_told_and_nothing_else(change, expected):
    lines = told(SOUND.replace(*change))
    assert len(lines) == len(expected)
    for beginning in expected:
        assert [line for line in lines if line.startswith(beginning)], (beginning, lines)


@pytest.mark.parametrize(("change", "meant"), MEANT.items())
def test_what_may_have_been_meant_is_told(change, meant):
    (old,) = [old for old, new in CHANGES if new == change]
    assert any(f"; did you mean {meant}" in line for line in told(SOUND.replace(old, change)))


@given(chosen=st.sets(st.sampled_from(sorted(CHANGES)), min_size=1))
def test_a_fault_that_is_told_alone_is_told_among_others(chosen):
    one_each = dict(sorted(chosen))
    text = SOUND
    for old, new in one_each.items():
        text = text.replace(old, new)
    lines = {without_counts(line) for line in told(text)}
    alone = {without_counts(line) for old, new in one_each.items() for line in told(SOUND.replace(old, new))}
    assert lines == alone


def test_an_override_that_fits_no_run_is_told_with_what_it_sets_and_what_may_have_been_meant():
    text = SOUND.replace('= "none"}', '= "non"}').replace("label_smoothing = 0.1", "label_smoothing = 2")
    assert told(text) == [
        'overrides[0].when: fits no run: {"method.name" = "non"}; did you mean none?',
        "recipe.label_smoothing: expected at least 0 and below 1, got 2.0",
    ]


def test_a_fault_of_a_method_beside_an_optimizer_is_told_among_others():
    text = SOUND.replace("[recipe.data]", '[recipe.optimizer]\nname = "lion"\n[recipe.data]')
    assert [line for line in told(text) if "only, not with lion" in line]
    broken = text.replace("seeds = [0, 1]", "seeds = 3").replace("values = [1, 2]", 'values = [1, "x"]')
    assert [line for line in told(broken) if "only, not with lion" in line]


@pytest.mark.parametrize(
    ("changes", "claim"),
    [
        # The batch is 64 by default, and 65 images are there by nobody's word.
        ([("batch_size = 16", "batch_size = 65"), ("n_train = 64", 'n_train = "x"')], "training images"),
        # Whether it fits is not known.
        ([('"method.name"', '"batch_size"'), ('"none"}', "32}"), ("= 16", "= 1.5")], "fits no run"),
        ([('name = "wrs"', 'name = "wrz"'), ('= "none"}', '= "wrs"}')], "fits no run"),
        # The run that is replayed may be the one that could not be read.
        (
            [
                ('name = "none"', 'name = "weight_decay"\nweight_decay = "x"'),
                ('name = "wrs"', 'name = "learning_rate_scaling"\nreplayed_weight_decay = 0.1'),
            ],
            "replays the runs",
        ),
        # A method's settings are not known to be equal.
        ([('name = "none"', 'name = "wrs"\nradios = 2')], "is there twice"),
        # What an axis or an override was to change is not known.
        (
            [
                ("[recipe.data]", '[recipe.optimizer]\nname = "lion"\n[recipe.data]'),
                ('path = "n_epochs"\nvalues = [1, 2]', 'path = "optimizr.name"\nvalues = ["sgd"]'),
            ],
            "not with lion",
        ),
    ],
)
def test_nothing_is_claimed_that_rests_on_what_could_not_be_read(changes, claim):
    text = SOUND
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    assert not [line for line in told(text) if claim in line]


def test_an_entry_that_lacks_a_key_does_not_change_the_numbers_of_the_others():
    text = SOUND.replace("[[axes]]", "[[axes]]\nvalues = [1]\n[[axes]]").replace(
        "values = [1, 2]", "values = [0.5]"
    )
    assert told(text) == ["axes[0].path: missing", "axes[1].values: expected a whole number, got 0.5"]


def test_a_table_that_is_none_hides_no_other_fault():
    lines = told('recipe = 3\nseeds = [0, 0]\n[[methods]]\nname = "wrs"\nradius = 0\n')
    assert lines == [
        "recipe: expected a table, got 3",
        "methods[0].radius must be a finite number above 0, got 0.0",
        "seeds: expected each once, got [0, 0]",
    ]


def test_a_fault_is_a_sentence_whatever_the_value():
    assert str(Fault("a.b", "a number", "1, expected 2; got 3")) == (
        "a.b: expected a number, got '1, expected 2; got 3'"
    )
    assert str(Fault("a.b", "one of x, y", 3, "; did you mean x?")) == (
        "a.b: expected one of x, y; got 3; did you mean x?"
    )
