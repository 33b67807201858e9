"""When a recorder looks, what it keeps, what it costs the device, and how it shares an optimizer.

Whether its numbers are right is test_recorder_contract.py's question, what it saves and refuses
test_recorder_state.py's.
"""

from __future__ import annotations

import gc
import importlib
import math
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import decayfree
from decayfree.dynamics import fused_rows, row_sums
from decayfree.dynamics.recorder import Recorder
from decayfree.dynamics.samples import Sample
from support.available import import_or_skip
from support.networks import MixedNet, digit_losses, equal, find, mixed_net, small_net
from support.recording import LOSSES, recorded, train

# ---------------------------------------------------------------------------------------------- when it looks


def test_every_so_many_steps_are_sampled() -> None:
    model = small_net()
    optimizer, recorder, samples = recorded(model, every=5)
    train(model, optimizer)
    assert [sample.step for sample in samples] == [5, 10]
    assert recorder.last is samples[-1]
    assert recorder.n_steps == 12
    assert repr(recorder) == "Recorder(2 weights, every=5, 12 steps)"


@pytest.mark.parametrize("closure", [False, True])
def test_training_goes_on_as_without(closure: bool) -> None:
    model, twin = small_net(), small_net()
    optimizer, _, samples = recorded(model, every=1)
    other = torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9)
    train(model, optimizer, closure=closure)
    train(twin, other, closure=closure)
    assert len(samples) == len(LOSSES)
    assert equal(model, twin)


def test_a_closure_changes_no_reading() -> None:
    taken = []
    for closure in (False, True):
        model = small_net()
        optimizer, _, samples = recorded(model)
        train(model, optimizer, closure=closure)
        taken.append([sample.weights for sample in samples])
    assert taken[0] == taken[1]


def test_a_closure_by_keyword_is_called_and_its_loss_returned() -> None:
    model = small_net()
    optimizer, _, samples = recorded(model, every=1)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = LOSSES[0](model)
        loss.backward()
        return loss

    assert optimizer.step(closure=closure) > 0
    assert samples[0].weights["conv.weight"]["gradient_norm_at_unit_radius"]["min"] > 0


def test_gradients_are_those_of_the_step_where_the_optimizer_writes_into_them() -> None:
    """Nesterov's foreach implementation adds the momentum to the gradients in place."""
    taken = []
    for foreach in (False, True):
        model = small_net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, foreach=foreach)
        _, _, samples = recorded(model, optimizer)
        train(model, optimizer)
        taken.append([sample.weights["conv.weight"]["radial_share"]["max"] for sample in samples])
    assert taken[1] == pytest.approx(taken[0], rel=1e-3)
    assert max(taken[0]) < 1e-3


# ------------------------------------------------------------------------------------ beside weight rescaling


@pytest.mark.parametrize("recorder_first", [False, True])
def test_weights_are_seen_after_the_rescale_whichever_was_attached_first(recorder_first: bool) -> None:
    model = small_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    found = find(model)
    samples: list[Sample] = []
    attach = [lambda: Recorder(optimizer, found, every=1, sink=samples.append)]
    attach.insert(1 if recorder_first else 0, lambda: decayfree.WeightRescaling(optimizer, found, radius=2.0))
    for make in attach:
        make()
    train(model, optimizer)
    for sample in samples:
        for weight in sample.weights.values():
            assert (weight["norm"]["min"], weight["norm"]["max"]) == pytest.approx((2.0, 2.0), rel=1e-6)
            assert weight["effective_learning_rate"]["mean"] == pytest.approx(0.5 / 4, rel=1e-6)
            # Held at its norm, a weight goes along the chord of the angle.
            chord = 2 * 2 * math.sin(weight["angular_update_rad"]["max"] / 2)
            assert 2 * weight["relative_update"]["max"] == pytest.approx(chord, rel=1e-5)


def test_the_recorder_stays_when_the_rescaling_goes() -> None:
    model = small_net()
    optimizer, recorder, samples = recorded(model, every=1)
    with decayfree.WeightRescaling(optimizer, find(model)):
        train(model, optimizer, LOSSES[:2])
    train(model, optimizer, LOSSES[2:4])
    norms = [sample.weights["conv.weight"]["norm"]["max"] for sample in samples]
    assert [abs(norm - 1) < 1e-6 for norm in norms] == [True, True, False, False]
    assert recorder.is_attached


# ------------------------------------------------------------------------------------ what it keeps and costs


