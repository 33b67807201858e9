"""Every piece of code of every page runs as it stands, or says why it cannot, and is counted.

A page is one session: what a piece makes, the next one has. What a page takes for granted (a model, a
loader) is made here first. Pages whose code is files and folders have tests of their own, named below.
"""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import click
import pytest
import typer
from torch import distributed

from decayfree.cli.app import app
from decayfree.study import StudySpec
from support.available import import_or_skip
from support.command_line import call
from support.snippets import ROOT, pages, run, snippets
from support.synthetic_study import Writer, study_spec

DOCS = ROOT / "docs"
OF_THEIR_OWN = {"bring-your-own.md", "figures.md"}
# Frameworks and figures take ten seconds.
SLOW = {"flax.md", "gallery.md", "lightning.md", "transformers.md"}
# How many pieces say that they do not run, on which page.
NOT_RUN = {"README.md": 1, "gallery.md": 3, "studies.md": 2}
PYTHON = [page for page in pages() if any(one.kind == "python" for one in snippets(page))]

NETWORK = """
import torch, decayfree
from torch import nn
model = nn.Sequential(
    nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
    nn.Linear(32, 64, bias=False), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 3))
images, labels = torch.randn(24, 3, 8, 8), torch.randint(3, (24,))
inputs = images[:8]
loader = [(images[at : at + 8], labels[at : at + 8]) for at in (0, 8, 16)]
"""
FOUND = f"{NETWORK}\nfound = decayfree.find_invariant(model, inputs)\n"
SGD = f"{FOUND}\noptimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)\n"


SET_UP = {
    "README.md": {"": NETWORK},
    "accelerate.md": {
        "": f"{FOUND}\nfrom accelerate import Accelerator\naccelerator = Accelerator(cpu=True)\n"
        "optimizer = torch.optim.SGD(model.parameters(), lr=0.1)\n"
    },
    "flax.md": {
        "": """
import jax, optax
from flax import nnx
import numpy as np
images = np.random.default_rng(0).normal(size=(8, 8, 8, 3)).astype(np.float32)
class Net(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.conv, self.norm = nnx.Conv(3, 8, (3, 3), rngs=rngs), nnx.BatchNorm(8, rngs=rngs)
        self.last = nnx.Linear(8, 3, rngs=rngs)
    def __call__(self, x):
        return self.last(nnx.relu(self.norm(self.conv(x))).mean((1, 2)))
model = Net()
"""
    },
    "gallery.md": {"": "from matplotlib import use\nuse('agg')\n"},
    "instruments.md": {
        "": f"{SGD}\nfrom decayfree import Recorder\nbefore = torch.randn(64, 9)\nafter = before + 0.01\n",
        "Recording": "for group in optimizer.param_groups: group['weight_decay'] = 5e-4\n",
        "Weights that have a scale": f"""{SGD}
from collections import OrderedDict
block = nn.Sequential(OrderedDict(qkv=nn.Linear(4, 72), mlp=nn.Sequential(nn.Linear(72, 8), nn.Linear(8, 2))))
model = nn.Sequential(block)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
found = None
""",
    },
    "lightning.md": {
        "": f"""{NETWORK}
from functools import partial
from lightning import pytorch as pl
from torch.optim.lr_scheduler import CosineAnnealingLR
from decayfree.integrations.lightning import found_in
Trainer = partial(pl.Trainer, accelerator="cpu", max_epochs=2, logger=False, enable_checkpointing=False,
    enable_progress_bar=False, enable_model_summary=False)
"""
    },
    "limits.md": {
        "": f"{SGD}\nfrom itertools import islice\nema = torch.optim.swa_utils.AveragedModel(model)\n"
    },
    "processes.md": {
        "": f"""{NETWORK}
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel
model = nn.Sequential(nn.Linear(4, 8), nn.GroupNorm(2, 8), nn.Linear(8, 2))  # SyncBatchNorm wants a GPU
inputs = torch.randn(8, 4)
build, load = lambda: model, lambda *those: None
""",
        "Optimizer in backward": f"""{FOUND}
from collections import defaultdict
from functools import partial
""",
        "Checkpoints": f"""{FOUND}
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_state_dict
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
wrs = decayfree.WeightRescaling(optimizer, found)
folder = "checkpoint"
""",
    },
    "published.md": {"": SGD},
    "span.md": {
        "": f"""{NETWORK}
from collections import OrderedDict
model = nn.Sequential(OrderedDict(
    conv1=nn.Conv2d(3, 8, 3, bias=False), norm=nn.BatchNorm2d(8), pool=nn.AdaptiveAvgPool2d(1),
    flat=nn.Flatten(), head=nn.Linear(8, 3)))
found = decayfree.find_invariant(model, inputs)
"""
    },
    "transformers.md": {
        "": """
import torch, decayfree, transformers
from functools import partial
sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
model = transformers.ResNetForImageClassification(transformers.ResNetConfig(**sizes, num_labels=3))
images = torch.randn(24, 3, 16, 16)
batch = {"pixel_values": images[:8]}
data = [{"pixel_values": image, "labels": number % 3} for number, image in enumerate(images)]
arguments = transformers.TrainingArguments("out", per_device_train_batch_size=4, max_steps=4, save_steps=2,
    use_cpu=True, report_to=[], disable_tqdm=True, logging_strategy="no")
Trainer = transformers.Trainer
from decayfree.integrations.transformers import RecorderCallback
from decayfree.integrations.transformers import WeightRescalingCallback
found = decayfree.find_invariant(model, batch)
before = Trainer(model, arguments, train_dataset=data, callbacks=[
    WeightRescalingCallback(found), RecorderCallback(found)])
before.create_optimizer()
decayfree.exempt_(before.optimizer, found)
before.train()
"""
    },
}
# What is done with what a page has made.
AFTER = {
    "lightning.md": """
class Net(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = model
    def forward(self, images):
        return self.net(images)
    def training_step(self, batch, index):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])
Net.configure_optimizers = configure_optimizers
module = Net()
trainer.fit(module, torch.utils.data.DataLoader(list(zip(images, labels)), 8))
(wrs,) = trainer.callbacks[0].attached.values()
assert wrs.n_steps == 6
""",
    "processes.md": "assert wrs.n_steps == 0\n",
}


