"""`decayfree recipe`: what it prints, the numbers by hand, and what it refuses."""

import json
import re
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import decayfree
from decayfree import equilibrium
from decayfree.cli.app import app
from decayfree.conversion import DecayRule, Forgetting, RateSchedule

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
    monkeypatch.delitem(sys.modules, "models_with_a_recipe", raising=False)
    (tmp_path / "models_with_a_recipe.py").write_text(MODEL, encoding="utf-8")
    return "models_with_a_recipe"


def call(*words):
    """Exit code, standard output and standard error."""
    result = CliRunner().invoke(app, ["recipe", *words], prog_name="decayfree")
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
    assert unboxed(text) == (SNAPSHOTS / "help-recipe.txt").read_text(encoding="utf-8")


def test_the_whole_text_is_the_one_that_was_looked_at():
    code, text, errors = call(*ADAMW, "--fan-in", "50,200", "--steps", "20000", "--schedule", "step")
    assert (code, errors) == (0, "")
    assert text == (SNAPSHOTS / "recipe-adamw.txt").read_text(encoding="utf-8")


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
    ("words", "ratio", "verdict"),
    [
        (("2500",), "0.5", "norms never get there, and angles under decay are set by where they began."),
        (("10000",), "2", "norms get there late in it."),
        (("50000",), "10", "norms are there for most of it."),
        (("50000", "--schedule", "linear"), "5", "norms are there for most of it."),
    ],
)
def test_the_length_of_the_training_is_held_against_the_time_that_norms_take(words, ratio, verdict):
    text = call(*ADAMW, "--steps", *words)[1]
    assert (
        f"The run is {ratio} times the 5,000 steps in which norms approach equilibrium:\n  {verdict}" in text
    )


def test_memory_and_forgetting_are_those_of_the_library():
    words = (*SGD, "--steps", "78200", "--steps-per-epoch", "391", "--schedule", "cosine")
    code, text, errors = call(*words)
    assert (code, errors) == (0, "")
    assert "by 0.00725 rad (0.416 degrees): after 2,000 steps, 5.12 epochs" in text
    assert "78,200 steps forget as much as 39,100 at the full rate, D = 19.6:" in text
    assert "In the mean over the schedule the memory is 4,000 steps, 10.2 epochs." in text
    found = Forgetting.of(DecayRule("SGD", 0.1, 5e-4, momentum=0.9), RateSchedule("cosine", 78_200))
    said = record(*words)
    assert said["angle_rad"] == found.angle_rad
    assert (said["memory_steps"], said["memory_epochs"]) == (found.memory_steps, found.memory_steps / 391)
    assert said["mean_memory_epochs"] == found.mean_memory_steps / 391
    assert (said["forgotten"], said["mean_memory_steps"]) == (found.whole, found.mean_memory_steps)
    assert (said["n_steps"], said["steps_per_epoch"]) == (78_200, 391)


def test_schedules_have_their_settings():
    drops = ("--schedule", "step", "--drops", "100,300", "--drop-factor", "0.5", "--warmup-steps", "10")
    found = Forgetting.of(
        DecayRule("AdamW", 1e-3, 0.1),
        RateSchedule("step", 400, n_warmup_steps=10, drops=(100, 300), drop_factor=0.5),
    )
    assert record(*ADAMW, "--steps", "400", *drops)["forgotten"] == found.whole
    line = record(*ADAMW, "--steps", "400", "--schedule", "linear", "--last-share", "0.5")
    assert line["forgotten"] == pytest.approx(400 * 1e-4 * 0.75, rel=1e-3)


def network():
    model = nn.Sequential(nn.Linear(50, 4, bias=False), nn.BatchNorm1d(4), nn.Linear(4, 2))
    return model, decayfree.find_invariant(model, torch.randn(16, 50))


