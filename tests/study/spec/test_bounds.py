"""How large a spec may be: what is at the limit is read, what is beyond is one fault, before work grows."""

import re

import pytest

from decayfree.errors import InvalidInputError
from decayfree.methods import WRS, NoTreatment
from decayfree.study import SpecError, StudySpec
from decayfree.study.builtin import builtin_spec
from decayfree.study.spec.axes import Override
from decayfree.study.spec.bounds import MAX_CHARACTERS, MAX_VALUES, table_of

WRS_ONLY = '[[methods]]\nname = "wrs"\n'


def nested(depth: int) -> str:
    return "a = " + "[" * depth + "]" * depth + "\n"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (nested(500), "the spec has 500 brackets within each other, expected at most 16"),
        (nested(17), "the spec has 17 brackets within each other, expected at most 16"),
        ("a = 1\n" + "a." * 500 + "a = 1\n", "line 2: a name of more than 16 parts with dots between"),
        ("[" + '"a" . ' * 17 + "a]\n", "line 1: a name of more than 16 parts with dots between"),
        ("a" * 201 + " = 1\n", "a name of 201 characters, expected at most 200"),
        ("seeds = [1, 18446744073709551616]\n", "seeds[1]: a whole number of 65 bits, expected at most 64"),
        ("a = {b = 0x" + "f" * 9000 + "}", "a.b: a whole number of 36000 bits, expected at most 64"),
        ("a = 2020-01-01\n", "a: no setting is a date or a time, got 2020-01-01"),
        ("#" * (MAX_CHARACTERS + 1), "the spec has 500,001 characters, expected at most 500,000"),
        (f"a = {[0] * MAX_VALUES}", "the spec has more than 30,000 values"),
    ],
)
def test_what_is_too_large_is_one_fault(text, fault):
    assert table_of(text) == ({}, [fault])
    with pytest.raises(SpecError, match=re.escape(fault)):
        StudySpec.from_toml(text)


@pytest.mark.parametrize(
    "text",
    [
        nested(16),
        'a = "' + "[" * 500 + "a." * 500 + '"\n',
        'a = """\n' + "[" * 500 + '\\""""\n',
        "a = '''\"" + "[" * 500 + "'''\n",
        "# " + "[" * 500 + "\na = '" + "[" * 500 + "'\n",
        "a" + ".a" * 15 + " = 1\n",
        "a" * 200 + " = 18446744073709551615\n",
        f"a = {[0] * (MAX_VALUES - 1)}",
        "#" * MAX_CHARACTERS,
    ],
)
def test_what_is_at_the_limit_or_only_written_in_texts_is_read(text):
    assert table_of(text)[1] == []


def test_lists_of_a_method_are_counted_before_they_multiply():
    text = WRS_ONLY + f"radius = {list(range(1, 3001))}\nevery = {list(range(1, 3001))}\n"
    with pytest.raises(SpecError, match="methods: they are 9,000,000, expected at most 1,000"):
        StudySpec.from_toml(text)
    text = WRS_ONLY + f"radius = {list(range(1, 101))}\nevery = {list(range(1, 11))}\n"
    assert len(StudySpec.from_toml("seeds = [0]\n" + text).methods) == 1000
    with pytest.raises(SpecError, match="methods: they are 1,001, expected at most 1,000"):
        StudySpec(methods=tuple(WRS(every=n) for n in range(1, 1002)), seeds=(0,))


def test_runs_and_looks_at_them_are_counted_first():
    assert len(StudySpec(methods=(WRS(),), seeds=tuple(range(10_000))).runs()) == 10_000
    with pytest.raises(SpecError, match="axes: they multiply to 10,001 runs, expected at most 10,000"):
        StudySpec(methods=(WRS(),), seeds=tuple(range(10_001)))
    many = tuple(Override(when=(("seed", 0),), set=(("n_epochs", n),)) for n in range(1, 22))
    with pytest.raises(SpecError, match="overrides: 21 over 10,000 runs, expected at most 20"):
        StudySpec(methods=(WRS(),), seeds=tuple(range(10_000)), overrides=many)


def test_so_many_seeds_are_no_list_that_is_made_first():
    with pytest.raises(
        SpecError, match="seeds: expected a whole number of at most 10,000, got 1000000000000"
    ):
        builtin_spec("figure1", seeds=10**12)


def test_a_long_value_is_shown_from_its_beginning_and_many_faults_are_counted():
    text = f'title = {[0] * 1000}\n[recipe]\nschedule = "{"a" * 1000}"\n' + WRS_ONLY
    with pytest.raises(SpecError) as error:
        StudySpec.from_toml(text)
    assert len(str(error.value)) < 1000
    text = "".join(f"unknown{n} = 1\n" for n in range(60)) + WRS_ONLY
    with pytest.raises(SpecError, match=r"^60 faults in [\s\S]*\n  and 10 more$") as error:
        StudySpec.from_toml(text)
    assert str(error.value).count("\n") == 51


@pytest.mark.parametrize("value", ['"zero"', "true", "1.0"])
def test_a_condition_on_the_seed_is_a_whole_number(value):
    text = WRS_ONLY + f"[[overrides]]\nwhen = {{seed = {value}}}\nskip = true\n"
    with pytest.raises(SpecError, match=r"overrides\[0\].when.seed: expected a whole number"):
        StudySpec.from_toml(text)


@pytest.mark.parametrize(
    ("table", "fault"),
    [
        ("model.width_factor = 101", "recipe.model.width_factor: expected at most 100, got 101.0"),
        ("n_samples = 1000001", "recipe.n_samples: expected at most 1,000,000, got 1000001"),
        ("n_epochs = 1000001", "recipe.n_epochs: expected at most 1,000,000, got 1000001"),
        (
            'data = {name = "image-folder", image_size = 4097}',
            "recipe.data.image_size: expected at most 4,096 pixels, got 4097",
        ),
    ],
)
def test_what_a_spec_makes_a_training_allocate_has_a_bound(table, fault):
    with pytest.raises(SpecError, match=rf"^1 fault in the study's spec:\n  {re.escape(fault)}$"):
        StudySpec.from_toml(f"[recipe]\n{table}\n" + WRS_ONLY)


def test_a_file_may_begin_with_its_mark_of_utf8(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_bytes(b"\xef\xbb\xbf" + WRS_ONLY.encode())
    assert StudySpec.load(str(path)) == StudySpec(methods=(WRS(),))


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "methods: expected at least one"),
        (b"\xff", "can't decode byte 0xff"),
        (b"#" * (4 * MAX_CHARACTERS + 1), "2,000,001 bytes, expected at most 2,000,000"),
        (None, "is not a file"),
    ],
)
def test_what_cannot_be_read_is_a_fault_that_names_the_file(content, fault, tmp_path):
    path = tmp_path / "mine.toml"
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(SpecError, match=f"(?s)^{re.escape(str(path))}: .*{fault}"):
        StudySpec.load(path)


def test_a_path_is_a_path(tmp_path):
    with pytest.raises(SpecError, match="No such file"):
        StudySpec.load(tmp_path / "none.toml")
    with pytest.raises(InvalidInputError, match="path must be a path, as str or Path, got 5"):
        StudySpec.load(5)


def test_text_is_a_text():
    with pytest.raises(SpecError, match="text must be TOML in a str, got bytes"):
        StudySpec.from_toml(b"")
    assert StudySpec.from_toml('[[methods]]\nname = "none"') == StudySpec(methods=(NoTreatment(),))
