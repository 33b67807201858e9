"""Does the probe know the zoo's answers, and do its claims hold when they are carried out?

Known answers, finite scaling of what was found and of what was not, and running statistics that follow. What
the search leaves untouched, refuses and prints is in test_discovery_contract.py.
"""

import functools
import warnings
from collections.abc import Iterable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from decayfree import InvalidInputError, Invariance, NormLayer, find_invariant
from decayfree.blocks import Blocks
from support.claims import (
    UNKNOWN,
    at_random,
    movement_in_eval_mode,
    movement_of_found,
    movements_of_the_others,
)
from support.oracle import Bench, generic_copy
from support.zoo import BY_NAME, ZOO
from support.zoo_entry import (
    ALONG,
    FROZEN,
    JOINT,
    LEFT_OUT,
    NOT,
    UNDECIDED,
    Follows,
    Scaled,
    ZooModel,
    images,
    net,
    tail,
)
from support.zoo_modules import Functional

EVERY_MODEL = pytest.mark.parametrize("entry", ZOO, ids=lambda entry: entry.name)
STILL = {torch.float64: 1e-9, torch.float32: 3e-5}
STILL_IN_EVAL_MODE = {torch.float64: 1e-10, torch.float32: 3e-5}
MOVED = {torch.float64: 1e-6, torch.float32: 1e-3}


@pytest.fixture
def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def found_in(entry: ZooModel) -> Invariance:
    return found_by_name(entry.name)


@functools.cache
def found_by_name(name: str) -> Invariance:
    entry = BY_NAME[name]
    model, inputs = entry.make()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of models in eval mode; test_discovery_contract.py looks at it
        return find_invariant(model, inputs, forward=entry.forward)


def bench_of(entry: ZooModel) -> Bench:
    model, inputs = entry.make()
    return Bench(generic_copy(model, dtype=entry.dtype), inputs, forward=entry.forward)


@EVERY_MODEL
def test_verdicts_are_the_known_ones(entry: ZooModel) -> None:
    found = found_in(entry)
    assert list(found.verdicts) == list(dict(entry.make()[0].named_parameters()))
    for name, known in entry.known.items():
        verdict = found.verdicts[name]
        expected = "invariant" if isinstance(known, Scaled) or known in (LEFT_OUT, JOINT, ALONG) else known
        assert verdict.verdict == expected, f"{name}: {verdict.reason}; but {entry.reason}"
        assert (name in found) == isinstance(known, Scaled), name
        if known in (JOINT, ALONG):
            assert name.replace("bias", "weight") in verdict.reason
        assert verdict.name == name
        assert verdict.shape == tuple(entry.make()[0].get_parameter(name).shape)


@EVERY_MODEL
def test_blocks_are_the_known_ones(entry: ZooModel) -> None:
    found = found_in(entry)
    known_weights = {name: known for name, known in entry.known.items() if isinstance(known, Scaled)}
    for name, known in known_weights.items():
        weight = found[name]
        assert (weight.blocks, weight.bias) == (
            Blocks(known.axis, known.block_sizes, known.groups, known.starts),
            known.bias,
        ), f"{name}: {entry.reason}"
        assert statistics_that_follow(weight.norm_layers) == {
            norm: channel_by_channel(follows) for norm, follows in dict(known.norms).items()
        }, f"{name}: {entry.reason}"


def statistics_that_follow(layers: Iterable[NormLayer]) -> dict[str, dict]:
    return {
        layer.name: channel_by_channel(Follows(layer.channels, layer.blocks, layer.shift, layer.shift_rows))
        for layer in layers
        if layer.channels
    }


def channel_by_channel(follows: Follows) -> dict[int, tuple[int, str | None, int | None]]:
    """Channel → its block, and the parameter and entry that shift it; in whatever order they were listed."""
    rows = follows.shift_rows or (None,) * len(follows.channels)
    assert len(follows.channels) == len(follows.blocks) == len(rows) == len(set(follows.channels))
    triples = zip(follows.channels, follows.blocks, rows, strict=True)
    return {channel: (block, follows.shift, row) for channel, block, row in triples}


@EVERY_MODEL
def test_scaling_what_was_found_moves_nothing(entry: ZooModel, generator: torch.Generator) -> None:
    found = found_in(entry)
    assert movement_of_found(bench_of(entry), found, at_random(generator)) < STILL[entry.dtype]


@EVERY_MODEL
def test_scaling_what_is_not_invariant_moves_the_outputs(entry: ZooModel) -> None:
    moved = movements_of_the_others(bench_of(entry), found_in(entry), entry.factor)
    assert all(value > MOVED[entry.dtype] for value in moved.values()), moved


@EVERY_MODEL
def test_running_statistics_that_follow_keep_eval_mode(entry: ZooModel, generator: torch.Generator) -> None:
    moved = movement_in_eval_mode(bench_of(entry), found_in(entry), at_random(generator))
    assert moved < STILL_IN_EVAL_MODE[entry.dtype]