class Calls(TorchDispatchMode):
    """Notes every operation that reaches a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.cloned: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func._schema.name)
        if func._schema.name == "aten::clone":
            self.cloned.append(args[0].numel())
        return func(*args, **(kwargs or {}))


def test_steps_that_are_not_sampled_touch_no_tensor() -> None:
    model = small_net()
    optimizer, recorder, _ = recorded(model, every=3)
    train(model, optimizer, LOSSES[:1])
    with Calls() as calls:
        assert recorder._before_step(optimizer, (optimizer,), {}) is None
        recorder._after_step(optimizer, (optimizer,), {})
    assert not calls.names
    assert not recorder._kept


def test_a_sampled_step_copies_the_weights_once_and_nothing_of_the_optimizer() -> None:
    model = small_net()
    optimizer, recorder, _ = recorded(model, every=1)
    train(model, optimizer, LOSSES[:2])
    with Calls() as calls:
        recorder._before_step(optimizer, (optimizer,), {})
    weights = sorted(model.get_parameter(name).numel() for name in ("conv.weight", "hidden.weight"))
    assert sorted(calls.cloned) == weights
    copies = [weakref.ref(before.weight) for before in recorder._kept.values()]
    recorder._after_step(optimizer, (optimizer,), {})
    gc.collect()
    assert not recorder._kept
    assert not any(copy() is not None for copy in copies)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_sample_is_six_passes_over_what_is_recorded(
    compiled: bool, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy that is read and written, weights and gradients before the step, weights and copies after it.

    Machine code copies a weight as it compares it with its gradient: one pass less.
    """
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    passes = importlib.import_module("passes")
    if compiled:
        import_or_skip("numba")
        monkeypatch.setattr(fused_rows, "LEAST", 1)
    # A piece, of one row at least, is then no weight.
    monkeypatch.setattr(row_sums, "_PIECE_ON_CPU", 64)
    model = mixed_net()
    optimizer, recorder, _ = recorded(model, every=1)
    train(model, optimizer, digit_losses(1))
    held = [parameter for weight in recorder.found for parameter in map(model.get_parameter, weight.names)]
    counted = passes.Passes([*held, *(parameter.grad for parameter in held)], cache_bytes=2 * 100 * 8)
    in_memory, n_compiled = fused_rows._in_memory, []

    def seen(*pair: Tensor) -> list[Tensor]:
        matrices = in_memory(*pair)
        counted.count(*matrices)
        n_compiled.append(len(matrices))
        return matrices

    monkeypatch.setattr(fused_rows, "_in_memory", seen)
    with counted:
        recorder._before_step(optimizer, (optimizer,), {})
        recorder._after_step(optimizer, (optimizer,), {})
    # Before and after: two weights with kernels, a whole one, and its bias; these are copied on their own.
    assert n_compiled == ([3, 3, *[2] * 6] if compiled else [])
    n_fewer = model.conv.weight.nbytes + model.grouped.weight.nbytes if compiled else 0
    assert counted.n_bytes == 6 * sum(parameter.nbytes for parameter in held) - n_fewer


def test_what_was_summed_is_read_of_all_weights_in_one_call() -> None:
    model = mixed_net()
    optimizer, recorder, _ = recorded(model, every=1)
    train(model, optimizer, digit_losses(1))
    with Calls() as calls:
        recorder._before_step(optimizer, (optimizer,), {})
        recorder._after_step(optimizer, (optimizer,), {})
    # The angle, and the radial share of the gradient.
    assert [calls.names.count(name) for name in ("aten::atan2", "aten::abs")] == [1, 1]


def test_a_sample_reads_the_device_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = mixed_net()
    optimizer, _, samples = recorded(model, every=2)
    train(model, optimizer, digit_losses(1))
    reads: list[str] = []

    def counted(name: str) -> Any:
        original = getattr(Tensor, name)

        def read(self: Tensor, *args: Any, **kwargs: Any) -> Any:
            reads.append(name)
            return original(self, *args, **kwargs)

        return read

    # numpy() is no read on the CPU, where alone it is called: see below.
    for name in ("item", "tolist", "cpu", "__float__", "__int__", "__bool__", "__index__"):
        monkeypatch.setattr(Tensor, name, counted(name))
    digit_losses(2)[1](model).backward()
    reads.clear()
    optimizer.step()
    monkeypatch.undo()
    assert len(samples) == 1
    assert reads == ["tolist"]


