"""A row of metrics: norms, rates, shares and scores by hand; steps to sample at."""

import dataclasses
import math

import pytest
import torch
from torch import nn

from decayfree import find_invariant
from decayfree.methods import NoTreatment
from decayfree.span.layer_span import LayerSpan
from decayfree.span.patches import RowLayout
from decayfree.study.data import Dataset, Images, load
from decayfree.study.tasks.table import TASKS
from decayfree.study.training.first_layer import FirstLayer
from decayfree.study.training.laws import OffSpanLaw
from decayfree.study.training.sampling import Sampler, family_or_none, sample_steps
from support.small_study import recipe


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
        train=Images(pixels, torch.tensor([1, 0, 0, 0])),
        validation=Images(pixels[:2], torch.tensor([1, 0])),
        test=Images(pixels, torch.tensor([1, 1, 1, 0])),
        n_classes=2,
        mean=0.0,
        std=1.0,
    )
    groups = NoTreatment().param_groups(model, found, rest_weight_decay=0.0)
    optimizer = torch.optim.SGD(groups, lr=0.5)
    layout = RowLayout((2, 3, 1, 1))
    moment = torch.diag(torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64))
    return Sampler(
        model=model,
        found=found,
        method=NoTreatment().attach(optimizer, found),
        recipe=recipe(),
        seed=0,
        task=TASKS["classification"],
        dataset=dataset,
        family="sgd",
        first_layer=FirstLayer(
            model,
            "convolution.weight",
            LayerSpan("convolution.weight", layout, moment[None], torch.zeros(1, 3)),
            OffSpanLaw(optimizer, found, "convolution.weight", torch.tensor([3.5, 9.0])),
        ),
    )


def test_a_row_holds_what_can_be_checked_by_hand(sampler):
    row = sampler.row(step=6, learning_rate=0.5)
    assert (row.step, row.epoch, row.learning_rate) == (6, 1.5, 0.5)
    assert row.train_score == 0.25  # of the labels that are trained on, noise included
    assert row.test_score == 0.75
    loss_if_right = torch.nn.functional.softplus(torch.tensor(-1.0)).item()
    assert row.train_loss == pytest.approx((loss_if_right + 3 * (loss_if_right + 1)) / 4)
    assert row.validation_score == 0.5
    assert row.validation_loss == pytest.approx(loss_if_right + 0.5)
    assert row.test_loss == pytest.approx(loss_if_right + 0.25)
    assert row.norms == {"convolution.weight": 7.5}  # 5 and 10
    assert row.effective_learning_rates["convolution.weight"] == pytest.approx((0.5 / 25 + 0.5 / 100) / 2)
    assert row.off_span_share == pytest.approx((0.8 + 1.0) / 2)
    assert row.off_span_law == pytest.approx((0.7 + 0.9) / 2)  # of the norms as they are: 3.5 of 5, 9 of 10
    assert row.angular_updates.keys() == {"convolution.weight"}
    assert math.isnan(row.angular_updates["convolution.weight"])  # nothing is known of the step before


def test_an_angle_is_that_between_a_weight_before_and_after(sampler):
    before = sampler.weights()
    with torch.no_grad():  # a right angle and none
        sampler.model.convolution.weight.copy_(
            torch.tensor([[0.0, 0.0, 2.0], [0.0, 0.0, 5.0]]).view(2, 3, 1, 1)
        )
    row = sampler.row(step=6, learning_rate=0.5, before=before)
    assert row.angular_updates["convolution.weight"] == pytest.approx(math.pi / 4)


def test_a_block_of_zeros_has_no_angle(sampler):
    before = sampler.weights()
    before["convolution.weight"][1] = 0.0
    with torch.no_grad():
        sampler.model.convolution.weight[0] = torch.tensor([-4.0, 3.0, 0.0]).view(3, 1, 1)
    row = sampler.row(step=6, learning_rate=0.5, before=before)
    assert row.angular_updates["convolution.weight"] == pytest.approx(math.pi / 2)


def test_an_angle_counts_a_bias_that_works_together_with_its_weight(seed):
    model = nn.Sequential(
        nn.Conv2d(3, 2, 1), nn.GroupNorm(1, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    found = find_invariant(model, torch.randn(4, 3, 2, 2))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]).view(2, 3, 1, 1))
        model[0].bias.zero_()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    spec = recipe()
    sampler = Sampler(
        model=model,
        found=found,
        method=NoTreatment().attach(optimizer, found),
        recipe=spec,
        seed=0,
        task=TASKS["classification"],
        dataset=load(spec.data),
        family="none",
        first_layer=None,
    )
    before = sampler.weights()
    assert before.keys() == {"0.weight", "0.bias"}
    with torch.no_grad():
        model[0].bias.copy_(torch.tensor([0.0, 1.0]))
    assert sampler._angular_updates(before) == {"0.weight": pytest.approx(math.pi / 4)}


def test_a_sample_changes_nothing(sampler):
    before = {name: value.clone() for name, value in sampler.model.state_dict().items()}
    random_state = torch.get_rng_state()
    sampler.row(step=0, learning_rate=0.5)
    assert all(torch.equal(value, before[name]) for name, value in sampler.model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert sampler.model.training


def test_an_elementwise_optimizer_has_its_rate_over_the_norm(sampler):
    row = dataclasses.replace(sampler, family="adam").row(step=6, learning_rate=0.5)
    assert row.effective_learning_rates["convolution.weight"] == pytest.approx((0.5 / 5 + 0.5 / 10) / 2)


def test_an_optimizer_of_no_family_has_no_effective_learning_rate(sampler):
    row = dataclasses.replace(sampler, family="none").row(step=6, learning_rate=0.5)
    assert math.isnan(row.effective_learning_rates["convolution.weight"])


def test_what_is_not_there_is_not_a_number(sampler):
    nothing = Images(sampler.dataset.train.pixels[:0], sampler.dataset.train.labels[:0])
    dataset = dataclasses.replace(sampler.dataset, validation=nothing)
    row = dataclasses.replace(sampler, dataset=dataset, first_layer=None).row(step=6, learning_rate=0.5)
    values = (row.validation_score, row.validation_loss, row.off_span_share, row.off_span_law)
    assert all(map(math.isnan, values))


def test_the_family_is_that_of_the_optimizer():
    weights = [nn.Parameter(torch.ones(2))]
    optimizers = (torch.optim.SGD(weights), torch.optim.AdamW(weights), torch.optim.LBFGS(weights))
    assert [family_or_none(one) for one in optimizers] == ["sgd", "adam", "none"]


@pytest.mark.parametrize(
    ("n_steps", "n_samples", "expected"),
    [(8, 5, (0, 2, 4, 6, 8)), (10, 4, (0, 3, 7, 10)), (3, 25, (0, 1, 2, 3)), (1200, 2, (0, 1200))],
)
def test_samples_are_even_from_before_the_first_step_to_after_the_last(n_steps, n_samples, expected):
    assert sample_steps(n_steps, n_samples) == expected
