"""Do the probe's claims hold on networks that nobody thought of? Random ones, judged by finite scaling."""

import warnings
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings

from decayfree import Invariance, ScaleInvariantWeight, find_invariant
from support.claims import UNKNOWN, at_random, movement_in_eval_mode, scale_weight_, wrong_claims
from support.compositions import NETWORKS, NetworkSpec, network_of, pictures
from support.oracle import Bench, finest_block_sizes, generic_copy, row_view

SMALL = settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
N_NETWORKS = 1000


def probed(spec: NetworkSpec) -> tuple[Bench, Invariance]:
    model, inputs = spec.build(), pictures(spec.seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a network may happen to have its only norm in eval mode
        found = find_invariant(model, inputs)
    return Bench(generic_copy(model, seed=spec.seed), inputs), found


def claims_that_are_wrong(numbers: range) -> dict[int, list[str]]:
    judged = {}
    for number in numbers:
        bench, found = probed(network_of(number))
        judged[number] = wrong_claims(bench, found, torch.Generator().manual_seed(number))
    return {number: wrong for number, wrong in judged.items() if wrong}


@pytest.mark.parametrize("first", range(0, 60, 20))
def test_what_is_found_can_be_scaled_and_what_is_not_cannot(first: int) -> None:
    assert claims_that_are_wrong(range(first, first + 20)) == {}


@pytest.mark.slow
@pytest.mark.parametrize("first", range(60, N_NETWORKS, 20))
def test_so_it_is_in_a_thousand_networks(first: int) -> None:
    assert claims_that_are_wrong(range(first, first + 20)) == {}


@SMALL
@given(NETWORKS)
def test_blocks_are_the_finest_and_running_statistics_follow(spec: NetworkSpec) -> None:
    bench, found = probed(spec)
    for weight in found:
        finest = finest_sizes(bench, weight)
        assert finest == weight.block_sizes or has_dead_rows(bench, weight), (weight.name, finest)
    followed = [weight for weight in found if all(layer.shift != UNKNOWN for layer in weight.norm_layers)]
    generator = torch.Generator().manual_seed(spec.seed)
    assert movement_in_eval_mode(bench, followed, at_random(generator)) < 1e-10


def has_dead_rows(bench: Bench, weight: ScaleInvariantWeight) -> bool:
    """Whether a row has no effect on these inputs (behind a ReLU, say): finite scaling sees a cut at it."""

    def disturb(model: torch.nn.Module, row: int) -> None:
        view = row_view(model.get_parameter(weight.name), weight.axis, weight.groups)
        (view[divmod(row, view.shape[1])] if weight.axis == 1 else view[row]).add_(1e-3)

    rows = weight.blocks.rows
    return any(bench.movement_after(lambda model, row=row: disturb(model, row)) == 0 for row in rows)


def finest_sizes(bench: Bench, weight: ScaleInvariantWeight) -> tuple[int, ...] | None:
    n_rows = sum(weight.block_sizes)
    starts = weight.blocks.rows if weight.starts else ()
    rows = replace(weight, block_sizes=(1,) * n_rows, starts=starts)

    def is_invariant_under(factors: torch.Tensor) -> bool:
        return bench.movement_after(lambda model: scale_weight_(model, rows, factors)) < 1e-9

    return finest_block_sizes(n_rows, is_invariant_under)


def test_a_bend_that_far_steps_jump_over_is_met_in_between() -> None:
    """A Hardshrink between a weight with its bias and a norm: after far steps, no value is inside of it."""
    _, found = probed(network_of(679))
    assert found.verdicts["stages.1.layer.weight"].verdict == "not_invariant"
    assert "stages.0.layer.weight" in found