def test_readings_on_an_accelerator_wait_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the meta device there are no values: whatever asks for one, or for a copy on the host, raises."""
    monkeypatch.setattr("decayfree.dynamics.recorder.unsupported_weights", lambda parameters: [])
    found = find(mixed_net(torch.float32)).to_dict()
    found["weights"][0]["block_sizes"] = (3, 1)  # blocks of different sizes too
    with torch.device("meta"):
        model = MixedNet()
        rate = torch.tensor(0.1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer.param_groups[0]["lr"] = rate
    recorder = Recorder(
        optimizer,
        decayfree.Invariance.from_dict(found, model),
        sink=print,
        predicted_angles={"conv.weight": 0.1, "hidden.weight": rate},
    )
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)

    def from_host(*args: Any, **kwargs: Any) -> Tensor:
        raise AssertionError("a tensor is made from numbers on the host, which waits for the device")

    monkeypatch.setattr(torch, "tensor", from_host)
    monkeypatch.setattr(torch, "as_tensor", from_host)
    recorder._look()
    with torch.no_grad():
        _, values = recorder._measure()
    assert values.device.type == "meta"
    # Learning rates; six instruments for each of four weights and two distances, with seven statistics each.
    assert values.shape == (4 + (4 * 6 + 2) * 7,)
    with pytest.raises(Exception, match="meta"):
        values.tolist()


# -------------------------------------------------------------------------------------------- what is missing


def test_weights_without_a_gradient_keep_the_other_readings() -> None:
    model = small_net()
    optimizer, _, samples = recorded(model, every=1)
    optimizer.zero_grad()
    LOSSES[0](model).backward()
    model.conv.weight.grad = None
    optimizer.step()
    conv, hidden = samples[0].weights["conv.weight"], samples[0].weights["hidden.weight"]
    assert hidden.keys() - conv.keys() == {"radial_share", "gradient_norm_at_unit_radius"}
    assert conv["angular_update_rad"]["max"] == 0.0


def test_a_layer_whose_bias_has_no_gradient_has_no_reading_of_it() -> None:
    model = mixed_net()
    optimizer, _, samples = recorded(model, every=1)
    digit_losses(1)[0](model).backward()
    model.hidden.bias.grad = None
    optimizer.step()
    assert "radial_share" not in samples[0].weights["hidden.weight"]
    assert "radial_share" in samples[0].weights["conv.weight"]


@pytest.mark.parametrize("bad", [0.0, math.nan])
def test_a_dead_or_broken_kernel_is_counted_and_the_others_are_measured(bad: float) -> None:
    model = small_net()
    optimizer, _, samples = recorded(model, every=1)
    LOSSES[0](model).backward()
    with torch.no_grad():
        model.conv.weight[1] = bad
        model.conv.weight.grad[1] = 0.0
    optimizer.step()
    angle = samples[0].weights["conv.weight"]["angular_update_rad"]
    assert angle["undefined"] == 1
    assert 0 < angle["min"] <= angle["q50"] <= angle["max"] < 3.2
    assert angle["min"] < angle["mean"] < angle["max"]
    assert samples[0].weights["conv.weight"]["norm"]["undefined"] == (0 if bad == 0.0 else 1)
    assert samples[0].weights["hidden.weight"]["angular_update_rad"]["undefined"] == 0


def test_a_weight_that_is_broken_throughout_has_nan_statistics() -> None:
    model = small_net()
    optimizer, _, samples = recorded(model, every=1)
    LOSSES[0](model).backward()
    with torch.no_grad():
        model.conv.weight.fill_(math.nan)
    optimizer.step()
    norm = samples[0].weights["conv.weight"]["norm"]
    assert norm["undefined"] == 4
    assert all(math.isnan(norm[statistic]) for statistic in ("mean", "min", "max", "q5", "q50", "q95"))


def test_parameters_that_join_later_are_not_recorded() -> None:
    model = small_net()
    optimizer = torch.optim.SGD([model.conv.weight], lr=0.1)
    _, _, samples = recorded(model, optimizer, every=1)
    optimizer.add_param_group({"params": [model.hidden.weight], "lr": 0.2})
    train(model, optimizer, LOSSES[:1])
    assert list(samples[0].weights) == ["conv.weight"]


def test_parameters_that_were_replaced_are_named_in_a_warning() -> None:
    model = small_net()
    optimizer, _, samples = recorded(model, every=1)
    model.conv.weight = nn.Parameter(model.conv.weight.detach().clone())
    with pytest.warns(
        UserWarning, match=r"1 weights \(conv.weight, …\) are not among the optimizer's parameters any more"
    ):
        train(model, optimizer, LOSSES[:1])
    assert list(samples[0].weights) == ["hidden.weight"]


def test_weights_that_move_and_change_precision_are_still_recorded() -> None:
    model = small_net()
    optimizer, _, samples = recorded(model, every=1)
    train(model, optimizer, LOSSES[:1])
    model.to(memory_format=torch.channels_last)
    train(model, optimizer, LOSSES[1:2])
    model.double()
    optimizer.zero_grad()
    optimizer.state.clear()
    train(model, optimizer, digit_losses(1))
    assert len(samples) == 3
    assert all(0 < s.weights["conv.weight"]["angular_update_rad"]["min"] < 1 for s in samples)


# ---------------------------------------------------------------------------------------------- GradScaler


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("on_host", [True, False])
@pytest.mark.parametrize("skipped", [(), (1,), (2, 3), (0, 4, 5)])
def test_skipped_steps_do_not_count(
    skipped: tuple[int, ...], on_host: bool, fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With ``on_host`` false as on an accelerator, whose host does not know yet which steps were skipped."""
    monkeypatch.setattr("decayfree.step_counter._is_on_host", lambda tensor: on_host)
    model, plain = small_net(), small_net()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, fused=fused)
    _, recorder, samples = recorded(model, optimizer, every=3)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=100)
    for number, loss in enumerate(LOSSES[:9]):
        optimizer.zero_grad()
        scaler.scale(loss(model)).backward()
        if number in skipped:
            model.hidden.weight.grad[0, 0] = math.inf
        scaler.step(optimizer)
        scaler.update()
    other, _, expected = recorded(plain, torch.optim.Adam(plain.parameters(), lr=0.01), every=3)
    train(plain, other, [loss for number, loss in enumerate(LOSSES[:9]) if number not in skipped])
    assert recorder.n_steps == 9 - len(skipped)
    assert [sample.step for sample in samples] == [sample.step for sample in expected] != []
    # The gradients are those without the scale; batch statistics of skipped forward passes change nothing in
    # train mode.
    for sample, wanted in zip(samples, expected, strict=True):
        for name, weight in wanted.weights.items():
            for instrument in ("norm", "gradient_norm_at_unit_radius", "angular_update_rad"):
                assert sample.weights[name][instrument] == pytest.approx(weight[instrument], rel=1e-3)


