"""Does each step of the search depend on nothing but what the steps before it returned?

Runs in between, frozen findings, and how often the model runs. Known answers are in test_discovery.py.
"""

import warnings
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from decayfree import find_invariant
from decayfree.invariance.evidence import Evidence
from decayfree.invariance.partition import TOLERANCES
from decayfree.invariance.probe import Probe, Ran
from decayfree.invariance.search import SearchResult, _Search, search
from decayfree.invariance.trials import Change, Trials
from support.zoo import BY_NAME
from support.zoo_entry import ZooModel

# One model for each way in which the search goes on after the first probe.
WITH_STEPS = {
    "conv_with_bias_under_batchnorm": "one probe",
    "one_batchnorm_in_eval_mode": "statistics that stand still beside others that move",
    "hand_written_batchnorm": "two runs to see what is averaged",
    "convolution_with_bias_and_norm_used_three_times": "statistics updated several times a run",
    "four_weights_in_a_chain": "weights scaled one by one",
    "frozen_weight": "a bias scaled along, and a second confirmation",
    "relu6_far_below_its_bend_between_weight_and_norm": "several probes and a culprit",
    "no_float64_kernel": "float32",
    "tied_convolutions_both_normalized": "gains that are doubled",
}


def searched(entry: ZooModel) -> SearchResult:
    model, inputs = entry.make()
    return search(model, inputs, entry.forward, entry.dtype, 3, 0)