# Places: which modules are said to take the scale away, where no running statistics tell.
PLACES = {
    "conv_under_groupnorm": {"conv.weight": {"norm"}},
    "linear_under_layernorm": {"fc.weight": {"norm"}},
    "hand_written_rmsnorm_with_variance_epsilon": {"fc.weight": {"norm"}},
    "functional_layernorm": {"fc.weight": {"norm"}},
    "fused_qkv_with_norms_on_heads_and_on_the_value": {"qkv.weight": {"q_norm", "k_norm", "v_norm"}},
    "standardized_convolution_under_batchnorm": {"conv.weight": {"conv"}},
    "weight_norm_without_a_norm": {
        "conv.parametrizations.weight.original1": {"conv.parametrizations.weight.0"}
    },
    "linear_under_cosine_classifier": {"fc.weight": {"head"}, "head.weight": {"head"}},
    "batchnorm_without_running_statistics": {"conv.weight": {"norm"}},
    "two_linears_with_relu_under_batchnorm": {"fc.weight": {"norm"}, "second.weight": {"norm"}},
    "a_weight_before_a_gain_that_is_normalized_away": {"first.weight": {"norm1"}, "fc.weight": {"norm"}},
    "convolution_used_twice_with_two_norms": {"conv.weight": {"fine", "coarse"}},
}


@pytest.mark.parametrize("name", PLACES)
def test_the_module_that_takes_the_scale_away_is_named(name: str) -> None:
    found = found_in(BY_NAME[name])
    for weight, places in PLACES[name].items():
        assert {layer.name for layer in found[weight].norm_layers} == places
        assert all(place in found.verdicts[weight].reason for place in places)


def test_a_linear_layer_is_not_said_to_take_a_scale_away() -> None:
    found = found_in(BY_NAME["cosine_attention"])
    for name in ("q.weight", "k.weight"):
        assert "out" not in {layer.name for layer in found[name].norm_layers}, found.verdicts[name].reason


class Applied(nn.Module):
    """A convolution, a function of it and of the input, a norm, ReLU."""

    def __init__(self, function, n_channels: int, *, bias: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, bias=bias)
        self.extra = nn.Parameter(torch.randn(6))
        self.norm = nn.BatchNorm2d(n_channels)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.function(self, x)))