# --------------------------------------------------------------------------- learning rates, predictions, own


@pytest.mark.parametrize("as_tensor", [False, True])
def test_each_group_has_its_own_rate_and_schedulers_change_it(as_tensor: bool) -> None:
    model = small_net()
    rates = [torch.tensor(rate) if as_tensor else rate for rate in (0.1, 0.2)]
    groups = [
        {"params": [w], "lr": rate}
        for w, rate in zip((model.conv.weight, model.hidden.weight), rates, strict=True)
    ]
    optimizer = torch.optim.SGD(groups, lr=rates[0], foreach=False)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    _, _, samples = recorded(model, optimizer, every=1)
    for loss in LOSSES[:2]:
        train(model, optimizer, [loss])
        scheduler.step()
    taken = [
        tuple(sample.learning_rates[name] for name in ("conv.weight", "hidden.weight")) for sample in samples
    ]
    assert taken[0] == pytest.approx((0.1, 0.2), rel=1e-6)
    assert taken[1] == pytest.approx((0.05, 0.1), rel=1e-6)


def test_the_family_can_be_said() -> None:
    taken = {}
    for family in ("sgd", "adam", "none"):
        model = small_net()
        optimizer, _, samples = recorded(model, every=1, family=family)
        train(model, optimizer, LOSSES[:1])
        taken[family] = samples[0].weights["conv.weight"].get("effective_learning_rate", {}).get("min")
    assert taken["none"] is None
    assert taken["sgd"] == pytest.approx(taken["adam"] ** 2 / 0.1, rel=1e-9)


@pytest.mark.parametrize("callable_", [False, True])
def test_the_distance_to_a_predicted_angle_is_recorded_where_one_is_given(callable_: bool) -> None:
    def predicted(name: str, group: Any) -> float | None:
        return 2 * group["lr"] if name == "conv.weight" else None

    model = small_net()
    angles = predicted if callable_ else {"conv.weight": 0.2}
    optimizer, _, samples = recorded(model, every=1, predicted_angles=angles)
    train(model, optimizer, LOSSES[:1])
    conv, hidden = samples[0].weights["conv.weight"], samples[0].weights["hidden.weight"]
    expected = conv["angular_update_rad"]["mean"] / 0.2 - 1
    assert conv["distance_to_equilibrium"]["mean"] == pytest.approx(expected, rel=1e-12)
    assert "distance_to_equilibrium" not in hidden


def test_instruments_of_ones_own_are_recorded_beside_the_others() -> None:
    def largest(name: str, weight: Tensor) -> Tensor | None:
        assert not weight.requires_grad
        return weight.flatten(1).abs().amax(1)[:3] if name == "conv.weight" else None

    model = small_net()
    optimizer, _, samples = recorded(model, every=1, also={"largest": largest})
    train(model, optimizer, LOSSES[:1])
    expected = model.conv.weight[:3].abs().max().item()
    assert samples[0].weights["conv.weight"]["largest"]["max"] == pytest.approx(expected)
    assert "largest" not in samples[0].weights["hidden.weight"]


def test_quantiles_are_named_in_per_cent() -> None:
    model = small_net()
    optimizer, _, samples = recorded(model, every=1, quantiles=[0.0, 0.25, 0.995])
    train(model, optimizer, LOSSES[:1])
    norm = samples[0].weights["conv.weight"]["norm"]
    assert list(norm) == ["mean", "min", "max", "q0", "q25", "q99.5", "undefined"]
    assert norm["q0"] == norm["min"]
