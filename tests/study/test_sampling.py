"""A row of metrics: norms, rates, shares and scores by hand; steps to sample at."""

import pytest
import torch
from torch import nn

from decayfree import find_invariant
from decayfree.methods import NoTreatment
from decayfree.study.data import Dataset, Images, load
from decayfree.study.sampling import Sampler, first_convolution, first_layer_projector, sample_steps
from small_study import recipe


class Constant(nn.Module):
    """One 1×1 convolution with BatchNorm; says class 1 of every image."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, 2, 1, bias=False)
        self.normalization = nn.BatchNorm2d(2)
        self.last = nn.Parameter(torch.tensor([0.0, 1.0]))

    def forward(self, images):
        return 1e-9 * self.normalization(self.convolution(images)).mean(dim=(2, 3)) + self.last


@pytest.fixture
def sampler(seed):
    model = Constant()
    found = find_invariant(model, torch.randn(4, 3, 2, 2))
    with torch.no_grad():
        model.convolution.weight.copy_(torch.tensor([[3.0, 4.0, 0.0], [0.0, 0.0, 10.0]]).view(2, 3, 1, 1))
    pixels = torch.arange(16, dtype=torch.uint8).view(4, 2, 2)
    dataset = Dataset(
        train=Images(pixels, torch.tensor([0, 0, 0, 0])),
        test=Images(pixels, torch.tensor([1, 1, 1, 0])),
        n_classes=2,
        mean=0.0,
        std=1.0,
    )
    groups = NoTreatment().param_groups(model, found, rest_weight_decay=0.0)
    return Sampler(
        model=model,
        found=found,
        method=NoTreatment().attach(torch.optim.SGD(groups, lr=0.5), found),
        recipe=recipe(),
        dataset=dataset,
        train_labels=torch.tensor([1, 0, 0, 0]),
        first_layer="convolution.weight",
        off_span=torch.diag(torch.tensor([0.0, 1.0, 1.0])),
    )


def test_a_row_holds_what_can_be_checked_by_hand(sampler):
    row = sampler.row(step=6, learning_rate=0.5)
    assert (row.step, row.epoch, row.learning_rate) == (6, 1.5, 0.5)
    assert row.train_accuracy == 0.25  # of the labels that are trained on, noise included
    assert row.test_accuracy == 0.75
    loss_if_right = torch.nn.functional.softplus(torch.tensor(-1.0)).item()
    assert row.train_loss == pytest.approx((loss_if_right + 3 * (loss_if_right + 1)) / 4)
    assert row.norms == {"convolution.weight": 7.5}  # 5 and 10
    assert row.effective_learning_rates["convolution.weight"] == pytest.approx((0.5 / 25 + 0.5 / 100) / 2)
    assert row.off_span_share == pytest.approx((0.8 + 1.0) / 2)


def test_a_sample_changes_nothing(sampler):
    before = {name: value.clone() for name, value in sampler.model.state_dict().items()}
    random_state = torch.get_rng_state()
    sampler.row(step=0, learning_rate=0.5)
    assert all(torch.equal(value, before[name]) for name, value in sampler.model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert sampler.model.training


def test_the_first_convolution_is_found_by_name():
    name, convolution = first_convolution(nn.Sequential(nn.ReLU(), nn.Sequential(nn.Conv2d(3, 2, 1))))
    assert name == "1.0.weight"
    assert convolution.weight.shape == (2, 3, 1, 1)


def test_the_digits_leave_18_directions_of_the_first_layer_off_the_span():
    spec = recipe().data
    projector = first_layer_projector(spec, None, nn.Conv2d(3, 2, 3, padding=1))
    assert projector.trace().item() == pytest.approx(18, abs=1e-6)
    inputs = load(spec).to_input(load(spec).train.pixels)
    patches = nn.functional.unfold(inputs.double(), 3, padding=1).transpose(1, 2).reshape(-1, 27)
    assert ((patches - patches.mean(dim=0)) @ projector).abs().max() < 1e-5


def test_a_convolution_with_padding_in_words_is_refused():
    with pytest.raises(ValueError, match="two whole numbers for each setting, got 'same'"):
        first_layer_projector(recipe().data, None, nn.Conv2d(3, 2, 3, padding="same"))


@pytest.mark.parametrize(
    ("n_steps", "n_samples", "expected"),
    [(8, 5, (0, 2, 4, 6, 8)), (10, 4, (0, 3, 7, 10)), (3, 25, (0, 1, 2, 3)), (1200, 2, (0, 1200))],
)
def test_samples_are_even_from_before_the_first_step_to_after_the_last(n_steps, n_samples, expected):
    assert sample_steps(n_steps, n_samples) == expected
