"""remove_off_span_: what it takes out of weights, that nothing watched notices, and what it refuses."""

import copy
import math
import re

import pytest
import torch
from torch import nn

from decayfree.errors import InvalidInputError, MismatchError, NonFiniteWeightError, UnsupportedWeightError
from decayfree.span.cleaning import remove_off_span_
from decayfree.span.input_span import InputSpan
from support import bounds
from support.span_by_hand import LAYERS, layer_and_batches, watch

F64 = torch.float64


class Residual(nn.Module):
    """Convolutions of several kinds, with and without normalization: nothing behind a layer may notice."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.grouped = nn.Conv2d(6, 6, 3, padding="same", groups=3, padding_mode="reflect")
        self.group_norm = nn.GroupNorm(2, 6)
        self.up = nn.ConvTranspose2d(6, 4, 2, stride=2)  # with nothing behind it
        self.out = nn.Linear(4, 5)

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        x = x + torch.relu(self.group_norm(self.grouped(x)))
        return self.out(self.up(x).mean(dim=(2, 3)))


def trained(seed, dtype):
    """A network with a dead channel after its first ReLU, some steps on images of proportional channels."""
    torch.manual_seed(seed)
    model = Residual().to(dtype)
    with torch.no_grad():
        model.norm.weight[1], model.norm.bias[1] = 0.0, -1.0
    grey = torch.randn(48, 1, 8, 8, dtype=dtype)
    inputs = torch.cat([grey, 2 * grey, -grey], dim=1)
    optimizer = torch.optim.SGD([p for name, p in model.named_parameters() if "norm." not in name], lr=0.05)
    for _ in range(20):
        optimizer.zero_grad()
        model(inputs).square().mean().backward()
        optimizer.step()
    return model, inputs


def both_modes(model, batches):
    """Outputs in train and in eval mode, of a copy, so that statistics stay."""
    with torch.no_grad():
        return [
            torch.cat([copy.deepcopy(model).train(mode)(batch) for batch in batches])
            for mode in (True, False)
        ]


def watched_in_both_modes(model, batches):
    states = copy.deepcopy(model.state_dict())
    with torch.no_grad(), InputSpan(model, centered=False) as span:
        for mode in (True, False):
            for batch in batches:
                model.train(mode)(batch)
                model.load_state_dict(states)
    return span


@pytest.mark.parametrize(("dtype", "accuracy"), list(zip((F64, torch.float32), bounds.CLEANED, strict=True)))
def test_outputs_stay_in_train_and_eval_mode(seed, dtype, accuracy):
    model, inputs = trained(seed, dtype)
    batches = inputs.split(16)
    span = watched_in_both_modes(model, batches)
    before = both_modes(model, batches)
    cleaning = remove_off_span_(model, span)
    for old, new in zip(before, both_modes(model, batches), strict=True):
        assert torch.linalg.vector_norm(new - old) < accuracy * torch.linalg.vector_norm(old)
    shares = {weight.name: weight.off_span_share for weight in cleaning}
    assert shares["stem.weight"] > 0.3  # two of three channels
    assert shares["up.weight"] == 0  # the skip connection fills the dead channel
    assert shares["grouped.weight"] > 0.2  # the dead channel's half of its group
    assert cleaning["stem.weight"].ranks == (9,)
    assert cleaning["grouped.weight"].ranks == (9, 18, 18)
    for name, share in shares.items():
        assert span[name].off_span_share(model.get_parameter(name)).max() < (1e-13 if dtype == F64 else 1e-6)
        assert cleaning[name].norm_after == pytest.approx(
            cleaning[name].norm_before * math.sqrt(1 - share**2), rel=1e-6
        )


def test_other_inputs_were_what_the_removed_part_acted_on(seed):
    model, inputs = trained(seed, F64)
    span = watched_in_both_modes(model, [inputs])
    colour = torch.randn(16, 3, 8, 8, dtype=F64)
    before = both_modes(model, [colour])[1]
    with pytest.warns(UserWarning, match="either these reach what no watched input reached"):
        cleaning = remove_off_span_(model, span, inputs=colour)
    after = both_modes(model, [colour])[1]
    moved = (torch.linalg.vector_norm(after - before) / torch.linalg.vector_norm(before)).item()
    assert moved > 0.01
    assert cleaning.outputs_moved["eval"] == pytest.approx(moved, rel=1e-12)


@pytest.mark.parametrize("kind", LAYERS)
def test_every_kind_of_layer_computes_the_same(seed, kind):
    layer, batches = layer_and_batches(kind, seed, sizes=(20, 30))
    span, before = watch(layer, batches, centered=False), [layer(batch) for batch in batches]
    (cleaned,) = remove_off_span_(layer, span)
    assert cleaned.off_span_share > 0.1
    for old, batch in zip(before, batches, strict=True):
        assert torch.linalg.vector_norm(layer(batch) - old) < 1e-12 * torch.linalg.vector_norm(old)


def test_what_a_centered_span_would_have_removed_shifts_outputs_in_eval_mode(seed):
    model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4)).double()
    inputs = torch.randn(30, 3, dtype=F64)
    inputs[:, 2] = 5.0
    span = watch(model, [inputs], ["0.weight"])
    before = both_modes(model, [inputs])
    with torch.no_grad():
        model[0].weight.sub_(span["0.weight"].off_span(model[0].weight))
    after = both_modes(model, [inputs])
    torch.testing.assert_close(after[0], before[0], rtol=1e-12, atol=1e-12)
    assert (after[1] - before[1]).abs().max() > 0.1
    with pytest.raises(
        InvalidInputError, match=r"the span is centered .*eval mode would see: watch with .*centered=False"
    ):
        remove_off_span_(model, span)


def test_a_second_cleaning_changes_no_bit(seed):
    for dtype in (torch.float32, F64):
        model, inputs = trained(seed, dtype)
        span = watched_in_both_modes(model, [inputs])
        remove_off_span_(model, span)
        once = copy.deepcopy(model.state_dict())
        again = remove_off_span_(model, span)
        assert [weight.off_span_share for weight in again] == [0.0] * 4
        assert all(torch.equal(value, once[name]) for name, value in model.state_dict().items())


def test_a_weight_whose_inputs_reach_everything_keeps_its_bits(seed):
    model = nn.Linear(3, 4)
    before = model.weight.detach().clone()
    cleaning = remove_off_span_(model, watch(model, [torch.randn(20, 3)], centered=False))
    assert torch.equal(model.weight, before)
    assert (cleaning["weight"].off_span_share, cleaning["weight"].moved) == (0.0, 0.0)
    assert cleaning["weight"].norm_after == cleaning["weight"].norm_before


def test_rows_of_zeros_and_dead_layers_are_no_trouble(seed):
    model = nn.Linear(2, 3, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 5.0]]))
    cleaning = remove_off_span_(model, watch(model, [torch.tensor([[1.0, 0.0], [2.0, 0.0]])], centered=False))
    assert torch.equal(model.weight, torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 0.0]]))
    assert cleaning["weight"].off_span_share == pytest.approx(math.sqrt(41 / 50))
    nothing = remove_off_span_(model, watch(model, [torch.zeros(2, 2)], centered=False))
    assert torch.equal(model.weight, torch.zeros(3, 2))
    assert (nothing["weight"].ranks, nothing["weight"].norm_after) == ((0,), 0.0)


def test_a_cleaned_copy_leaves_the_original_alone(seed):
    model, inputs = trained(seed, F64)
    span, before = watched_in_both_modes(model, [inputs]), copy.deepcopy(model.state_dict())
    other = copy.deepcopy(model)
    remove_off_span_(other, span)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not torch.equal(other.stem.weight, model.stem.weight)


def test_measuring_disturbs_nothing(seed):
    model, inputs = trained(seed, F64)
    model = nn.Sequential(model, nn.Dropout(0.5))
    model[0].norm.eval()
    span = watched_in_both_modes(model, [inputs])
    model.train()
    model[0].norm.eval()
    buffers, state = [buffer.clone() for buffer in model.buffers()], torch.get_rng_state()
    cleaning = remove_off_span_(model, span, inputs=inputs)
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), buffers, strict=True))
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert not model[0].norm.training
    assert max(cleaning.outputs_moved.values()) < 1e-12


def test_a_mode_in_which_the_model_does_not_run_is_not_measured(seed):
    model = nn.Sequential(nn.Linear(2, 3, bias=False), nn.BatchNorm1d(3)).eval()
    span = watch(model, [torch.randn(8, 2)], centered=False)
    cleaning = remove_off_span_(model, span, inputs={"input": torch.ones(1, 2)})
    assert set(cleaning.outputs_moved) == {"eval"}  # one sample has no variance
    as_asked = remove_off_span_(model, span, inputs=3, forward=lambda model, n: model(torch.ones(n, 2)))
    assert set(as_asked.outputs_moved) == {"train", "eval"}


def test_inputs_that_do_not_fit_change_nothing(seed):
    model = nn.Linear(2, 1)
    span = watch(model, [torch.tensor([[1.0, 0.0], [2.0, 0.0]])], centered=False)
    before = model.weight.detach().clone()
    with pytest.raises(
        InvalidInputError,
        match=r"does not run on inputs: in train mode it raised RuntimeError: .* nothing was changed",
    ):
        remove_off_span_(model, span, inputs=torch.ones(1, 3))
    with pytest.raises(
        InvalidInputError, match="in eval mode it returned no real numbers; nothing was changed"
    ):
        remove_off_span_(model, span, inputs=torch.ones(1, 2), forward=lambda model, inputs: "text")
    assert torch.equal(model.weight, before)


def test_fewer_samples_than_features_are_warned_of_where_the_caller_stands(seed):
    model = nn.Linear(5, 1)
    span = watch(model, [torch.randn(3, 5)], centered=False)
    with pytest.warns(UserWarning, match=r"was only not seen: weight \(3 inputs for 5 features\)") as warned:
        remove_off_span_(model, span)
    assert warned[0].filename == __file__


def test_a_tolerance_that_would_move_outputs_is_refused(seed):
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).double()
    inputs = torch.randn(50, 3, dtype=F64) * torch.tensor([1.0, 1.0, 1e-3])
    span = watch(model, [inputs], centered=False)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(
        InvalidInputError,
        match=(
            r"would move by more than 1e-05 of their spread: 0\.weight "
            r"\(7e-04\), 1\.weight \(2e-03\); choose"
        ),
    ):
        remove_off_span_(model, span, tolerance=1e-4)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    remove_off_span_(model, span)


def test_the_movement_foretold_is_the_movement(seed):
    """With a direction so faint that removing it stays below the limit."""
    layer = nn.Linear(3, 4).double()
    inputs = torch.randn(50, 3, dtype=F64) * torch.tensor([1.0, 1.0, 1e-6]) + torch.tensor([2.0, 0.0, 0.0])
    span, before = watch(layer, [inputs], centered=False), layer(inputs)
    (cleaned,) = remove_off_span_(layer, span, tolerance=1e-10)
    change = (layer(inputs) - before).square().mean(dim=0).sqrt() / before.std(dim=0, correction=0)
    assert cleaned.moved == pytest.approx(change.max().item(), rel=1e-6)
    assert 1e-7 < cleaned.moved < 1e-5


@pytest.mark.parametrize("tolerance", [-1e-12, 1.0, math.nan, "small"])
def test_all_faults_of_the_arguments_are_told_at_once(tolerance):
    with pytest.raises(InvalidInputError) as error:
        remove_off_span_("model", {"weight": 0}, tolerance=tolerance, forward=3)
    assert str(error.value) == (
        "model must be a torch.nn.Module, got str; tolerance must be a number from 0 to below 1, got "
        f"{tolerance!r}; forward must be a function of a model and its inputs, got 3; span must be a "
        "span.InputSpan, got dict"
    )


def test_a_span_that_is_empty_centered_and_still_watching_is_refused():
    model = nn.Linear(1, 1)
    with InputSpan(model) as span, pytest.raises(InvalidInputError) as error:
        remove_off_span_(model, span)
    for part in (
        "still watching: leave its with block first",
        "is centered (True)",
        "has seen no input: run the model, uncompiled, inside",
    ):
        assert part in str(error.value)


def test_the_span_of_another_model_is_refused(seed):
    span = watch(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2)), [torch.randn(9, 2)], centered=False)
    other = nn.Sequential(nn.Linear(2, 4))
    with pytest.raises(MismatchError) as error:
        remove_off_span_(other, span)
    assert (
        "it has 0.weight (3, 2), the model has (4, 2); the span is that of another model: it has "
        "1.weight (2, 3), the model has no such"
    ) in str(error.value)


def test_weights_and_inputs_that_are_not_finite_are_all_named(seed):
    model = nn.ModuleDict({name: nn.Linear(2, 2) for name in ("a", "b", "c")})
    with InputSpan(model, centered=False) as span:
        model["a"](torch.tensor([[math.inf, 0.0], [0.0, 1.0]]))
        model["b"](torch.randn(4, 2))
        model["c"](torch.tensor([[1.0, 0.0], [2.0, 0.0]]))
    model["b"].weight.data[0, 0] = math.nan
    before = model["c"].weight.detach().clone()
    with pytest.raises(
        InvalidInputError, match=r"inputs of a\.weight held NaN .*; b\.weight \(2, 2\) holds NaN or infinity"
    ):
        remove_off_span_(model, span)
    assert torch.equal(model["c"].weight, before)
    with pytest.raises(NonFiniteWeightError, match=r"^weight \(2, 2\) holds NaN"):
        remove_off_span_(model["b"], watch(model["b"], [torch.ones(2, 2)], centered=False))


def test_a_weight_without_values_is_refused(seed):
    model = nn.Linear(2, 2)
    span = watch(model, [torch.randn(3, 2)], centered=False)
    with pytest.raises(UnsupportedWeightError, match=r"weight \(2, 2\) is on the meta device"):
        remove_off_span_(copy.deepcopy(model).to("meta"), span)


def test_printing_shows_a_table(seed):
    model = nn.Sequential(nn.Linear(2, 1), nn.Linear(1, 1), nn.Embedding(2, 2))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[3.0, 4.0]]))
        model[1].weight.fill_(2.0)
    span = InputSpan(model, centered=False)
    inputs = torch.tensor([[1.0, 0.0], [2.0, 0.0]])
    with span:
        model[:2](inputs)
    cleaning = remove_off_span_(model, span, inputs=inputs, forward=lambda model, inputs: model[:2](inputs))
    assert (
        repr(cleaning)
        == """\
