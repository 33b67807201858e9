"""What InputSpan sees: second moments against vectors cut by hand, and gradients in their span."""

import copy

import pytest
import torch
from torch import nn

from decayfree.span.input_span import InputSpan
from decayfree.span.patches import patches_of
from decayfree.span.watchable import layout_of
from support import bounds
from support.span_by_hand import LAYERS, channels_of, layer_and_batches, moment_by_hand, seen_by_hand, watch


@pytest.mark.parametrize("kind", LAYERS)
def test_vectors_cut_by_hand_times_rows_are_what_the_layer_computes(seed, kind):
    layer, (batch, _) = layer_and_batches(kind, seed)
    samples, rows = seen_by_hand(layer, batch), layout_of(layer).rows(layer.weight)
    products = (samples @ rows.transpose(1, 2)).transpose(0, 1).flatten(1) + layer.bias
    outputs = layer(batch)
    # Positions come before inputs, as they were cut.
    by_position = outputs if isinstance(layer, nn.Linear) else outputs.flatten(2).permute(2, 0, 1)
    expected = by_position.reshape(-1, layout_of(layer).n_rows)
    torch.testing.assert_close(products, expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("centered", [True, "overall", False])
@pytest.mark.parametrize("kind", LAYERS)
def test_the_moment_is_that_of_vectors_cut_by_hand(seed, kind, centered):
    layer, batches = layer_and_batches(kind, seed)
    span = watch(layer, batches, centered=centered)["weight"]
    parts = [seen_by_hand(layer, batch) for batch in batches]
    expected = moment_by_hand(parts, centered)
    torch.testing.assert_close(span.second_moment, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(span.mean, torch.cat(parts, dim=1).mean(dim=1), rtol=1e-13, atol=1e-13)
    assert (span.n_samples, span.n_batches) == (sum(part.shape[1] for part in parts), 2)
    assert (span.n_features, span.groups) == (expected.shape[1], len(expected))


@pytest.mark.parametrize("kind", LAYERS)
def test_gradients_lie_in_the_span_of_the_inputs(seed, kind):
    layer, batches = layer_and_batches(kind, seed)
    span = watch(layer, batches, centered=False)["weight"]
    for batch in batches:
        outputs = layer(batch)
        (gradient,) = torch.autograd.grad((outputs * torch.randn_like(outputs)).sum(), layer.weight)
        assert span.off_span_share(gradient).max() < 2e-14
    assert span.off_span_share(torch.randn_like(layer.weight)).min() > 0.01


@pytest.mark.parametrize("centered", [True, "overall"])
@pytest.mark.parametrize("kind", [kind for kind in LAYERS if kind != "linear with leading dimensions"])
def test_gradients_before_a_batchnorm_lie_in_the_centered_span(seed, kind, centered):
    layer, batches = layer_and_batches(kind, seed)
    for batch in batches:
        channels_of(layer, batch)[:, 3:] = 7.0  # constant: without padding nothing comes from it
    norms = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
    model = nn.Sequential(layer, norms[batches[0].ndim](layout_of(layer).n_rows)).double()
    span = watch(model, batches, centered=centered)["0.weight"]
    for batch in batches:
        outputs = model(batch)
        (gradient,) = torch.autograd.grad((outputs * torch.randn_like(outputs)).sum(), layer.weight)
        assert span.off_span_share(gradient).max() < 2e-12
    assert span.off_span_share(torch.randn_like(layer.weight)).max() > 0.01


def test_batches_that_differ_in_their_means_only_have_no_span_of_their_own():
    batches = [torch.zeros(3, 2), torch.tensor([[1.0, 2.0]]).expand(3, 2)]
    spans = {
        centered: watch(nn.Linear(2, 1), batches, centered=centered)["weight"]
        for centered in (True, "overall")
    }
    assert spans[True].rank() == 0
    assert spans["overall"].rank() == 1


def test_other_batches_of_the_same_samples_need_the_overall_mean(seed):
    samples = torch.randn(24, 40, dtype=torch.float64)
    model = nn.Sequential(nn.Linear(40, 6), nn.BatchNorm1d(6)).double()
    spans = {
        centered: watch(model, samples.split(4), ["0.weight"], centered=centered)["0.weight"]
        for centered in (True, "overall", False)
    }
    assert {centered: span.rank().item() for centered, span in spans.items()} == {
        True: 18,
        "overall": 23,
        False: 24,
    }
    outputs = model(samples[torch.randperm(24)[:6]])
    (gradient,) = torch.autograd.grad((outputs * torch.randn_like(outputs)).sum(), model[0].weight)
    assert spans[True].off_span_share(gradient).mean() > bounds.OTHER_BATCHES_OFF
    assert spans["overall"].off_span_share(gradient).max() < bounds.OTHER_BATCHES_IN


@pytest.mark.parametrize("numbers_at_once", [1, 60, 400])
@pytest.mark.parametrize("kind", LAYERS)
def test_parts_are_small_and_make_up_the_whole(seed, kind, numbers_at_once):
    layer, (batch, _) = layer_and_batches(kind, seed)
    output = layer(batch)
    (whole,) = patches_of(layer, batch, output)
    parts = list(patches_of(layer, batch, output, numbers_at_once=numbers_at_once))
    line = 1 if isinstance(layer, nn.Linear) else output.shape[3:].numel()
    assert (len(parts) > 1) == (whole.numel() > numbers_at_once)
    assert max(part.numel() for part in parts) <= max(numbers_at_once, line * whole[:, :1].numel())
    torch.testing.assert_close(
        moment_by_hand([torch.cat(parts, dim=1)], False), moment_by_hand([whole], False)
    )


def test_moments_in_many_parts_are_those_in_one(seed, monkeypatch):
    layer, batches = layer_and_batches("2d, everything", seed)
    expected = {
        centered: watch(layer, batches, centered=centered)["weight"] for centered in (True, "overall", False)
    }
    monkeypatch.setattr(
        "decayfree.span.input_span.patches_of", lambda *args: patches_of(*args, numbers_at_once=60)
    )
    for centered, span in expected.items():
        found = watch(layer, batches, centered=centered)["weight"]
        torch.testing.assert_close(found.second_moment, span.second_moment, rtol=1e-13, atol=1e-13)
        assert (found.n_samples, found.n_batches) == (span.n_samples, span.n_batches)


def test_a_mean_a_million_times_the_spread_costs_no_digits(seed):
    samples = torch.randn(200, 3, dtype=torch.float64) + 1e6
    expected = torch.cov(samples.T, correction=0)
    layer = nn.Linear(3, 1).double()
    span = watch(layer, [samples])
    torch.testing.assert_close(span["weight"].second_moment[0], expected, rtol=1e-9, atol=1e-9)
    overall = watch(layer, samples.split(7), centered="overall")
    torch.testing.assert_close(overall["weight"].second_moment[0], expected, rtol=1e-9, atol=1e-9)


def test_more_features_than_are_multiplied_at_once(seed):
    samples = torch.randn(4, 600, dtype=torch.float64)
    span = watch(nn.Linear(600, 1).double(), [samples])["weight"]
    torch.testing.assert_close(
        span.second_moment[0], torch.cov(samples.T, correction=0), rtol=1e-12, atol=1e-12
    )
    assert torch.equal(span.second_moment, span.second_moment.transpose(1, 2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sums_are_float64_whatever_the_model_is(seed, dtype):
    samples = torch.randn(50, 4, dtype=dtype)
    span = watch(nn.Linear(4, 1, dtype=dtype), [samples])["weight"]
    expected = torch.cov(samples.double().T, correction=0)
    torch.testing.assert_close(span.second_moment[0], expected, rtol=1e-14, atol=1e-15)


def test_one_image_alone_and_inputs_by_name_are_understood(seed):
    layer, image = nn.Conv2d(2, 3, 3), torch.randn(2, 5, 5)
    expected = watch(layer, [image[None]])["weight"].second_moment
    with InputSpan(layer) as span:
        layer(input=image)
    assert torch.equal(span["weight"].second_moment, expected)


def test_an_output_size_that_is_asked_for_counts(seed):
    layer = nn.ConvTranspose1d(2, 3, 2, stride=3)
    with InputSpan(layer) as span:
        layer(torch.randn(4, 2, 5), output_size=[16])
    assert span["weight"].n_samples == 4 * 16


def test_an_empty_batch_is_no_batch():
    with InputSpan(nn.Linear(2, 1)) as span:
        span.model(torch.zeros(0, 2))
        assert len(span) == 0
        span.model(torch.ones(3, 2))
    assert span["weight"].n_batches == 1


@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("training", [True, False])
def test_any_way_to_run_a_model_is_watched(seed, around, training):
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).train(training)
    with InputSpan(model) as span:
        for _ in range(2):  # what was made in inference mode must be there to be changed outside
            with around():
                model(torch.randn(5, 3))
        model(torch.randn(5, 3))
    assert [span[name].n_samples for name in span] == [15, 15]
    assert not span["0.weight"].second_moment.requires_grad


def test_the_model_computes_and_learns_the_same_while_it_is_watched(seed):
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Dropout(), nn.Flatten(), nn.Linear(27, 2))
    alone = copy.deepcopy(model)
    inputs = torch.randn(4, 2, 5, 5)
    results = []
    for one, context in ((alone, torch.enable_grad()), (model, InputSpan(model))):
        torch.manual_seed(seed)
        with context:
            outputs = one(inputs)
            outputs.square().sum().backward()
        results.append(
            [outputs, *(p for p in one.parameters()), *(p.grad for p in one.parameters()), *one.buffers()]
        )
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert not any(module._forward_hooks or module._forward_hooks_with_kwargs for module in model.modules())


def test_hooks_are_gone_after_an_error(seed):
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    span = InputSpan(model)
    with pytest.raises(RuntimeError, match="shapes"), span:
        model(torch.randn(5, 7))
    assert not span.is_watching
    assert not any(module._forward_hooks for module in model.modules())


def test_a_span_can_go_on_watching_later(seed):
    layer = nn.Linear(2, 1)
    batches = torch.randn(6, 2).split(3)
    span = InputSpan(layer)
    for batch in batches:
        with span:
            layer(batch)
        assert span["weight"] is span["weight"]
    assert span["weight"].n_samples == 6
    torch.testing.assert_close(span["weight"].second_moment, watch(layer, batches)["weight"].second_moment)


def test_copies_of_the_model_are_not_watched(seed):
    layer = nn.Linear(2, 1)
    with InputSpan(layer) as span:
        copy.deepcopy(layer)(torch.randn(3, 2))
    assert len(span) == 0


def test_a_layer_that_is_used_twice_and_a_weight_of_two_layers_count_both(seed):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(2, 2, bias=False), nn.Linear(2, 2)
            self.second.weight = self.first.weight

        def forward(self, a, b, c):
            return self.first(a) + self.first(b) + self.second(c)

    inputs = torch.eye(2)[0].expand(3, 2), torch.eye(2)[1].expand(4, 2), torch.ones(5, 2)
    with InputSpan(Twice(), centered=False) as span:
        span.model(inputs[0], inputs[1][:3], inputs[2][:3])
    expected = torch.tensor([[[2.0, 1.0], [1.0, 2.0]]]).double() / 3
    torch.testing.assert_close(span["first.weight"].second_moment, expected)
    assert span["second.weight"] is span["first.weight"]
    assert "second.weight" in span
    assert list(span) == ["first.weight"]
