"""Record to W&B, MLflow and TensorBoard, beside a training that logs by itself: offline, in this folder.

Needs `pip install "decayfree[wandb,mlflow,tensorboard]"`; takes seconds.
"""

import os

os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("WANDB_SILENT", "true")

import mlflow
import torch
import wandb
from torch import nn

import decayfree
from decayfree.dynamics import MLflow, Sample, TensorBoard, WandB

mlflow.set_tracking_uri("sqlite:///mlflow.db")
model = nn.Sequential(
    nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 16), nn.LayerNorm(16), nn.Linear(16, 2)
)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
found = decayfree.find_invariant(model, torch.randn(16, 8))

with wandb.init(project="example") as run, mlflow.start_run():
    # One is enough: sink=WandB().
    sinks = [WandB(run), MLflow(), TensorBoard("tensorboard")]

    def to_all(sample: Sample) -> None:
        for sink in sinks:
            sink(sample)
        print(f"step {sample.step}: {len(sample.brief())} numbers to {len(sinks)} loggers")

    recorder = decayfree.Recorder(optimizer, found, every=10, sink=to_all)
    for step in range(20):
        optimizer.zero_grad()
        loss = model(torch.randn(32, 8)).square().mean()
        loss.backward()
        optimizer.step()
        run.log({"loss": loss.item()}, step=32 * step)  # counts images: these are kept, and ours too
        mlflow.log_metric("loss", loss.item(), step=32 * step)
