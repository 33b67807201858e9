"""A new optimizer is one row: added to the table, and to nothing else, it is known everywhere."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import decayfree

PACKAGE = Path(str(decayfree.__file__)).parent
ROW = """OPTIMIZERS: tuple[KnownOptimizer, ...] = (
    KnownOptimizer(
        *("Newest", "adam", "Somebody, 2026"),
        decay="decoupled",
        state={"newest_memory": 2},
        equilibrium=equilibrium.adamw,
        study=InStudies("newest", "Newest of all", {"betas": ("beta1", "beta2")}, package="newest_package"),
    ),
"""
CLASS = """
import torch

class Newest(torch.optim.Optimizer):
    def __init__(self, params, lr=0.1, betas=(0.9, 0.999), weight_decay=0.0):
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["newest_memory"] = torch.full_like(p, 8.0)
"""
PROOF = """
import json
import torch
from torch import nn
from typer.testing import CliRunner
import decayfree
from decayfree.cli.app import app
from decayfree.dynamics import update_family
from decayfree.methods import RotationalEquilibrium, WRS
from decayfree.methods.weight_decay import own_form
from decayfree.study import StudySpec
from decayfree.study.optimizers import build_optimizer
from newest_package import Newest

model = nn.Sequential(nn.Linear(200, 3, bias=False), nn.BatchNorm1d(3), nn.Linear(3, 2))
found = decayfree.find_invariant(model, torch.randn(16, 200))
optimizer = Newest(model.parameters(), lr=1e-3, weight_decay=0.1)
assert update_family(optimizer) == "adam"
assert own_form(optimizer) == "decoupled"

optimizer.step()
before = model[0].weight.norm(dim=1, keepdim=True).detach()
decayfree.rescale_(model, found, radius=2.0, optimizer=optimizer)
expected = 8.0 * (before / 2.0) ** 2
torch.testing.assert_close(optimizer.state[model[0].weight]["newest_memory"], expected.expand(3, 200))

wrs = decayfree.drop_decay(Newest(model.parameters(), lr=1e-3, weight_decay=0.1), found)
torch.testing.assert_close(wrs.radii["0.weight"], torch.ones(3), rtol=1e-3, atol=0)
wrs.detach()

text = 'seeds = [0]\\n[[methods]]\\nname = "wrs"\\n[recipe.optimizer]\\nname = "newest"\\nbeta1 = 0.5\\n'
spec = StudySpec.from_toml(text)
assert spec.recipe.optimizer.label == "Newest of all"
groups = [{"params": list(model.parameters()), "weight_decay": 0.0}]
made = build_optimizer(spec.recipe.optimizer, groups, learning_rate=0.5, method=WRS())
assert (type(made), made.param_groups[0]["betas"]) == (Newest, (0.5, 0.999))
assert not RotationalEquilibrium(0.01).optimizer_faults("newest")

words = ["recipe", "--optimizer", "newest", "--lr", "1e-3", "--weight-decay", "0.1", "--fan-in", "200"]
said = CliRunner().invoke(app, [*words, "--json"])
assert said.exit_code == 0, said.output
assert abs(json.loads(said.stdout)["rows"][0]["radius"] - 1) < 1e-3
print("all of it")
"""


def test_a_new_optimizer_is_one_row(tmp_path: Path) -> None:
    shutil.copytree(PACKAGE, tmp_path / "decayfree", ignore=shutil.ignore_patterns("__pycache__"))
    table = tmp_path / "decayfree" / "optimizers.py"
    head = ROW.splitlines()[0]
    text = table.read_text(encoding="utf-8")
    assert text.count(head) == 1
    table.write_text(text.replace(head, ROW), encoding="utf-8")
    (tmp_path / "newest_package.py").write_text(CLASS, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", PROOF],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout == "all of it\n", done.stderr