# Running statistics that do not follow as rm ← c(rm − b) + b, rv ← c²rv with one c and one b that is a
# parameter.
class NormUsedAgain(nn.Module):
    """The same norm before and after a convolution: in eval mode its statistics serve both calls."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3, bias=False), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(F.relu(self.norm(x)))))


AWKWARD = {
    "the_first_use_of_the_norm_does_not_follow": NormUsedAgain,
    "the_square_grows_by_the_square": lambda: Applied(lambda m, x: m.conv(x).square(), 6),
    "two_blocks_multiply": lambda: Applied(lambda m, x: m.conv(x)[:, :3] * m.conv(x)[:, 3:], 3),
    "two_parameters_shift": lambda: Applied(
        lambda m, x: m.conv(x) + m.extra.reshape(1, -1, 1, 1), 6, bias=True
    ),
    "the_bias_comes_twice": lambda: Applied(lambda m, x: m.conv(x) + m.conv(x.flip(0)), 6, bias=True),
    "a_constant_shifts": lambda: Applied(lambda m, x: m.conv(x) + 3.0, 6),
    "a_singular_value_couples_the_kernels": lambda: net(
        conv=parametrizations.spectral_norm(nn.Conv2d(3, 6, 3, bias=False)),
        norm=nn.BatchNorm2d(6),
        act=nn.ReLU(),
    ),
    "the_statistics_stand_still": lambda: net(
        conv=nn.Conv2d(3, 6, 3), norm=nn.BatchNorm2d(6, momentum=0.0), **tail(6)
    ),
}


@pytest.mark.parametrize("name", AWKWARD)
def test_statistics_that_follow_in_another_way_are_not_passed_over(
    name: str, generator: torch.Generator
) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = AWKWARD[name]()
    inputs = images(generator)
    found = find_invariant(model, inputs)
    bench = Bench(generic_copy(model), inputs)
    assert movement_of_found(bench, found, at_random(generator)) < 1e-9
    for weight in found:
        moved = movement_in_eval_mode(bench, [weight], at_random(generator))
        says_so = any(layer.shift == UNKNOWN for layer in weight.norm_layers)
        assert moved < 1e-10 or says_so, (weight.name, moved, weight.norm_layers)


def test_float32_is_said_where_the_model_cannot_run_in_float64() -> None:
    found = found_in(BY_NAME["no_float64_kernel"])
    assert found.dtype == torch.float32
    assert all("float32" in verdict.reason for verdict in found.verdicts.values())
    assert "float32" in repr(found)
    assert found_in(BY_NAME["conv2d_under_batchnorm2d"]).dtype == torch.float64


def test_a_dead_kernel_does_not_hide_the_others(generator: torch.Generator) -> None:
    entry = BY_NAME["bias_and_relu_before_the_norm"]
    model, inputs = entry.make()
    with torch.no_grad():
        model.conv.bias[2] = -9.0
    weight = find_invariant(model, inputs)["conv.weight"]
    assert (weight.block_sizes, weight.bias) == ((1,) * 6, "conv.bias")
    (layer,) = weight.norm_layers
    assert (layer.channels, layer.blocks) == (tuple(range(6)), tuple(range(6))), (
        "dead now is not dead for ever"
    )
    moved = movement_in_eval_mode(Bench(generic_copy(model), inputs), [weight], at_random(generator))
    assert moved < 1e-10


def test_a_kernel_that_sees_nothing_but_zeros_is_not_forgotten() -> None:
    """The channel before it is dead now; when it wakes up, its statistics must have followed."""
    model = net(
        first=nn.Conv2d(3, 6, 3, bias=False),
        norm1=nn.BatchNorm2d(6),
        act1=nn.ReLU(),
        conv=nn.Conv2d(6, 6, 3, groups=6, bias=False),
        norm=nn.BatchNorm2d(6),
        **tail(6),
    )
    with torch.no_grad():
        model.norm1.bias[2] = -30.0
    weight = find_invariant(model, images(torch.Generator().manual_seed(0)))["conv.weight"]
    assert weight.block_sizes == (1,) * 6
    (layer,) = weight.norm_layers
    assert (layer.channels, layer.blocks, layer.shift) == (tuple(range(6)), tuple(range(6)), None)


def test_mostly_dead_kernels_are_undecided() -> None:
    model, inputs = BY_NAME["bias_and_relu_before_the_norm"].make()
    with torch.no_grad():
        model.conv.bias[:4] = -9.0
    found = find_invariant(model, inputs)
    assert found.verdicts["conv.weight"].verdict == UNDECIDED, found.verdicts["conv.weight"].reason
    assert "gradient" in found.verdicts["conv.weight"].reason


def test_an_embedding_with_mostly_unseen_words_is_undecided() -> None:
    model = net(words=nn.Embedding(20, 6), norm=nn.LayerNorm(6), act=nn.ReLU(), head=nn.Linear(6, 3))
    verdict = find_invariant(model, torch.arange(5).reshape(1, 5)).verdicts["words.weight"]
    assert verdict.verdict == UNDECIDED
    assert "15 of its 20 rows got no gradient" in verdict.reason
    assert "ε" not in verdict.reason


DEGENERATE = {
    "identical samples": lambda: torch.linspace(-1, 1, 5).repeat(6, 1),
    "identical samples of whole numbers": lambda: torch.arange(5.0).repeat(6, 1),
}


@pytest.mark.parametrize("name", DEGENERATE)
def test_a_batch_of_identical_samples_proves_nothing(name: str) -> None:
    model = net(fc=nn.Linear(5, 6), norm=nn.BatchNorm1d(6), act=nn.ReLU(), head=nn.Linear(6, 3))
    assert verdict_or_refusal(model, DEGENERATE[name](), "fc.weight") in (UNDECIDED, "refused")


def verdict_or_refusal(model: nn.Module, inputs: Tensor, name: str) -> str:
    try:
        return find_invariant(model, inputs).verdicts[name].verdict
    except InvalidInputError:
        return "refused"


def test_two_values_in_a_batch_prove_nothing() -> None:
    """Two values are normalized to plus and minus one, whatever they are."""
    model = net(fc=nn.Linear(5, 6), norm=nn.BatchNorm1d(6), act=nn.ReLU(), head=nn.Linear(6, 3))
    found = find_invariant(model, torch.tensor([[1.0, 2.0, 0.5, 0.0, 1.0], [0.0, 1.0, 2.0, -1.0, 1.0]]))
    assert found.verdicts["fc.weight"].verdict == UNDECIDED


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_it_works_where_gradients_are_switched_off(context) -> None:
    entry = BY_NAME["conv2d_under_batchnorm2d"]
    model, inputs = entry.make()
    with context():
        found = find_invariant(model, inputs)
        assert not torch.is_grad_enabled()
    assert found.to_dict() == found_in(entry).to_dict()


def test_a_model_in_bfloat16_is_probed_in_float64() -> None:
    model, inputs = BY_NAME["conv_with_bias_under_batchnorm"].make()
    found = find_invariant(model.bfloat16(), inputs.bfloat16())
    assert found.dtype == torch.float64
    assert found["conv.weight"].block_sizes == (1,) * 6
    assert found["conv.weight"].norm_layers[0].shift == "conv.bias"
    assert model.conv.weight.dtype == torch.bfloat16


def test_an_affine_map_by_hand_is_no_normalization() -> None:
    """What has the name and the buffers of a norm but divides by nothing of the batch."""
    model = net(conv=nn.Conv2d(3, 6, 3), norm=Functional(lambda x: (x - 0.3) / 2.0), **tail(6))
    found = find_invariant(model, images(torch.Generator().manual_seed(0)))
    assert len(found) == 0
    assert {verdict.verdict for verdict in found.verdicts.values()} <= {NOT, FROZEN}
