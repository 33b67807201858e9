"""Processes that train one model and hold it differently are told so within a step, and none ever hangs.

Two processes on gloo; what each of them heard is looked at here.
"""

import json
import os
import re
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import decayfree
from decayfree.rescaling import ranks
from support.processes import in_processes, needs_gloo

pytestmark = [needs_gloo, pytest.mark.filterwarnings("default")]

Heard = dict[str, Any]


def net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 2))


def batch() -> Tensor:
    return torch.randn(8, 4, generator=torch.Generator().manual_seed(1))


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    model(batch()).square().mean().backward()
    optimizer.step()


def attached(model: nn.Module, **settings: Any) -> tuple[torch.optim.Optimizer, decayfree.WeightRescaling]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    found = decayfree.find_invariant(model, batch())
    return optimizer, decayfree.WeightRescaling(optimizer, found, **settings)


def agree(rank: int) -> Heard:
    model = net()
    optimizer, wrs = attached(model)
    parallel = DistributedDataParallel(model)
    for _ in range(3):
        step(parallel, optimizer)
    return {"problems": wrs.check().problems, "weight": model[0].weight.tolist()}


def on_one_rank(rank: int) -> Heard:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    parallel, wrs = DistributedDataParallel(model), None
    if rank == 0:
        optimizer, wrs = attached(model)
    step(parallel, optimizer)
    return {"problems": wrs.check().problems if wrs else ()}


def differing(name: str, *values: Any) -> Callable[[int], Heard]:
    def differ(rank: int) -> Heard:
        model = net()
        parallel = DistributedDataParallel(model)
        optimizer, _ = attached(model, **{name: values[rank]})
        before = model[0].weight.detach().clone()
        try:
            step(parallel, optimizer)
        finally:
            assert before.equal(model[0].weight)
        return {}

    return differ


def other_weights(rank: int) -> Heard:
    torch.manual_seed(0)
    model = nn.Sequential(*(layer for _ in range(2) for layer in (nn.Linear(4, 4), nn.BatchNorm1d(4))))
    parallel, optimizer = DistributedDataParallel(model), torch.optim.SGD(model.parameters(), lr=0.1)
    exclude = () if rank == 0 else ("2.*",)
    decayfree.WeightRescaling(optimizer, decayfree.find_invariant(model, batch(), exclude=exclude))
    step(parallel, optimizer)
    return {}


def resumed_on_one_rank(rank: int) -> Heard:
    model = net()
    parallel = DistributedDataParallel(model)
    optimizer, wrs = attached(model)
    if rank == 1:
        wrs.load_state_dict(wrs.state_dict() | {"n_steps": 5})
    step(parallel, optimizer)
    return {}


def init_before_parallel(rank: int) -> Heard:
    model = net(seed=rank)  # as many scripts do; DistributedDataParallel then sends those of rank 0 to all
    optimizer, wrs = attached(model, radius="init")
    parallel = DistributedDataParallel(model)
    for _ in range(3):
        step(parallel, optimizer)
    return {
        "problems": wrs.check().problems,
        "radii": wrs.radii["0.weight"].tolist(),
        "weight": model[0].weight.tolist(),
        "mean": model[1].running_mean.tolist(),
    }


def detached_on_one_rank(rank: int) -> Heard:
    model = net()
    parallel = DistributedDataParallel(model)
    optimizer, wrs = attached(model)
    step(parallel, optimizer)
    if rank == 1:
        wrs.detach()
    return {"problems": wrs.check().problems}


def checked_on_one_rank(rank: int) -> Heard:
    from torch.distributed.fsdp import fully_shard

    model = net()
    found = decayfree.find_invariant(model, batch())
    fully_shard(model)
    wrs = decayfree.WeightRescaling(torch.optim.SGD(model.parameters(), lr=0.1), found)
    return {"problems": wrs.check().problems if rank == 0 else ()}


def sharded_on_one_rank(rank: int) -> Heard:
    from torch.distributed.fsdp import fully_shard

    model = net()
    found = decayfree.find_invariant(model, batch())
    fully_shard(model)
    if rank == 0:
        decayfree.WeightRescaling(torch.optim.SGD(model.parameters(), lr=0.1), found)
    return {}


