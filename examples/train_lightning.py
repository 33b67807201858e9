"""Lightning: a network on scanned digits without weight decay, its average in the end, all in callbacks.

Needs scikit-learn and Lightning; takes seconds.
"""

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import decayfree
from decayfree.dynamics import read_jsonl
from decayfree.integrations.lightning import RecorderCallback, WeightRescalingCallback, found_in

images, labels = (torch.as_tensor(part) for part in load_digits(return_X_y=True))
images = (images.float() / 16).unflatten(1, (1, 8, 8))
train, test = TensorDataset(images[:900], labels[:900]), slice(900, None)


class Digits(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
            nn.Flatten(), nn.Linear(32, 10),
        )  # fmt: skip

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.net(images)

    def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
        return functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
        decayfree.exempt_(optimizer, found_in(self.trainer))  # the rest keeps its decay
        return optimizer


torch.manual_seed(0)
rescaling = WeightRescalingCallback(images[:8])  # before callbacks that average
trainer = Trainer(
    callbacks=[rescaling, RecorderCallback(every=30), EMAWeightAveraging(decay=0.95)],
    max_epochs=10,
    accelerator="cpu",
    logger=False,  # samples go to the loggers, or else to dynamics.jsonl
    enable_checkpointing=False,
    enable_progress_bar=False,
)
model = Digits()
trainer.fit(model, DataLoader(train, batch_size=50, shuffle=True))

print(rescaling.found)
model.eval()
accuracy = (model(images[test]).argmax(1) == labels[test]).float().mean().item()
print(f"test accuracy of the average {accuracy:.1%}")
print(f"largest deviation of a norm from its radius {rescaling.attached[0].check().largest:.0e}")
print(f"{len(read_jsonl('dynamics.jsonl'))} samples in dynamics.jsonl")