@pytest.mark.parametrize("name", WITH_STEPS)
def test_runs_in_between_change_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After every run that needs no graph, and after every gradient, the probe runs on other weights."""
    undisturbed = searched(BY_NAME[name])
    run, gradients = Probe.run, Probe.gradients
    n_disturbed = 0

    @torch.no_grad()
    def disturb(probe: Probe) -> None:
        nonlocal n_disturbed
        n_disturbed += 1
        kept = [(tensor, tensor.clone()) for tensor in probe.parameters.values()]
        for tensor, _ in kept:
            tensor.mul_(3.7)
        run(probe)
        for tensor, values in kept:
            tensor.copy_(values)

    def disturbed_run(probe: Probe, **options: Any) -> Ran:
        ran = run(probe, **options)
        if not torch.is_grad_enabled():
            disturb(probe)
        return ran

    def disturbed_gradients(probe: Probe, outputs: list[Tensor]) -> dict[str, Tensor]:
        found = gradients(probe, outputs)
        disturb(probe)
        return found

    monkeypatch.setattr(Probe, "run", disturbed_run)
    monkeypatch.setattr(Probe, "gradients", disturbed_gradients)
    assert searched(BY_NAME[name]) == undisturbed
    assert n_disturbed >= 2


def test_what_a_run_left_stays_what_it_was() -> None:
    model, inputs = BY_NAME["conv2d_under_batchnorm2d"].make()
    probe = Probe(model, inputs, None, torch.float64, seed=0)
    ran = probe.run()
    left = ran.statistics["norm"].var.clone()
    with torch.no_grad():
        probe.parameters["conv.weight"].mul_(2.0)
    again = probe.run().statistics["norm"].var
    assert torch.equal(ran.statistics["norm"].var, left)
    # Half of every variance is the one at the start, the other half the batch's, which has grown by 2².
    start = ran.start["norm"].var
    assert torch.allclose(again - start / 2, 4 * (left - start / 2), rtol=1e-12)


def test_nothing_that_a_step_returns_can_be_changed() -> None:
    result = searched(BY_NAME["conv2d_under_batchnorm2d"])
    with pytest.raises(FrozenInstanceError):
        result.confirmed_to = 0.0  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        result.findings["conv.weight"].partition = None  # type: ignore[misc]
    assert replace(result.findings["conv.weight"], partition=None) != result.findings["conv.weight"]


def test_evidence_that_grows_leaves_the_old_one_alone() -> None:
    weight, gradient = torch.tensor([[3.0, 4.0]]), torch.tensor([[4.0, -3.0]])
    nothing = Evidence(TOLERANCES[torch.float64])
    once = nothing.with_probe(weight, gradient, None, None)
    assert (nothing.n_probes, once.n_probes, once.with_probe(weight, gradient, None, None).n_probes) == (
        0,
        1,
        2,
    )
    assert nothing.conclusion().partition is None
    assert once.conclusion().partition.blocks.block_sizes == (1,)
    # Along itself a gradient of (3, 4) moves everything: ⟨w, g⟩ = 25.
    moved = once.with_probe(weight, weight, None, None).conclusion()
    assert (moved.partition, moved.moves) == (None, 25.0)


@pytest.mark.parametrize("eps", [1e-30, 1e-12])
def test_a_larger_eps_does_not_show(eps: float) -> None:
    """Where rounding asks for ε = 1e-12, blocks are only lengthened: a 64th of a block would show it."""
    model, inputs = BY_NAME["conv2d_under_batchnorm2d"].make()
    probe = Probe(model, 0.3 * inputs, None, torch.float64, seed=0, eps=eps)
    result = _Search(probe, TOLERANCES[torch.float64], n_probes=3).result()
    assert result.findings["conv.weight"].partition is not None
    assert result.confirmed_to <= TOLERANCES[torch.float64].confirm


def test_statistics_start_at_zero_only_where_nobody_notices() -> None:
    """Outputs are multiplied by the statistics from before the batch: with zeros all would seem to move."""

    class Noticing(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = torch.nn.Conv2d(3, 6, 3, groups=3, bias=False), torch.nn.BatchNorm2d(6)

        def forward(self, x: Tensor) -> Tensor:
            before = self.norm.running_var.clone().reshape(1, -1, 1, 1)
            return self.norm(self.conv(x)).relu() * before

    _, inputs = BY_NAME["conv2d_under_batchnorm2d"].make()
    faint = inputs * torch.tensor([1.0, 1e-5, 1.0]).reshape(1, 3, 1, 1)
    assert find_invariant(Noticing(), faint).verdicts["conv.weight"].verdict == "invariant"


# How often the model runs: one probe, one confirmation, and one run for all that is left to ask, unless
# something else is needed: before runs whose outputs are not compared, an equal one.
N_RUNS = {
    "conv_with_bias_under_batchnorm": 3,
    "post_activation_residual_network": 3,
    "pre_activation_residual_network": 3,
    "convolution_with_bias_and_norm_used_three_times": 3,
    "hand_written_batchnorm": 3 + 1 + 2,  # from zero and from one, to see the share of a batch
    "one_input_channel_a_hundred_thousand_times_fainter": 3 + 1 + 1,  # once more with statistics at zero
    "four_weights_in_a_chain": 3 + 4,  # several weights act on a channel: each of the four alone
}


@pytest.mark.parametrize("name", N_RUNS)
def test_the_model_runs_no_more_often_than_needed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    entry, run, n_runs = BY_NAME[name], Probe.run, 0

    def counted(probe: Probe, **options: Any) -> Ran:
        nonlocal n_runs
        n_runs += 1
        return run(probe, **options)

    monkeypatch.setattr(Probe, "run", counted)
    model, inputs = entry.make()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        find_invariant(model, inputs, forward=entry.forward)
    assert n_runs == N_RUNS[name]


def test_weights_that_different_norms_see_are_scaled_in_one_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two pairs of convolutions, each before a norm of its own: two runs tell all four apart, not four."""
    torch.manual_seed(0)
    pairs = [
        layer
        for n_inputs in (3, 6)
        for layer in (
            torch.nn.Conv2d(n_inputs, 6, 3, bias=False),
            torch.nn.Conv2d(6, 6, 3, groups=6, padding=1, bias=False),
            torch.nn.BatchNorm2d(6),
            torch.nn.ReLU(),
        )
    ]
    model, inputs = torch.nn.Sequential(*pairs, torch.nn.Conv2d(6, 2, 3)), torch.randn(4, 3, 9, 9)
    n_scaled, run = [], Trials.run

    def counted(self: Trials, *changes: Change) -> Ran:
        n_scaled.append(len(changes))
        return run(self, *changes)

    monkeypatch.setattr(Trials, "run", counted)
    found = find_invariant(model, inputs)
    assert n_scaled[-2:] == [2, 2]
    assert 1 not in n_scaled
    assert [[layer.name for layer in weight.norm_layers] for weight in found] == [["2"], ["2"], ["6"], ["6"]]
    assert all(weight.norm_layers[0].blocks == tuple(range(6)) for weight in found)


def test_a_gradient_makes_room_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    left, gradients = [], Probe.gradients

    def watched(probe: Probe, outputs: list[Tensor]) -> dict[str, Tensor]:
        found = gradients(probe, outputs)
        left.extend(gradient for gradient in found.values() if gradient.ndim > 1)
        return found

    monkeypatch.setattr(Probe, "gradients", watched)
    layers = [layer for _ in range(3) for layer in (torch.nn.Linear(32, 32), torch.nn.LayerNorm(32))]
    torch.manual_seed(0)
    find_invariant(torch.nn.Sequential(*layers, torch.nn.Linear(32, 2)), torch.randn(8, 32))
    assert len(left) == 4
    assert all(gradient.untyped_storage().nbytes() == 8 for gradient in left)
