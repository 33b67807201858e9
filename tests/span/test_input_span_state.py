"""What InputSpan keeps, merges, refuses and leaves out, in words."""

import re

import pytest
import torch
from torch import nn

import decayfree
from decayfree.errors import AlreadyAttachedError, InvalidInputError, MismatchError
from decayfree.span.input_span import InputSpan
from support.span_by_hand import layer_and_batches, watch

CENTERINGS = [True, "overall", False]


class Scaled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


def everything_that_cannot_be_watched():
    tied, embedding = nn.Linear(3, 5), nn.Embedding(5, 3)
    embedding.weight = tied.weight
    transposed, plain = nn.ConvTranspose1d(2, 2, 3), nn.Conv1d(2, 2, 3)
    plain.weight = transposed.weight
    return nn.ModuleDict(
        {
            "long": nn.Conv2d(20, 4, 3, groups=2),
            "scaled": Scaled(2, 2),
            "recurrent": nn.RNN(2, 2),
            "parametrized": nn.utils.parametrizations.spectral_norm(nn.Linear(2, 2)),
            "spectral": nn.utils.spectral_norm(nn.Linear(2, 2)),
            "lazy": nn.LazyLinear(2, bias=False),
            "complex": nn.Linear(2, 2, dtype=torch.complex64),
            "tied": tied,
            "embedding": embedding,
            "transposed": transposed,
            "plain": plain,
            "norm": nn.BatchNorm1d(2),
            "fine": nn.Linear(2, 2),
            "silent": nn.Linear(2, 2),
        }
    )


def test_what_is_left_out_is_listed_with_the_reason():
    model = everything_that_cannot_be_watched()
    span = InputSpan(model, max_features=89)
    assert "silent.weight" not in span.left_out
    with span:
        model["fine"](torch.ones(1, 2))
    assert span.left_out == {
        "long.weight": (
            "a row has 90 features, more than max_features=89: its second moment would take 0.13 MB"
        ),
        "scaled.weight": "Scaled has a forward of its own, which may treat inputs or weight in another way",
        "recurrent.weight_ih_l0": "RNN is no linear layer and no convolution",
        "recurrent.weight_hh_l0": "RNN is no linear layer and no convolution",
        "parametrized.parametrizations.weight.original": "a parametrization computes the weight from it",
        "spectral.weight_orig": "Linear computes its weight from it",
        "lazy.weight": "it is lazy and has no shape yet: run the model once first",
        "complex.weight": "it does not hold real numbers",
        "tied.weight": "it is shared by 2 layers, and Embedding is no linear layer and no convolution",
        "transposed.weight": "it is shared by 2 layers, and their rows do not see inputs of the same kind",
        "silent.weight": "no forward pass called its layer while it was watched",
    }
    assert list(span) == ["fine.weight"]
    assert "long.weight" in InputSpan(model, max_features=90)._watched


def test_only_what_was_found_is_watched(seed):
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    inputs = torch.randn(8, 3)
    found = decayfree.find_invariant(model, inputs)
    for chosen in (found, [found[0]], ["0.weight"], (name for name in ["0.weight"])):
        span = watch(model, [inputs], chosen)
        assert (list(span), span.left_out) == (["0.weight"], {})
    assert watch(model, [inputs], ["0.bias", "1.weight"]).left_out == {
        "0.bias": "a bias has no input",
        "1.weight": "BatchNorm1d is no linear layer and no convolution",
    }


def test_a_weight_that_is_not_there_says_why(seed):
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2), nn.Embedding(2, 2))
    span = InputSpan(model, ["0.weight", "2.weight"])
    with pytest.raises(
        MismatchError,
        match=r"0\.weight: no input was watched yet; run the model, uncompiled, inside `with InputSpan",
    ):
        span["0.weight"]
    with span:
        model[0](torch.randn(2, 3))
    for name, reason in {
        "1.weight": "it was not asked for",
        "2.weight": "Embedding is no linear layer and no convolution",
        "nobody": "the model has no such parameter",
    }.items():
        assert name not in span
        with pytest.raises(MismatchError, match=f"{name}: {reason}"):
            span[name]


def test_all_faults_of_the_settings_are_told_at_once():
    with pytest.raises(InvalidInputError) as error:
        InputSpan("model", "0.weight", centered="batch", max_features=0)
    assert str(error.value) == (
        "model must be a torch.nn.Module, got str; "
        "found must be what find_invariant returned, a list of names, or None, got '0.weight'; "
        "centered must be True, False or \"overall\", got 'batch'; "
        "max_features must be a whole number of at least 1, got 0"
    )
    with pytest.raises(
        InvalidInputError, match="max_features must be a whole number of at least 1, got True"
    ):
        InputSpan(nn.Linear(1, 1), max_features=True)


