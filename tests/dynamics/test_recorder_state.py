"""What a recorder saves, how it is copied and detached, where it writes, and what it refuses.

When it looks and what it costs is test_recorder.py's question.
"""

from __future__ import annotations

import copy
import io
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import decayfree
from decayfree.dynamics.recorder import Recorder
from decayfree.errors import InvalidInputError, MismatchError, UnsupportedWeightError
from support.networks import find, small_net
from support.recording import LOSSES, recorded, train

# ------------------------------------------------------------------------------------ saved, copied, detached


def test_a_resumed_run_samples_at_the_same_steps_the_same_values() -> None:
    model = small_net()
    optimizer, recorder, samples = recorded(model, every=3)
    train(model, optimizer, LOSSES[:7])
    buffer = io.BytesIO()
    torch.save([model.state_dict(), optimizer.state_dict(), recorder.state_dict()], buffer)
    train(model, optimizer, LOSSES[7:])

    resumed = small_net(seed=1)
    other, other_recorder, more = recorded(resumed, every=3)
    buffer.seek(0)
    weights, moments, state = torch.load(buffer, weights_only=True)
    resumed.load_state_dict(weights)
    other.load_state_dict(moments)
    other_recorder.load_state_dict(state)
    train(resumed, other, LOSSES[7:])
    assert [sample.step for sample in samples] == [3, 6, 9, 12]
    assert more == samples[2:]


def test_a_state_that_is_none_is_refused_unchanged() -> None:
    _, recorder, _ = recorded(small_net())
    before = recorder.state_dict()
    with pytest.raises(MismatchError, match="this is no state of a Recorder: it has no n_steps, run"):
        recorder.load_state_dict({})
    for n_steps, run in ((-1, "a"), (True, "a"), (1.5, "a"), (1, None)):
        with pytest.raises(
            InvalidInputError, match="n_steps, a whole number of at least 0, and run, text; got"
        ):
            recorder.load_state_dict({"n_steps": n_steps, "run": run})
    assert recorder.state_dict() == before


def test_a_copy_knows_that_nobody_calls_it() -> None:
    model = small_net()
    optimizer, recorder, samples = recorded(model, every=1)
    twin, twin_optimizer, twin_recorder = copy.deepcopy((model, optimizer, recorder))
    train(twin, twin_optimizer, LOSSES[:1])
    assert not twin_recorder.is_attached
    assert repr(twin_recorder) == "Recorder(2 weights, every=1, detached)"
    assert recorder.is_attached
    assert not samples
    train(model, optimizer, LOSSES[:1])
    assert len(samples) == 1


def test_detaching_leaves_no_trace_even_after_an_error() -> None:
    model = small_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    mine = optimizer.register_step_post_hook(lambda *_: None)
    attributes = set(vars(optimizer))
    _, recorder, samples = recorded(model, optimizer, every=1)
    with pytest.raises(ZeroDivisionError), recorder:
        raise ZeroDivisionError
    assert not recorder.is_attached
    assert not optimizer._optimizer_step_pre_hooks
    assert list(optimizer._optimizer_step_post_hooks) == [mine.id]
    assert set(vars(optimizer)) == attributes
    train(model, optimizer, LOSSES[:2])
    assert not samples


def test_a_step_that_fails_is_not_counted() -> None:
    model = small_net()
    optimizer, recorder, samples = recorded(model, every=1)

    def closure() -> Tensor:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        optimizer.step(closure)
    train(model, optimizer, LOSSES[:1])
    assert recorder.n_steps == 1
    assert [sample.step for sample in samples] == [1]


@pytest.mark.parametrize(("rank", "n_written"), [(0, 1), (1, 0)])
def test_only_the_first_rank_writes(rank: int, n_written: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_net()
    optimizer, recorder, samples = recorded(model, every=1)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: rank)
    train(model, optimizer, LOSSES[:1])
    assert len(samples) == n_written
    assert recorder.last is not None


def test_by_default_a_file_is_made_with_the_first_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = small_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    recorder = Recorder(optimizer, find(model))
    train(model, optimizer, [LOSSES[0]] * 49)
    assert not list(tmp_path.iterdir())
    train(model, optimizer, LOSSES[:1])
    assert [path.name for path in tmp_path.iterdir()] == ["dynamics.jsonl"]
    assert recorder.last is not None
    assert recorder.last.step == 50


# ---------------------------------------------------------------------------------------------- messages


def test_all_faults_are_told_at_once() -> None:
    model = small_net()
    optimizer = torch.optim.LBFGS(model.parameters())
    with pytest.raises(MismatchError) as raised:
        Recorder(
            optimizer,
            find(model),
            every=0,
            quantiles=(1.5,),
            sink=3,
            predicted_angles={"nobody": 0.1},  # type: ignore[arg-type]
        )
    for message in (
        "predicted_angles has weights that are not recorded: nobody",
        "every must be a whole number of at least 1, got 0",
        "quantiles must be from 0 to 1, got (1.5,)",
        "sink must be a path or something to call with a sample, got 3",
        "LBFGS has no effective learning rate",
        'family="none" records everything else',
    ):
        assert message in str(raised.value)
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"every": True}, "every must be a whole number of at least 1, got True"),
        ({"family": "lars"}, 'family must be "sgd", "adam", "sign", "none" or None, got \'lars\''),
        ({"sink": "no/such/folder/file.jsonl"}, "the folder .* does not exist"),
    ],
)
def test_settings_outside_what_is_allowed_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        recorded(small_net(), **settings)


def test_things_of_the_wrong_kind_are_refused() -> None:
    model = small_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(InvalidInputError, match=r"optimizer must be a torch.optim.Optimizer, got SmallNet"):
        Recorder(model, find(model))  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match=r"found must come from decayfree.find_invariant, got list"):
        Recorder(optimizer, [])  # type: ignore[arg-type]


def test_an_optimizer_of_other_weights_is_refused() -> None:
    with pytest.raises(MismatchError, match="none of the 2 scale-invariant weights"):
        recorded(small_net(), torch.optim.SGD(small_net().parameters(), lr=0.1))


def test_a_model_without_scale_invariant_weights_is_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    found = decayfree.find_invariant(model, torch.randn(8, 4))
    with pytest.raises(MismatchError, match="so there is nothing to record"):
        Recorder(torch.optim.SGD(model.parameters(), lr=0.1), found, sink=print)


def test_weights_that_have_no_rows_in_memory_are_refused() -> None:
    model = small_net()
    found = find(model)
    model.to("meta")
    with pytest.raises(UnsupportedWeightError, match=r"conv.weight .* is on the meta device"):
        Recorder(torch.optim.SGD(model.parameters(), lr=0.1), found, sink=print)
    flat = nn.Parameter(torch.ones(8))
    flat._is_flat_param = True  # type: ignore[attr-defined]
    model = small_net()
    optimizer = torch.optim.SGD([flat, *model.parameters()], lr=0.1)
    with pytest.raises(UnsupportedWeightError, match="is a flat parameter of FSDP1"):
        Recorder(optimizer, find(model), sink=print)
