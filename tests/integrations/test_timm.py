"""The shape of timm's training script: layer decay, Lookahead, ModelEmaV3, schedulers, its checkpoints."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

import decayfree
from support.available import import_or_skip

timm = import_or_skip("timm")
optim, scheduler, utils = (import_or_skip(f"timm.{one}") for one in ("optim", "scheduler", "utils"))
load_checkpoint, resume_checkpoint = timm.models.load_checkpoint, timm.models.resume_checkpoint

GENERATOR = torch.Generator().manual_seed(1)
IMAGES = torch.randn(24, 3, 32, 32, generator=GENERATOR)
LABELS = torch.randint(0, 3, (24,), generator=GENERATOR)
N_UPDATES = 3


def trained(
    folder: Path, opt: str, n_epochs: int, resume: Path | None = None, seed: int = 0, radius: Any = 1.0
) -> SimpleNamespace:
    """What the script does, in its order."""
    torch.manual_seed(seed)
    model = timm.create_model("test_resnet", num_classes=3)
    found = decayfree.find_invariant(model, IMAGES[:4])
    optimizer = optim.create_optimizer_v2(model, opt, lr=0.01, weight_decay=0.05, layer_decay=0.7)
    scales = {id(one): group["lr_scale"] for group in optimizer.param_groups for one in group["params"]}
    exempt = decayfree.exempt_(optimizer, found)
    start = resume_checkpoint(model, str(resume), optimizer) if resume else 0
    wrs = decayfree.WeightRescaling(optimizer, found, radius=radius)
    ema = utils.ModelEmaV3(model, decay=0.9)
    if resume:
        load_checkpoint(ema.module, str(resume), use_ema=True)
        wrs.load_state_dict(torch.load(folder / "wrs.pt"))
    schedule, _ = scheduler.create_scheduler_v2(
        optimizer, num_epochs=4, warmup_epochs=1, updates_per_epoch=N_UPDATES, step_on_epochs=False
    )
    schedule.step_update(num_updates=N_UPDATES * start)
    saver = utils.CheckpointSaver(
        model, optimizer, model_ema=ema, checkpoint_dir=str(folder), recovery_dir=str(folder)
    )
    for epoch in range(start, n_epochs):
        model.train()
        for update in range(N_UPDATES):
            batch = slice(8 * update, 8 * update + 8)
            optimizer.zero_grad()
            functional.cross_entropy(model(IMAGES[batch]), LABELS[batch]).backward()
            optimizer.step()
            number = epoch * N_UPDATES + update + 1
            ema.update(model, step=number)
            schedule.step_update(num_updates=number)
        saver.save_checkpoint(epoch)
        torch.save(wrs.state_dict(), folder / "wrs.pt")
    return SimpleNamespace(
        model=model, ema=ema, wrs=wrs, found=found, optimizer=optimizer, scales=scales, exempt=exempt
    )


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


@pytest.mark.parametrize(("opt", "radius"), [("lookahead_adamw", 1.0), ("sgd", "init")])
def test_its_loop_holds_keeps_layer_decay_and_resumes_bitwise(tmp_path, opt, radius):
    whole = trained(tmp_path, opt, 3, radius=radius)
    assert len(whole.exempt) == len(whole.found) > 5
    groups = whole.optimizer.param_groups
    assert {id(one): group["lr_scale"] for group in groups for one in group["params"]} == whole.scales
    assert len({*whole.scales.values()}) > 3
    names = {id(one): name for name, one in whole.model.named_parameters()}
    decayed = {names[id(one)] for group in groups if group["weight_decay"] for one in group["params"]}
    assert decayed == {"fc.weight"}
    assert whole.wrs.check(whole.ema).problems == ()
    trained(tmp_path, opt, 2, radius=radius)
    resumed = trained(tmp_path, opt, 3, tmp_path / "last.pth.tar", seed=1, radius=radius)
    assert same(whole.model, resumed.model)
    assert same(whole.ema.module, resumed.ema.module)
    assert (resumed.wrs.n_steps, resumed.wrs.check(resumed.ema).problems) == (9, ())
    assert all(torch.equal(one, whole.wrs.radii[name]) for name, one in resumed.wrs.radii.items())


def test_an_average_becomes_a_model_on_its_radius(tmp_path):
    run = trained(tmp_path, "sgd", 2)
    ready = decayfree.averaged(run.ema, run.found, IMAGES.split(8))
    norms = [part.norms() for part in run.found.parts(ready).values()]
    assert torch.cat(norms).allclose(torch.ones(()))
