"""How often a search runs the model, and on how many samples: counted, since time is no test."""

import pytest
import torch
from torch import Tensor, nn

import decayfree

CALLS: list[int] = []


class Counted(nn.Module):
    """Notes how many samples come in, wherever it is copied to."""

    def forward(self, x: Tensor) -> Tensor:
        CALLS.append(len(x))
        return x


@pytest.fixture(autouse=True)
def no_calls():
    CALLS.clear()
    torch.manual_seed(0)


def found_in(model: nn.Module, inputs: Tensor) -> decayfree.Invariance:
    return decayfree.find_invariant(nn.Sequential(Counted(), model), inputs)


@pytest.mark.parametrize(("n_samples", "n_seen"), [(4, 4), (15, 15), (16, 8), (300, 8)])
def test_a_search_looks_at_a_few_samples(n_samples, n_seen):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
    found = found_in(model, torch.randn(n_samples, 3, 8, 8))
    assert [weight.name for weight in found] == ["1.0.weight"]
    assert set(CALLS) == {n_seen}


class Routed(nn.Module):
    """Sends samples whose first number is large to another layer."""

    def __init__(self) -> None:
        super().__init__()
        self.usual, self.rare = nn.Linear(4, 6, bias=False), nn.Linear(4, 6, bias=False)
        self.norm, self.head = nn.LayerNorm(6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        CALLS.append(len(x))
        is_rare = (x[:, :1] > 3).to(x.dtype)
        hidden = self.norm(self.usual(x)) * (1 - is_rare) + self.norm(self.rare(x)) * is_rare
        return self.head(torch.tanh(hidden))


def test_all_samples_are_looked_at_where_the_first_do_not_reach_everything():
    inputs = torch.randn(40, 4).clamp(-2, 2)
    inputs[30:, 0] = 5.0
    found = decayfree.find_invariant(Routed(), inputs)
    assert {weight.name for weight in found} == {"usual.weight", "rare.weight"}
    assert {8, 40} == set(CALLS)


def test_a_model_for_batches_of_one_size_gets_all_of_it():
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.norm = nn.Linear(4, 6, bias=False), nn.LayerNorm(6)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.linear(x)).reshape(4, 4, 6).tanh().sum(0)

    assert [weight.name for weight in decayfree.find_invariant(Fixed(), torch.randn(16, 4))] == [
        "linear.weight"
    ]


def test_a_function_of_the_users_gets_what_was_passed():
    model = nn.Sequential(Counted(), nn.Linear(4, 6, bias=False), nn.LayerNorm(6))
    decayfree.find_invariant(model, torch.randn(32, 4), forward=lambda model, x: model(x).tanh())
    assert set(CALLS) == {32}


def test_gains_before_clips_are_told_by_one_gradient():
    def block(n: int) -> list[nn.Module]:
        return [
            *(nn.Conv2d(n, n, 1, bias=False), nn.BatchNorm2d(n), nn.ReLU6()),
            *(nn.Conv2d(n, n, 3, groups=n, bias=False), nn.BatchNorm2d(n), nn.ReLU6()),
        ]

    layers = [nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU6()]
    for _ in range(6):
        layers += block(8)
    model = nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(3))
    images = torch.randn(8, 3, 18, 18)
    model(images)
    found = found_in(model, images)
    assert len(found) == 13
    gains = [verdict for name, verdict in found.verdicts.items() if verdict.shape == (8,)]
    assert all(verdict.verdict == "not_invariant" for verdict in gains if "weight" in verdict.name)
    assert len(CALLS) <= 8  # 60 and more where each was singled out


class ScaledBranch(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(width), nn.Linear(width, width)
        self.scale = nn.Parameter(torch.full((width,), 1e-7))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale * self.linear(self.norm(x)).tanh()


def test_parameters_behind_a_small_layer_scale_are_asked_together():
    model = nn.Sequential(nn.Linear(8, 16), *(ScaledBranch(16) for _ in range(8)), nn.Linear(16, 3))
    found = found_in(model, torch.randn(8, 8))
    assert not list(found)
    weights = {name: one for name, one in found.verdicts.items() if name.endswith("linear.weight")}
    assert len(weights) == 8
    assert {one.verdict for one in weights.values()} == {"not_invariant"}
    assert len(CALLS) <= 14  # three for each where they were asked one by one


class Branch(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.linear(x).tanh() / 8


def test_nearly_cancelled_matrices_cost_no_run_of_their_own():
    # Of 200 matrices the growths of rows cancel in some by chance, but for 2 % or less.
    model = nn.Sequential(*(Branch(16) for _ in range(200)), nn.Linear(16, 3))
    found_in(model, torch.randn(8, 16))
    assert len(CALLS) <= 4
