"""Train on several processes with DistributedDataParallel and without weight decay, and resume.

`torchrun --standalone --nproc-per-node 2 examples/train_ddp.py 2` trains to the end of epoch 2, from where
train_ddp.pt stands if it is there. Fashion-MNIST where its files are, else scanned digits (scikit-learn).
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

import decayfree
from decayfree.study.data import fashion_mnist

N_EPOCHS = int(sys.argv[1]) if len(sys.argv) > 1 else 2
CHECKPOINT = Path("train_ddp.pt")


def data() -> tuple[str, Tensor, Tensor, Tensor, Tensor]:
    try:
        files = fashion_mnist.read(fashion_mnist.locate())
        images, labels = files["train_images"][:6000], files["train_labels"][:6000]
        test_images, test_labels = files["test_images"][:2000], files["test_labels"][:2000]
        return "Fashion-MNIST", images / 255, labels.long(), test_images / 255, test_labels.long()
    except decayfree.DecayFreeError:
        images, labels = (torch.as_tensor(part) for part in load_digits(return_X_y=True))
        images = images.float().unflatten(1, (8, 8)) / 16
        return "digits", images[:1200], labels[:1200], images[1200:], labels[1200:]


dist.init_process_group("gloo")
rank, n_ranks = dist.get_rank(), dist.get_world_size()
name, images, labels, test_images, test_labels = data()

model = nn.Sequential(
    nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
    nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.AdaptiveAvgPool2d(2),
    nn.Flatten(), nn.Linear(128, 10),
)  # fmt: skip
found = decayfree.find_invariant(model, images[:8, None])  # before anything is wrapped
parallel = DistributedDataParallel(model)  # all ranks have the weights of rank 0 now
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)  # no weight_decay
wrs = decayfree.WeightRescaling(optimizer, found)  # on every rank

first = 0
if CHECKPOINT.exists():  # all of it on every rank
    state = torch.load(CHECKPOINT, weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    wrs.load_state_dict(state["wrs"])
    first = state["epoch"]

for epoch in range(first, N_EPOCHS):
    for batch in torch.randperm(len(images), generator=torch.Generator().manual_seed(epoch)).split(100):
        mine = batch[rank::n_ranks]
        optimizer.zero_grad()
        functional.cross_entropy(parallel(images[mine, None]), labels[mine]).backward()
        optimizer.step()
    if rank == 0:
        states = {"model": model, "optimizer": optimizer, "wrs": wrs}
        torch.save({key: one.state_dict() for key, one in states.items()} | {"epoch": epoch + 1}, CHECKPOINT)

problems = wrs.check().problems  # on every rank, since ranks are compared
if rank == 0:
    model.eval()
    accuracy = (model(test_images[:, None]).argmax(1) == test_labels).float().mean().item()
    print(f"{name}: epochs {first} to {N_EPOCHS} on {n_ranks} ranks, {wrs.n_steps} steps")
    print(f"test accuracy {accuracy:.1%}; problems: {list(problems)}")
dist.destroy_process_group()