def test_names_that_the_model_does_not_have_are_listed():
    names = ["weight", *(f"{number}.weight" for number in range(8))]
    with pytest.raises(
        MismatchError, match=r"no parameter of these names: 0\.weight, 1\.weight, .* 5\.weight, …$"
    ):
        InputSpan(nn.Linear(1, 1), names)


def test_it_cannot_watch_twice_at_once():
    span = InputSpan(nn.Linear(1, 1))
    with (
        pytest.raises(AlreadyAttachedError, match="watching already: leave its with block first"),
        span,
        span,
    ):
        pass
    assert not span.is_watching


def test_inputs_that_are_not_finite_are_named(seed):
    span = watch(nn.Linear(2, 1), [torch.tensor([[1.0, float("nan")]])])
    with pytest.raises(InvalidInputError, match="the inputs of weight held NaN or infinity"):
        span["weight"].rank()


@pytest.mark.parametrize("centered", CENTERINGS)
@pytest.mark.parametrize("kind", ["linear", "2d, everything"])
def test_workers_together_have_seen_what_one_would_have(seed, kind, centered):
    layer, batches = layer_and_batches(kind, seed, sizes=(5, 3, 4, 6))
    alone = watch(layer, batches, centered=centered)["weight"]
    workers = [watch(layer, batches[start::3], centered=centered) for start in range(3)]
    together = InputSpan(layer, centered=centered)
    for worker in workers:
        together.merge_(worker)
        assert together["weight"].n_samples <= alone.n_samples
    found = together["weight"]
    torch.testing.assert_close(found.second_moment, alone.second_moment, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.mean, alone.mean, rtol=1e-13, atol=1e-13)
    assert (found.n_samples, found.n_batches) == (alone.n_samples, 4)
    assert [worker["weight"].n_batches for worker in workers] == [2, 1, 1]


@pytest.mark.parametrize("centered", CENTERINGS)
def test_a_state_goes_to_a_file_and_back(seed, tmp_path, centered):
    layer, batches = layer_and_batches("1d, groups and stride", seed)
    span = watch(layer, batches, centered=centered)
    torch.save(span.state_dict(), tmp_path / "span.pt")
    again = watch(layer, batches[:1], centered=centered)
    assert again["weight"].n_batches == 1
    again.load_state_dict(torch.load(tmp_path / "span.pt", weights_only=True))
    assert torch.equal(again["weight"].second_moment, span["weight"].second_moment)
    with again:  # and it goes on from there, on its own
        layer(batches[0])
    assert span["weight"].n_batches + 1 == again["weight"].n_batches


def test_a_state_stays_as_it_was_when_the_span_goes_on(seed):
    layer, batches = layer_and_batches("linear", seed)
    span = watch(layer, batches)
    state = span.state_dict()
    kept = state["moments"]["weight"]["sum"].clone()
    with span:
        layer(batches[0])
    assert torch.equal(state["moments"]["weight"]["sum"], kept)


def test_spans_that_do_not_go_together_are_not_merged(seed):
    mine = watch(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)), [torch.randn(4, 2)])
    before = mine.state_dict()
    other = watch(
        nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 1), nn.Linear(1, 1)), [torch.randn(4, 2)], centered=False
    )
    with pytest.raises(MismatchError) as error:
        mine.merge_(other)
    assert str(error.value) == (
        "these spans do not go together: one has centered=False, the other centered=True; "
        "1.weight: (1, 4) groups and features instead of (1, 3); 2.weight: the model has no such parameter"
    )
    after = mine.state_dict()
    assert torch.equal(before["moments"]["0.weight"]["sum"], after["moments"]["0.weight"]["sum"])
    with pytest.raises(
        MismatchError, match=re.escape("this was not made by InputSpan.state_dict: it has no 'centered'")
    ):
        mine.load_state_dict({"moments": {}})


def test_printing_shows_a_table(seed):
    model = nn.Sequential(nn.Conv2d(4, 6, 3, groups=2), nn.Flatten(), nn.Linear(54, 2), nn.Embedding(2, 2))
    with InputSpan(model, centered=False) as span:
        model[:3](torch.randn(40, 4, 5, 5))
    assert (
        repr(span)
        == """\
Inputs of 2 weights, not centered.
weight    shape         features        samples  batches
0.weight  (6, 2, 3, 3)  18 in 2 groups  360      1
2.weight  (2, 54)       54              40       1

Left out: 1
  3.weight  Embedding is no linear layer and no convolution"""
    )
    assert repr(InputSpan(nn.Linear(1, 1))) == "Inputs of 0 weights, around each batch's mean."
