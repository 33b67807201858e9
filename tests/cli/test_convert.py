"""`decayfree convert`: what it prints, the numbers by hand, and what it refuses."""

import json
import re
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from decayfree.cli.app import app

SNAPSHOTS = Path(__file__).parent / "snapshots"
ADAMW = ("--optimizer", "adamw", "--lr", "1e-3", "--weight-decay", "0.1")
SGD = ("--optimizer", "sgd", "--lr", "0.1", "--weight-decay", "5e-4", "--momentum", "0.9")
MODEL = """
from torch import nn

def net():
    features = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
    return nn.Sequential(*features, nn.Flatten(), nn.Linear(8 * 36, 10))

def plain():
    return nn.Linear(4, 2)
"""


@pytest.fixture(autouse=True)
def terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("NO_COLOR", "1")


@pytest.fixture
def zoo(tmp_path, monkeypatch):
    """The name of a module that lies in the current directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "models_to_convert", raising=False)
    (tmp_path / "models_to_convert.py").write_text(MODEL, encoding="utf-8")
    return "models_to_convert"


def call(*words):
    """Exit code, standard output and standard error."""
    result = CliRunner().invoke(app, ["convert", *words], prog_name="decayfree")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def record(*words):
    code, text, errors = call(*words, "--json")
    assert (code, errors) == (0, "")
    return json.loads(text)


def unboxed(text):
    """Help without colors, boxes and runs of blanks, which differ between terminals."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", text)
    lines = [" ".join(re.sub("[─│╭╮╰╯]", " ", line).split()) for line in text.splitlines()]
    return "\n".join(line for line in lines if line) + "\n"


def test_the_help_text_is_the_one_that_was_looked_at():
    code, text, _ = call("--help")
    assert code == 0
    assert unboxed(text) == (SNAPSHOTS / "help-convert.txt").read_text(encoding="utf-8")


def test_the_whole_text_is_the_one_that_was_looked_at():
    code, text, errors = call(*ADAMW, "--fan-in", "50,200", "--steps", "20000", "--schedule", "step")
    assert (code, errors) == (0, "")
    assert text == (SNAPSHOTS / "convert-adamw.txt").read_text(encoding="utf-8")


def test_radii_under_adamw_follow_from_the_fan_in():
    said = record(*ADAMW, "--fan-in", "50,200")
    assert [row["fan_in"] for row in said["rows"]] == [50, 200]
    assert [row["radius"] for row in said["rows"]] == pytest.approx([0.5, 1.0], rel=1e-3)  # √(ηC/(2λ))
    assert [row["lr_at_radius_1"] for row in said["rows"]] == pytest.approx([2e-3, 1e-3], rel=1e-3)
    assert said["time_constant_steps"] == pytest.approx(5000)
    assert said["betas"] == [0.9, 0.999]
    assert (said["weights"], said["schedule"], said["schedule_exponent"]) == (None, None, 0.5)


def test_betas_count():
    said = record(
        "--optimizer", "lion", "--lr", "1e-3", "--weight-decay", "1", "--betas", "0,0.9", "--fan-in", "200"
    )
    assert said["betas"] == [0.0, 0.9]
    assert said["rows"][0]["radius"] == pytest.approx((1e-3 * 200 / 2) ** 0.5, rel=1e-3)
    default = record("--optimizer", "lion", "--lr", "1e-3", "--weight-decay", "1")
    assert default["betas"] == [0.9, 0.99]


def test_sgd_without_gradient_norms_gives_the_formula_and_how_to_measure():
    code, text, errors = call(*SGD)
    assert (code, errors) == (0, "")
    assert "r⁴ = ηG²/(2λ(1−μ)), G = ‖g‖·‖w‖, measured" in text
    assert "G is not known without your data: measure it as below, or give --gradient-norm." in text
    assert "with decayfree.GradientNorms(optimizer, found) as measured:" in text
    assert "decayfree.drop_decay(optimizer, found, gradient_norms=measured)" in text
    said = record(*SGD)
    assert said["rows"] == [
        {
            "fan_in": None,
            "angle_rad": pytest.approx((2 * 5e-5 / 1.9) ** 0.5, rel=1e-3),
            "time_constant_steps": pytest.approx(500),
            "radius": None,
            "lr_at_radius_1": None,
        }
    ]


def test_sgd_with_a_gradient_norm_gives_the_radius():
    said = record(*SGD, "--gradient-norm", "2")
    assert said["gradient_norm"] == 2
    assert said["rows"][0]["radius"] == pytest.approx((0.1 * 4 / 1e-4) ** 0.25, rel=3e-3)
    assert said["rows"][0]["lr_at_radius_1"] == pytest.approx((1e-4 * 0.1) ** 0.5 / 2, rel=5e-3)
    options = [
        record(*SGD, "--gradient-norm", "2", *more)["rows"][0]
        for more in ((), ("--decoupled",), ("--dampening", "0.5"))
    ]
    assert len({row["radius"] for row in options}) == 3
    nesterov = record(*SGD, "--nesterov")
    assert nesterov["nesterov"] is True
    assert nesterov["rows"][0]["angle_rad"] == pytest.approx(1.158 * said["rows"][0]["angle_rad"], rel=1e-3)