def state_of_one_rank(rank: int) -> Heard:
    from torch.distributed.fsdp import fully_shard

    model = net()
    found = decayfree.find_invariant(model, batch())
    fully_shard(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    turning = decayfree.Turning(optimizer, found, steps_per_epoch=5)
    step(model, optimizer)
    together = turning.state_dict()
    if rank == 0:
        assert str(turning.state_dict()) == str(together)  # without the others, who have not moved either
    step(model, optimizer)
    if rank == 0:
        turning.state_dict()
    return {}


def models_of_their_own(rank: int) -> Heard:
    model = net(seed=rank)
    optimizer, wrs = attached(model, radius=1.0 + rank)
    step(model, optimizer)
    return {"radius": float(wrs.radii["0.weight"][0])}


SCENES: dict[str, Callable[[int], Heard]] = {
    "agree": agree,
    "on one rank": on_one_rank,
    "radius": differing("radius", 1.0, 2.0),
    "every": differing("every", 1, 2),
    "momentum": differing("momentum", "keep", "scale"),
    "at_most": differing("at_most", False, True),
    "schedule": differing("schedule", "plain", "follow"),
    "other weights": other_weights,
    "resumed on one rank": resumed_on_one_rank,
    "init before parallel": init_before_parallel,
    "detached on one rank": detached_on_one_rank,
    "checked on one rank": checked_on_one_rank,
    "sharded on one rank": sharded_on_one_rank,
    "state of one rank": state_of_one_rank,
    "models of their own": models_of_their_own,
}


def play(rank: int, folder: Path) -> None:
    ranks.TIME_OUT_S = ranks.MEETING_TIME_OUT_S = 1.0
    heard: dict[str, Heard] = {}
    for name, scene in SCENES.items():
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            started = time.monotonic()
            try:
                heard[name] = scene(rank)
            except decayfree.DecayFreeError as error:
                heard[name] = {"error": type(error).__name__, "message": str(error)}
            heard[name] |= {"took": time.monotonic() - started}
        heard[name]["warnings"] = [str(one.message) for one in said if "rank" in str(one.message)]
        dist.barrier()
    (folder / f"heard {rank}.json").write_text(json.dumps(heard), encoding="utf-8")


@pytest.fixture(scope="module")
def heard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[dict[str, Heard]]]:
    folder = tmp_path_factory.mktemp("ranks")
    in_processes(play, 2, folder)
    return [json.loads((folder / f"heard {rank}.json").read_text(encoding="utf-8")) for rank in (0, 1)]


def test_ranks_that_hold_alike_are_told_nothing_and_stay_equal_to_the_bit(heard) -> None:
    first, second = (one["agree"] for one in heard)
    assert first["problems"] == second["problems"] == first["warnings"] == second["warnings"] == []
    assert first["weight"] == second["weight"]


def test_a_rank_without_the_hook_is_told_of_within_a_step(heard) -> None:
    said = heard[0]["on one rank"]
    assert "rank 1 did not take its first step with a WeightRescaling" in said["warnings"][0]
    assert "rank 1 did not call check() of" in said["problems"][0]
    assert said["took"] < 30


@pytest.mark.parametrize(
    ("scene", "message"),
    [
        ("radius", r"radii 1 to 1 \(#\w+\) on rank 0 but 2 to 2 \(#\w+\) on rank 1: make the same"),
        ("every", r"every 1 on rank 0 but 2 on rank 1"),
        ("momentum", r"momentum keep on rank 0 but scale on rank 1"),
        ("at_most", r"at_most False on rank 0 but True on rank 1"),
        ("schedule", r"schedule plain on rank 0 but follow, full rates 0\.1 on rank 1"),
        ("other weights", r"weights 2 weights \(0\.weight and 1 more.* on rank 0 but 1 weights \(0\.weight;"),
        ("resumed on one rank", r"steps 0 on rank 0 but 5 on rank 1"),
    ],
)
def test_ranks_that_differ_are_refused_at_the_first_step_on_every_rank(heard, scene, message) -> None:
    for one in heard:
        assert one[scene]["error"] == "MismatchError"
        assert re.search(message, one[scene]["message"]), one[scene]["message"]


def test_init_takes_the_radii_of_the_first_rank(heard) -> None:
    first, second = (one["init before parallel"] for one in heard)
    assert first["problems"] == second["problems"] == []
    for key in ("radii", "weight", "mean"):
        assert first[key] == second[key]
    assert first["radii"] == pytest.approx(net(0)[0].weight.norm(dim=1).tolist(), rel=1e-6)


def test_a_rank_that_was_detached_is_told_of_on_every_rank_by_check(heard) -> None:
    for one in heard:
        said = " ".join(one["detached on one rank"]["problems"])
        assert "attached True on rank 0 but False on rank 1" in said


def test_check_on_one_rank_of_sharded_weights_does_not_wait_for_ever(heard) -> None:
    assert "rank 1 did not call check() of" in heard[0]["checked on one rank"]["problems"][0]


def test_sharded_weights_are_refused_where_a_rank_holds_none(heard) -> None:
    said = heard[0]["sharded on one rank"]
    assert said["error"] == "MismatchError"
    assert "rank 1 did not make the WeightRescaling" in said["message"]


def test_a_state_that_is_collected_is_refused_where_a_rank_does_not_ask_for_it(heard) -> None:
    said = heard[0]["state of one rank"]
    assert said["error"] == "MismatchError"
    assert "rank 1 did not call state_dict()" in said["message"]


def test_ranks_that_may_train_models_of_their_own_are_told_and_go_on(heard) -> None:
    for rank, one in enumerate(heard):
        said = one["models of their own"]
        assert said["radius"] == 1 + rank
        assert "radii 1 to 1" in said["warnings"][0]


def end_after_check(rank: int, folder: Path) -> None:
    dist.init_process_group("gloo")
    _, wrs = attached(net())
    dist.barrier()
    if rank == 0:
        time.sleep(0.5)
    else:
        ranks._POLL_S = 1.0  # hears the answer long after rank 0, which has the store, could have ended
    (folder / f"{rank}.json").write_text(json.dumps(wrs.check().problems), encoding="utf-8")
    os._exit(0)


def test_the_first_rank_may_end_right_after_a_check(tmp_path: Path) -> None:
    in_processes(end_after_check, 2, tmp_path, meet=False)
    said = [json.loads((tmp_path / f"{rank}.json").read_text(encoding="utf-8")) for rank in (0, 1)]
    assert said == [[], []]