@pytest.mark.parametrize(
    "words",
    [
        ("sgd", "--lr", "0.1", "--weight-decay", "5e-4", "--momentum", "0.9", "--steps-per-epoch", "391"),
        ("sgd", "--lr", "0.1", "--weight-decay", "5e-4", "--momentum", "0.9", "--nesterov"),
        ("adamw", "--lr", "1e-3", "--weight-decay", "0.1", "--betas", "0.8,0.99", "--steps-per-epoch", "7"),
    ],
)
def test_the_printed_turning_turns_by_the_angles_of_equilibrium(words):
    text = call("--optimizer", *words)[1]
    block = text[text.index("In Python\n") :].splitlines()[1:3]
    said = record("--optimizer", *words)
    model, found = network()
    if words[0] == "sgd":
        settings = {"momentum": 0.9, "weight_decay": 5e-4, "nesterov": said["nesterov"]}
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, **settings)
        settled = equilibrium.sgd(0.1, 5e-4, momentum=0.9, nesterov=said["nesterov"])
    else:
        optimizer = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=0.1, betas=(0.8, 0.99))
        settled = equilibrium.adamw(1e-3, 0.1, betas=(0.8, 0.99))
    names = {"decayfree": decayfree, "optimizer": optimizer, "found": found, "loader": range(123)}
    for line in block:
        exec(line.strip(), names)
    model(torch.randn(16, 50)).square().mean().backward()
    optimizer.step()
    assert names["turning"].angles_rad == {"0.weight": pytest.approx(settled.angle_rad, rel=3e-6)}
    assert said["angle_rad"] == settled.angle_rad
    assert [group["weight_decay"] > 0 for group in optimizer.param_groups] == [True, False]


def test_one_radius_can_be_held_on_the_root_of_the_schedule():
    text = call(*ADAMW, "--fan-in", "50")[1]
    *_, exempt, hold = text.splitlines()
    model, found = network()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=0.1)
    names = {"decayfree": decayfree, "optimizer": optimizer, "found": found}
    for line in (exempt, hold):
        exec(line.strip(), names)
    radius = equilibrium.adamw(1e-3, 0.1, fan_in=50).fixed_norm
    assert names["wrs"].radii["0.weight"].tolist() == pytest.approx([radius] * 4, rel=1e-6)
    assert "drop_decay" not in text
    assert call(*ADAMW)[1].endswith("drop_decay(optimizer, found)  # before the scheduler is made\n")


def test_under_adam_with_l2_memory_is_that_of_one_fan_in():
    words = ("--optimizer", "adam", "--lr", "1e-3", "--weight-decay", "1e-3")
    assert "every weight remembers for a time of its own" in call(*words)[1]
    assert "memory_epochs=...)" in call(*words)[1]
    said = record(*words)
    assert (said["memory_steps"], said["forgotten"], said["angle_rad"]) == (None, None, None)
    one = record(*words, "--gradient-norm", "2", "--fan-in", "100")
    assert one["memory_steps"] == pytest.approx(2 * 10 ** (2 / 3) / 1e-4, rel=1e-3)  # 2r²/(η²C)
    assert record(*words, "--gradient-norm", "2", "--fan-in", "100,9")["memory_steps"] is None


@pytest.mark.parametrize(("name", "halfway"), [("linear", 0.5), ("cosine", 0.5), ("step", 0.1)])
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
        ((*ADAMW, "--drop-factor", "0.2"), "--drop-factor wants --steps, the length of the training"),
        ((*ADAMW, "--steps", "0"), "Invalid value for '--steps'"),
        ((*ADAMW, "--steps", "9", "--warmup-steps", "9"), "n_warmup_steps must be fewer than all 9, got 9"),
        (
            (*ADAMW, "--steps", "9", "--schedule", "step", "--drops", "a"),
            "--drops must be numbers with commas",
        ),
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


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "adamv",
            "where weight decay settles under 'adamv' is not known; it is for SGD, SGDW, Adam, AdamW, Lion",
        ),
        ("adamww", "; did you mean adamw or adam?"),
        ("lamb", "under LAMB is not known (it makes every step a share of the weight's own norm, so that no"),
        ("RMSprop", "Lion: decayfree.Turning gives its directions the memory that you choose, without decay"),
    ],
)
def test_an_optimizer_without_a_closed_form_is_refused(name, said):
    code, text, errors = call("--optimizer", name, *ADAMW[2:])
    assert (code, text) == (2, "")
    assert said in errors


def test_faults_are_told_together():
    words = (
        "--optimizer",
        "adamv",
        "--lr",
        "0",
        "--weight-decay",
        "0",
        "--schedule",
        "cosine",
        "--fan-in",
        "a",
    )
    code, text, errors = call(*words, "--input", "3")
    assert (code, text) == (2, "")
    for said in (
        "--model and --input go together",
        "--schedule wants --steps",
        "--fan-in must be numbers",
        "under 'adamv' is not known",
        "lr must be a finite number above 0, got 0.0",
        "without decay there is no equilibrium",
    ):
        assert said in errors
    assert errors.count("Error:") == 1


def test_a_model_is_built_only_where_all_else_is_right(zoo):
    words = (*ADAMW, "--model", f"{zoo}:nothing", "--input", "4,3,8,8")
    assert "there is no 'nothing'" in call(*words)[2]
    assert "there is no 'nothing'" not in call(*words, "--fan-in", "9")[2]