def a_study(folder: Path) -> None:
    import_or_skip("matplotlib")
    Writer(folder, spec=study_spec(n_seeds=2), n_intervals=4).write()


@contextmanager
def one_process() -> Iterator[None]:
    """A process group of this process alone."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        distributed.destroy_process_group()


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=[pytest.mark.slow] * (page.name in SLOW), id=page.name) for page in PYTHON],
)
@pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated")  # Lightning's
@pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers")
def test_the_python_of_a_page_runs_and_answers_as_it_says(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    if page.name in OF_THEIR_OWN:
        pytest.skip("its code is files: it has a test of its own")
    monkeypatch.chdir(tmp_path)
    if page.name == "gallery.md":
        a_study(tmp_path / "demo")
    names: dict[str, Any] = {"__name__": "page"}
    before = SET_UP.get(page.name, {})
    exec(before.get("", ""), names)
    n_python = sum(one.kind == "python" and not one.reason for one in snippets(page))
    with one_process() if page.name == "processes.md" else nullcontext():
        assert run(page, names, before) == n_python
    exec(AFTER.get(page.name, ""), names)


@pytest.mark.parametrize("page", sorted({page for page in pages() if "$ decayfree" in page.read_text()}))
def test_what_a_page_shows_of_a_terminal_is_what_the_command_says(page: Path) -> None:
    for snippet in snippets(page):
        if not snippet.code.startswith("$ decayfree"):
            continue
        command, *shown = snippet.code.splitlines()
        code, text, errors = call(*shlex.split(command)[2:])
        assert (code, errors) == (0, ""), command
        said = {" ".join(line.split()) for line in text.splitlines()}
        assert not [line for line in shown if " ".join(line.split()) not in said]


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_commands_of_a_page_are_ones_that_there_are(page: Path) -> None:
    for snippet in snippets(page):
        for line in snippet.code.splitlines() if snippet.kind in ("bash", "sh") else ():
            program, *words = shlex.split(line, comments=True)
            if program == "decayfree":
                accept(words)
            elif program == "make":
                assert f"\n{words[0]}:" in (ROOT / "Makefile").read_text(encoding="utf-8")
            elif page.name not in OF_THEIR_OWN and program != "pip":
                assert program == "python"
                assert (ROOT / words[0]).is_file()


def accept(words: list[str]) -> None:
    """Nothing, where the command line takes these words; what it says where it does not."""
    command = typer.main.get_command(app)
    context = command.make_context("decayfree", list(words), resilient_parsing=False)
    while isinstance(command, click.Group):
        name, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        assert command is not None
        context = command.make_context(name, rest, parent=context)


def test_the_specs_of_the_page_of_studies_are_specs() -> None:
    whole, *parts = (one.code for one in snippets(DOCS / "studies.md") if one.kind == "toml")
    spec = StudySpec.from_toml(whole)
    for part in parts:  # each goes on from the one before
        at_top, bracket, rest = part.partition("[[")
        whole = f"{at_top}\n{whole}\n{bracket}{rest}"
        before, spec = spec, StudySpec.from_toml(whole)
        assert spec != before


def test_what_does_not_run_says_so_and_is_counted() -> None:
    reasons = {page.name: [one.reason for one in snippets(page) if one.reason] for page in pages()}
    assert {name: len(of) for name, of in reasons.items() if of} == NOT_RUN
    assert all(len(reason.split()) > 3 for of in reasons.values() for reason in of)


def test_every_piece_is_of_a_kind_that_a_test_knows() -> None:
    kinds = {one.kind for page in pages() for one in snippets(page)}
    assert kinds <= {"python", "bash", "sh", "toml", "text"}
