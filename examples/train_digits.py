"""Train a small BatchNorm network on scanned digits without weight decay.

Needs scikit-learn for the images; takes seconds.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

import decayfree

torch.manual_seed(0)
images, labels = (torch.as_tensor(part) for part in load_digits(return_X_y=True))
images = (images.float() / 16).unflatten(1, (1, 8, 8))
train, test = slice(0, 900), slice(900, None)

model = nn.Sequential(
    nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
    nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
    nn.Flatten(), nn.Linear(32, 10),
)  # fmt: skip

optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)  # no weight_decay
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10)
found = decayfree.find_invariant(model, images[:8])
wrs = decayfree.WeightRescaling(optimizer, found)  # from here on the loop is as ever
print(found)

for _ in range(10):
    for batch in torch.randperm(900).split(50):
        optimizer.zero_grad()
        functional.cross_entropy(model(images[train][batch]), labels[train][batch]).backward()
        optimizer.step()
    scheduler.step()

model.eval()
accuracy = (model(images[test]).argmax(1) == labels[test]).float().mean().item()
print(f"test accuracy {accuracy:.1%}")
print(f"largest deviation of a norm from its radius {wrs.check().largest:.0e} after {wrs.n_steps} steps")
