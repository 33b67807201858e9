"""Send recorded samples to W&B, MLflow, Lightning's logger or TensorBoard: one line each.

Stand-ins take the loggers' places here.
"""

from collections.abc import Callable
from types import SimpleNamespace

import torch
from torch import nn

import decayfree
from decayfree.dynamics.sinks import JsonLines, Sample, TensorBoard

model = nn.Sequential(
    nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 16), nn.LayerNorm(16), nn.Linear(16, 2)
)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
found = decayfree.find_invariant(model, torch.randn(16, 8))


def stand_in(name: str) -> Callable[..., None]:
    return lambda values, step: print(f"{name} got {len(values)} numbers at step {step}")


# In earnest: import wandb; import mlflow; your Lightning trainer; torch.utils.tensorboard.SummaryWriter().
wandb = SimpleNamespace(log=stand_in("wandb"))
mlflow = SimpleNamespace(log_metrics=stand_in("mlflow"))
trainer = SimpleNamespace(logger=SimpleNamespace(log_metrics=stand_in("lightning")))
writer = SimpleNamespace(
    add_scalar=lambda tag, value, step: None, flush=lambda: print("tensorboard is written")
)

to_tensorboard = TensorBoard(writer)
to_file = JsonLines("for-all-loggers.jsonl")


def to_all(sample: Sample) -> None:
    wandb.log(sample.flat(), step=sample.step)
    # Of its 1,000 numbers a call, all statistics take too many.
    mlflow.log_metrics(sample.flat("mean"), step=sample.step)
    trainer.logger.log_metrics(sample.flat(), step=sample.step)
    to_tensorboard(sample)
    to_file(sample)


recorder = decayfree.Recorder(optimizer, found, every=10, sink=to_all)
for _ in range(20):
    optimizer.zero_grad()
    model(torch.randn(32, 8)).square().mean().backward()
    optimizer.step()
