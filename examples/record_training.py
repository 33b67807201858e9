"""Record what scale-invariant weights do while a network trains, with and without weight rescaling.

Needs scikit-learn; takes seconds.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

import decayfree
from decayfree.dynamics import read_jsonl

images, labels = (torch.as_tensor(part) for part in load_digits(return_X_y=True))
images = (images.float() / 16).unflatten(1, (1, 8, 8))


def train(*, rescaled: bool) -> decayfree.Recorder:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(32, 10),
    )  # fmt: skip
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    found = decayfree.find_invariant(model, images[:8])
    # Appends to dynamics.jsonl, a line every 50 steps.
    recorder = decayfree.Recorder(optimizer, found, every=50)
    if rescaled:
        decayfree.WeightRescaling(optimizer, found)
    for _ in range(10):
        for batch in torch.randperm(len(images)).split(60):
            optimizer.zero_grad()
            functional.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
    return recorder


runs = {train(rescaled=rescaled).run: rescaled for rescaled in (False, True)}
print(
    "rescaled  step  norm  effective learning rate  angular update, "
    "degrees  (means of the second convolution)"
)
for sample in read_jsonl("dynamics.jsonl"):
    if sample.run not in runs:  # of a training before this one
        continue
    mean = {name: values["mean"] for name, values in sample.weights["4.weight"].items()}
    angle = torch.rad2deg(torch.tensor(mean["angular_update_rad"])).item()
    print(
        f"{'yes' if runs[sample.run] else 'no':8}  {sample.step:4}  {mean['norm']:.2f}  "
        f"{mean['effective_learning_rate']:23.3f}  {angle:23.2f}"
    )
