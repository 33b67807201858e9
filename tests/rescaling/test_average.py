"""An average is made ready without touching it: its statistics are those of its own weights."""

import copy

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

import decayfree
from decayfree import InvalidInputError, MismatchError, WeightRescaling, averaged
from support.available import import_or_skip


def net() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * 16, 10),
    )


def digits() -> tuple[Tensor, Tensor]:
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 8 - 1
    return images, torch.tensor(data.target)


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Per cent."""
    model.eval()
    with torch.no_grad():
        return float((model(images).argmax(1) == labels).float().mean()) * 100


class TorchEma(AveragedModel):
    def __init__(self, model: nn.Module) -> None:
        super().__init__(model, multi_avg_fn=get_ema_multi_avg_fn(0.98))

    def update(self, model: nn.Module) -> None:
        self.update_parameters(model)


def timm_ema(model: nn.Module) -> nn.Module:
    return import_or_skip("timm.utils").ModelEmaV3(model, decay=0.98)


def pytorch_ema(model: nn.Module) -> nn.Module:
    return import_or_skip("ema_pytorch").EMA(model, beta=0.98, update_after_step=0, update_every=1)


@pytest.mark.parametrize("kind", [TorchEma, timm_ema, pytorch_ema], ids=lambda kind: kind.__name__)
def test_it_is_as_right_as_recomputed_statistics_from_the_first_epoch_on(seed, kind):
    images, labels = digits()
    train, test = slice(0, 1200), slice(1200, None)
    model = net()
    found = decayfree.find_invariant(model, images[:64])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    WeightRescaling(optimizer, found)
    ema = kind(model)
    for epoch in range(3):
        model.train()
        for batch in torch.randperm(1200).split(50):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[train][batch]), labels[train][batch]).backward()
            optimizer.step()
            ema.update(*([] if kind is pytorch_ema else [model]))
        before = copy.deepcopy(ema.state_dict())
        ready = averaged(ema, found, images[train].split(100)[:4])
        assert all(torch.equal(value, before[name]) for name, value in ema.state_dict().items())
        recomputed = copy.deepcopy(averaged(ema, found, images[:8]))
        update_bn(images[train].split(100), recomputed)
        right = accuracy(recomputed, images[test], labels[test])
        assert abs(accuracy(ready, images[test], labels[test]) - right) <= 1, epoch
        norms = ready[3].weight.flatten(1).norm(dim=1)
        assert norms.allclose(torch.tensor(1.0), atol=1e-6)


def test_statistics_are_those_of_the_batches_brought_to_the_radius(seed):
    model = net().double()
    images = digits()[0][:32].double()
    found = decayfree.find_invariant(model, images)
    with torch.no_grad():
        model[0].weight.mul_(0.7)
    ready = averaged(model, found, [images[:16], images[16:]], radius=2.0)
    assert not ready.training
    with torch.no_grad():
        means, variances = zip(
            *(
                (one.mean((0, 2, 3)), one.var((0, 2, 3)))
                for one in (ready[0](images[:16]), ready[0](images[16:]))
            ),
            strict=True,
        )
    assert torch.allclose(ready[1].running_mean, torch.stack(means).mean(0), rtol=1e-12)
    assert torch.allclose(ready[1].running_var, torch.stack(variances).mean(0), rtol=1e-12)
    assert torch.allclose(ready[0].weight.flatten(1).norm(dim=1), torch.tensor(2.0, dtype=torch.float64))


def test_without_running_statistics_nothing_is_measured(seed):
    model = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 2)).double()
    inputs = torch.randn(16, 4).double()
    found = decayfree.find_invariant(model, inputs)
    ready = averaged(AveragedModel(model), found)
    assert torch.allclose(ready(inputs), model(inputs), rtol=1e-4)


def test_batches_are_those_of_a_loader_or_of_the_models_own_kind(seed):
    model, (images, labels) = net(), digits()
    found = decayfree.find_invariant(model, images[:32])
    batches = images[:64].split(32)
    expected = averaged(model, found, batches)[1].running_var
    pairs = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images[:64], labels[:64]), 32)
    of_mappings = ({"input": one} for one in batches)
    of_own_kind = ([0, one] for one in batches)
    assert torch.equal(averaged(model, found, pairs)[1].running_var, expected)
    assert torch.equal(averaged(model, found, of_mappings)[1].running_var, expected)
    own = averaged(model, found, of_own_kind, forward=lambda model, batch: model(batch[1]))
    assert torch.equal(own[1].running_var, expected)


def test_what_cannot_be_measured_is_refused(seed):
    model, (images, _) = net(), digits()
    found = decayfree.find_invariant(model, images[:32])
    for batches in (None, [], iter(()), [images[:0]], [(images[:0], torch.zeros(0))]):
        with pytest.raises(InvalidInputError, match=r"2 normalizations \(1, …\) keep running statistics"):
            averaged(model, found, batches)
    broken = images[:4].clone()
    broken[0, 0, 0, 0] = float("nan")
    with pytest.raises(InvalidInputError, match=r"the statistics of 1, 4 are NaN or infinite"):
        averaged(model, found, [images[:32], broken])
    with pytest.raises(InvalidInputError, match=r"model must be a torch.nn.Module, got list.*got NoneType"):
        averaged([], None)
    with pytest.raises(MismatchError, match="another model"):
        averaged(nn.Sequential(nn.Linear(2, 2)), found, [images])
    tracking = nn.Sequential(nn.Conv2d(1, 4, 3), nn.InstanceNorm2d(4, track_running_stats=True), nn.Flatten())
    also = decayfree.find_invariant(tracking, images[:8])
    with pytest.raises(InvalidInputError, match="InstanceNorm2d is no BatchNorm"):
        averaged(tracking, also, [images[:8]])
