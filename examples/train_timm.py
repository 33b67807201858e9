"""timm, in the order of its training script: layer decay, Lookahead, an average, a schedule.

Needs scikit-learn and timm; takes seconds.
"""

from itertools import islice

import timm
import torch
from sklearn.datasets import load_digits
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import ModelEmaV3
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import decayfree

images, labels = (torch.as_tensor(part) for part in load_digits(return_X_y=True))
images = (images.float() / 16).unflatten(1, (1, 8, 8)).repeat_interleave(4, 2).repeat_interleave(4, 3)
loader = DataLoader(TensorDataset(images[:900], labels[:900]), batch_size=50, shuffle=True)
n_epochs = 4

torch.manual_seed(0)
model = timm.create_model("test_resnet", num_classes=10, in_chans=1)
optimizer = create_optimizer_v2(model, "lookahead_sgd", lr=0.05, weight_decay=5e-4, layer_decay=0.9)
found = decayfree.find_invariant(model, images[:8])
exempt = decayfree.exempt_(optimizer, found)  # before the scheduler; layer decay stays
# resume_checkpoint(model, path, optimizer) would be here.
wrs = decayfree.WeightRescaling(optimizer, found)  # on the outermost optimizer, before the average
ema = ModelEmaV3(model, decay=0.95)
scheduler, _ = create_scheduler_v2(
    optimizer,
    num_epochs=n_epochs,
    warmup_epochs=1,
    updates_per_epoch=len(loader),
    step_on_epochs=False,
)

n_updates = 0
for _ in range(n_epochs):
    for batch, targets in loader:
        optimizer.zero_grad()
        functional.cross_entropy(model(batch), targets).backward()
        optimizer.step()
        n_updates += 1
        ema.update(model, step=n_updates)
        scheduler.step_update(num_updates=n_updates)

print(f"{len(exempt)} weights without decay, {len(optimizer.param_groups)} groups")
average = decayfree.averaged(ema, found, islice(loader, 10))
accuracy = (average(images[900:]).argmax(1) == labels[900:]).float().mean().item()
print(f"test accuracy of the average {accuracy:.1%}")
print(f"largest deviation of a norm from its radius {wrs.check().largest:.0e} after {wrs.n_steps} steps")