1 of 2 weights had a part that the watched inputs do not reach; it was removed.
The model's outputs moved by 0e+00 in train mode and 0e+00 in eval mode (relative).

weight    shape   rank    samples  off-span share  norm before  norm after  outputs moved
0.weight  (1, 2)  1 of 2  2        0.8000          5            3           0
1.weight  (1, 1)  1 of 1  2        0.0000          2            2           0

Left out: 1
  2.weight  Embedding is no linear layer and no convolution"""
    )
    with pytest.raises(MismatchError, match=re.escape("2.weight: Embedding is no linear layer")):
        cleaning["2.weight"]
    with pytest.raises(MismatchError, match="nobody: no such weight was looked at"):
        cleaning["nobody"]


def test_a_weight_that_is_used_outside_its_module_is_warned_of(seed):
    torch.manual_seed(seed)

    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = nn.Linear(6, 4, bias=False)

        def forward(self, x):
            return self.encoder(x).relu() @ self.encoder.weight

    model, inputs = Tied(), torch.randn(20, 6) * torch.tensor([1.0, 1, 1, 1, 0, 0])
    with InputSpan(model, centered=False) as span:
        model(inputs)
    with pytest.warns(UserWarning, match="or the model uses a cleaned weight outside its own module"):
        cleaning = remove_off_span_(model, span, inputs=inputs)
    assert cleaning.outputs_moved["train"] > 0.1