def test_adam_with_l2_needs_both():
    words = ("--optimizer", "adam", "--lr", "1e-3", "--weight-decay", "1e-3")
    assert "or give --gradient-norm and --fan-in." in call(*words)[1]
    assert record(*words)["rows"] == []
    said = record(*words, "--gradient-norm", "2", "--fan-in", "100")
    assert said["rows"][0]["radius"] == pytest.approx(10 ** (1 / 3), rel=1e-3)  # r³ = η√C·G/(2λ)
    assert said["schedule_exponent"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("n_steps", "verdict"),
    [
        (
            "2500",
            (
                "2,500 steps are 0.5 times the 5,000 in which norms approach equilibrium: "
                "the norms never get there"
            ),
        ),
        (
            "10000",
            (
                "10,000 steps are 2 times the 5,000 in which norms approach equilibrium: "
                "the norms get there late"
            ),
        ),
        (
            "50000",
            (
                "50,000 steps are 10 times the 5,000 in which norms approach "
                "equilibrium: the norms are there for"
            ),
        ),
    ],
)
def test_the_length_of_the_training_is_held_against_the_time_that_norms_take(n_steps, verdict):
    assert verdict in call(*ADAMW, "--steps", n_steps)[1]


@pytest.mark.parametrize(("name", "halfway"), [("constant", 1.0), ("cosine", 0.5), ("step", 0.1)])
def test_schedules_are_followed_as_the_norm_follows_them(name, halfway):
    points = record(*ADAMW, "--steps", "400000", "--schedule", name)["schedule"]
    assert [points[index]["step"] for index in (0, 3, -1)] == [0, 200_000, 399_999]
    assert points[0]["multiplier_at_fixed_norm"] == 1.0
    assert points[3]["multiplier"] == pytest.approx(halfway)
    if name == "cosine":  # slower than the norm, which is a little behind
        assert 0.95 * 0.5**0.5 < points[3]["multiplier_at_fixed_norm"] < 0.5**0.5


def test_a_model_gives_a_table_by_weight(zoo):
    words = (*ADAMW, "--model", f"{zoo}:net", "--input", "4,3,8,8")
    code, text, errors = call(*words)
    assert (code, errors) == (0, "")
    assert re.search(r"0\.weight +\(8, 3, 3, 3\) +27 +0\.367 +0\.00272", text)
    said = record(*words)
    assert said["rows"] is None
    assert [weight["name"] for weight in said["weights"]] == ["0.weight"]
    with_norms = record(*SGD, "--gradient-norm", "2", "--model", f"{zoo}:net", "--input", "4,3,8,8")
    assert with_norms["weights"][0]["gradient_norms"] == [2.0] * 8


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((*ADAMW[:4], "--weight-decay", "0"), "without decay there is no equilibrium"),
        ((*ADAMW[:2], "--lr", "-1", "--weight-decay", "0.1"), "lr must be a finite number above 0, got -1.0"),
        ((*ADAMW, "--momentum", "0.9"), "--momentum is a setting of SGD, not of AdamW"),
        ((*ADAMW, "--nesterov"), "--nesterov is a setting of SGD, not of AdamW"),
        ((*SGD, "--betas", "0.9,0.999"), "--betas is no setting of SGD: give --momentum"),
        ((*ADAMW, "--betas", "0.9"), "--betas must be two numbers as in 0.9,0.999, got '0.9'"),
        ((*ADAMW, "--betas", "a,b"), "--betas must be numbers with commas between, got 'a,b'"),
        ((*ADAMW, "--fan-in", "1.5"), "--fan-in must be whole numbers of at least 1, got '1.5'"),
        ((*SGD, "--fan-in", "9"), "--fan-in plays no part under SGD"),
        ((*ADAMW, "--gradient-norm", "1"), "--gradient-norm plays no part under AdamW"),
        ((*SGD, "--gradient-norm", "0"), "gradient_norm must be a finite number above 0, got 0.0"),
        ((*ADAMW, "--schedule", "cosine"), "--schedule wants --steps, the length of the training"),
        ((*ADAMW, "--input", "4,3,8,8"), "--model and --input go together"),
        ((*ADAMW, "--fan-in", "x", "--gradient-norm", "1"), "got 'x'; --gradient-norm plays no part"),
    ],
)
def test_what_makes_no_sense_is_refused(words, said):
    code, text, errors = call(*words)
    assert (code, text) == (2, "")
    assert said in errors


@pytest.mark.parametrize(
    ("words", "model", "said"),
    [
        (
            SGD,
            "net",
            (
                "a table for a model under SGD needs gradient norms, which only your training "
                "tells: measure them in Python"
            ),
        ),
        ((*ADAMW, "--fan-in", "9"), "net", "--fan-in and --model were both given"),
        (ADAMW, "plain", "no scale-invariant weight was found in the model"),
    ],
)
def test_what_a_model_does_not_tell_is_refused(zoo, words, model, said):
    shape = "4,3,8,8" if model == "net" else "4,4"
    code, text, errors = call(*words, "--model", f"{zoo}:{model}", "--input", shape)
    assert (code, text) == (2, "")
    assert said in errors
