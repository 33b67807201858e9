"""Flax networks, NNX and linen, trained by optax with their norms held; and the same network in PyTorch."""

import os
import subprocess
import sys
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import decayfree
from support.available import import_or_skip

jax, flax, optax = (import_or_skip(one) for one in ("jax", "flax", "optax"))
from flax import linen, nnx  # noqa: E402
from jax import numpy as jnp  # noqa: E402

from decayfree.integrations.flax import find_invariant, rescale  # noqa: E402
from decayfree.integrations.optax import decay_mask, hold_norms  # noqa: E402

RANDOM = np.random.default_rng(1)
IMAGES = RANDOM.standard_normal((8, 5, 5, 3))
LABELS = RANDOM.integers(0, 3, 8)
# By weight: blocks, rows of each, and whether its bias is scaled along.
BLOCKS = {
    "conv1.kernel": (8, 1, False),
    "conv2.kernel": (4, 2, True),
    "dense.kernel": (1, 6, True),
}


class Net(nnx.Module):
    """A kernel under BatchNorm, groups under GroupNorm, a whole matrix under LayerNorm, a last layer."""

    def __init__(self) -> None:
        rngs, of = nnx.Rngs(0), {"epsilon": 1e-5, "rngs": nnx.Rngs(1)}
        self.conv1, self.norm1 = nnx.Conv(3, 8, (3, 3), rngs=rngs), nnx.BatchNorm(8, momentum=0.9, **of)
        self.conv2, self.norm2 = nnx.Conv(8, 8, (3, 3), rngs=rngs), nnx.GroupNorm(8, 4, **of)
        self.dense, self.norm3 = nnx.Linear(8, 6, rngs=rngs), nnx.LayerNorm(6, **of)
        self.last = nnx.Linear(6, 3, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        x = nnx.relu(self.norm1(self.conv1(x)))
        x = nnx.relu(self.norm2(self.conv2(x))).mean((1, 2))
        return self.last(nnx.relu(self.norm3(self.dense(x))))


class LinenNet(linen.Module):
    """The same with other names of modules."""

    epsilon: float = 1e-5

    @linen.compact
    def __call__(self, x: Any, *, train: bool) -> Any:
        of = {"epsilon": self.epsilon}
        norm1 = linen.BatchNorm(not train, momentum=0.9, name="norm1", **of)
        x = linen.relu(norm1(linen.Conv(8, (3, 3), name="conv1")(x)))
        x = linen.relu(linen.GroupNorm(4, **of)(linen.Conv(8, (3, 3), name="conv2")(x))).mean((1, 2))
        x = linen.relu(linen.LayerNorm(**of)(linen.Dense(6, name="dense")(x)))
        return linen.Dense(3, name="last")(x)


class TorchNet(nn.Module):
    """The same in PyTorch, with the weights of an NNX one."""

    def __init__(self, model: Net) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv2, self.norm2 = nn.Conv2d(8, 8, 3, padding=1), nn.GroupNorm(4, 8)
        self.dense, self.norm3 = nn.Linear(8, 6), nn.LayerNorm(6)
        self.last = nn.Linear(6, 3)
        self.double()
        for name, values in ported(model).items():
            self.get_parameter(name).data.copy_(torch.tensor(values))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.relu(self.norm1(self.conv1(x)))
        x = functional.relu(self.norm2(self.conv2(x))).mean((2, 3))
        return self.last(functional.relu(self.norm3(self.dense(x))))


def ported(model: Net) -> dict[str, np.ndarray]:
    """Its parameters by the names and in the shapes of PyTorch."""
    values = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(nnx.state(model, nnx.Param)):
        module, kind = (one.key for one in path[:2])
        name = f"{module}.{'bias' if kind == 'bias' else 'weight'}"
        values[name] = (
            np.moveaxis(np.asarray(leaf), (-1, -2), (0, 1)) if kind == "kernel" else np.asarray(leaf)
        )
    return values


def filled(tree: Any) -> Any:
    """Arrays of its shapes, for which nothing is compiled."""
    random = np.random.default_rng(2)
    return jax.tree_util.tree_map_with_path(
        lambda path, one: np.float32(
            np.ones(one.shape) if "'var'" in str(path) else 0.3 * random.standard_normal(one.shape)
        ),
        tree,
    )


@cache
def parts() -> Any:
    graph, state = nnx.split(nnx.eval_shape(Net))
    return graph, jax.tree.map(jnp.asarray, filled(state))


@jax.jit
def doubled(tree: Any) -> Any:
    return jax.tree.map(
        lambda one: one.astype(jnp.float64) if jnp.issubdtype(one.dtype, jnp.floating) else one, tree
    )


def net(epsilon: float = 1e-5) -> Net:
    """In float64, with statistics that are not those of the beginning."""
    graph, state = parts()
    model = nnx.merge(graph, doubled(state))
    for module in (model.norm1, model.norm2, model.norm3):
        module.epsilon = epsilon
    called(model, IMAGES)
    return model


@nnx.jit
def called(model: Any, images: Any) -> Any:
    return model(images)


@cache
def found_in_net() -> Any:
    return find_invariant(nnx.merge(*parts(), copy=True), jnp.asarray(IMAGES[:4]))


@cache
def initialized() -> Any:
    return filled(jax.eval_shape(partial(LinenNet().init, train=True), jax.random.key(0), IMAGES))


def linen_net(epsilon: float = 1e-5) -> tuple[LinenNet, Any]:
    model, variables = LinenNet(epsilon), doubled(initialized())
    return model, variables | applied(model, variables, True)[1]


@partial(jax.jit, static_argnums=(0, 2))
def applied(model: LinenNet, variables: Any, train: bool) -> Any:
    return model.apply(variables, IMAGES, train=train, mutable=["batch_stats"])


@cache
def found_in_linen_net() -> Any:
    return find_invariant(LinenNet(), IMAGES[:4], initialized(), train=True)


def loss(model: Any, images: Any) -> Any:
    return optax.softmax_cross_entropy_with_integer_labels(model(images), LABELS).mean()


@nnx.jit
def step(model: Any, optimizer: Any, images: Any) -> None:
    optimizer.update(model, nnx.grad(loss)(model, images))


def test_blocks_are_those_of_pytorch_and_each_parameter_has_a_verdict() -> None:
    found = found_in_net()
    assert {
        name: (one.blocks.n_blocks, one.blocks.uniform_size, one.bias is not None)
        for name, one in found.items()
    } == BLOCKS
    with jax.enable_x64(True):
        peer = decayfree.find_invariant(TorchNet(net()), torch.tensor(IMAGES).movedim(-1, 1))
    assert {one.name.replace("weight", "kernel"): one.block_sizes for one in peer} == {
        name: one.blocks.block_sizes for name, one in found.items()
    }
    assert {name.replace("kernel", "weight").replace("scale", "weight") for name in found.verdicts} == (
        peer.verdicts.keys()
    )
    assert found.verdicts["last.kernel"].verdict == "not_invariant"
    assert found.verdicts["conv1.bias"].verdict == "undecided"
    assert max(found.confirmed_to, *(one.residual for one in found.values())) < 1e-12
    (following,) = found["conv1.kernel"].following
    assert (following.var, following.blocks, following.shift) == ("norm1.var", tuple(range(8)), "conv1.bias")
    assert "4 blocks of 2 rows, with bias" in repr(found)


def test_linen_finds_the_same_and_nothing_under_a_fixed_normalization() -> None:
    found = found_in_linen_net()
    with jax.enable_x64(True):
        model, variables = linen_net()
        fixed = find_invariant(model, IMAGES[:4], variables, train=False)
    assert {name: one.blocks for name, one in found.items()} == {
        name: one.blocks for name, one in found_in_net().items()
    }
    assert fixed.keys() == found.keys() - {"conv1.kernel"}
    assert "norm1.var is fixed" in fixed.verdicts["conv1.kernel"].reason


def test_heads_and_rows_of_other_axes_are_blocks() -> None:
    class Attending(nnx.Module):
        def __init__(self) -> None:
            rngs = nnx.Rngs(0)
            self.words, self.norm = nnx.Embed(5, 8, rngs=rngs), nnx.LayerNorm(8, rngs=rngs)
            self.attention = nnx.MultiHeadAttention(2, 8, normalize_qk=True, decode=False, rngs=rngs)
            self.fused = nnx.Linear(8, 24, rngs=rngs)

        def __call__(self, ids: Any) -> Any:
            x = self.attention(self.norm(self.words(ids)))
            q, k, v = (one.reshape(*x.shape[:2], 2, 4) for one in jnp.split(self.fused(x), 3, -1))
            q, k = (one / jnp.linalg.norm(one, axis=-1, keepdims=True) for one in (q, k))
            return nnx.dot_product_attention(q, k, v)

    found = find_invariant(nnx.jit(Attending)(), jnp.arange(10).reshape(2, 5) % 5)
    shown = {name: (one.axes, one.blocks.block_sizes, one.blocks.starts) for name, one in found.items()}
    assert shown == {
        "attention.key.kernel": ((-2, -1), (4, 4), ()),
        "attention.query.kernel": ((-2, -1), (4, 4), ()),
        "fused.kernel": ((-1,), (4, 4, 4, 4), (0, 4, 8, 12)),
        "words.embedding": ((-2,), (1, 1, 1, 1, 1), ()),
    }
    with jax.enable_x64(True):  # rows in no block keep their bits
        fused = {name: RANDOM.standard_normal(shape) for name, shape in (("kernel", (8, 24)), ("bias", 24))}
        values = {f"fused.{name}": jnp.asarray(one) for name, one in fused.items()}
        weight = found["fused.kernel"]
        scaled = weight.scaled(values, 2.0 / weight.norms(values))
        assert np.allclose(weight.norms(scaled), 2.0, rtol=1e-14)
        assert (scaled["fused.kernel"][:, 16:] == fused["kernel"][:, 16:]).all()


@pytest.mark.parametrize("kind", ["nnx", "linen"])
def test_a_rescale_moves_no_outputs_in_train_and_eval_mode(kind: str) -> None:
    found = {"nnx": found_in_net, "linen": found_in_linen_net}[kind]()
    with jax.enable_x64(True):
        module, before = linen_net(1e-14) if kind == "linen" else (None, net(1e-14))
        after = rescale(before, found, {"conv*": 3.0, "dense*": 0.2})
        params = after["params"] if module else nnx.to_pure_dict(nnx.state(after, nnx.Param))
        values = {f"conv2.{name}": one for name, one in params["conv2"].items()}
        assert np.allclose(found["conv2.kernel"].norms(values), 3.0 * 2**0.5, rtol=1e-12)
        for train in (False, True):  # training renews the statistics
            was, now = (outputs_of(module or one, one, train) for one in (before, after))
            assert np.abs(now - was).max() < 1e-10 * np.abs(was).max()


def outputs_of(model: Any, variables: Any, train: bool) -> Any:
    if isinstance(model, LinenNet):
        return applied(model, variables, train)[0]
    model.set_attributes(use_running_average=not train)
    return called(model, IMAGES)


def test_training_is_that_of_pytorch_and_norms_are_held() -> None:
    with jax.enable_x64(True):
        model = net()
        peer = TorchNet(model)
        peer_found = decayfree.find_invariant(peer, torch.tensor(IMAGES).movedim(-1, 1))
        torch_optimizer = torch.optim.SGD(peer.parameters(), lr=0.1, momentum=0.9)
        decayfree.WeightRescaling(torch_optimizer, peer_found)
        model, found = rescale(model, found_in_net()), found_in_net()
        optimizer = nnx.Optimizer(
            model, optax.chain(optax.sgd(0.1, momentum=0.9), hold_norms(found)), wrt=nnx.Param
        )
        images = jnp.asarray(IMAGES)
        for _ in range(50):
            step(model, optimizer, images)
            torch_optimizer.zero_grad()
            outputs = peer(torch.tensor(IMAGES).movedim(-1, 1))
            functional.cross_entropy(outputs, torch.tensor(LABELS)).backward()
            torch_optimizer.step()
        for name, values in ported(model).items():
            theirs = peer.get_parameter(name).detach().numpy()
            assert np.abs(values - theirs).max() <= 1e-10 * max(np.abs(theirs).max(), 1e-3), name
        parameters = by_name(model)
        for weight in found.values():
            expected = np.sqrt(weight.blocks.block_sizes)
            assert np.abs(weight.norms(parameters) / expected - 1).max() < 1e-12, weight.name


def by_name(model: Net) -> dict[str, Any]:
    return {
        ".".join(str(one.key) for one in path[:2]): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(nnx.state(model, nnx.Param))
    }


def test_decay_leaves_alone_what_is_held_and_initial_norms_stay() -> None:
    model, found = nnx.merge(*parts(), copy=True), found_in_net()
    params = nnx.state(model, nnx.Param)
    before = {one.name: one.norms(by_name(model)) for one in found.values()}
    decay = optax.add_decayed_weights(0.5, mask=decay_mask(found))
    steps, _ = decay.update(jax.tree.map(jnp.zeros_like, params), decay.init(params), params)
    decayed = {
        ".".join(str(one.key) for one in path[:2])
        for path, leaf in jax.tree_util.tree_leaves_with_path(steps)
        if leaf.any()
    }
    assert decayed == by_name(model).keys() - {*BLOCKS, "conv2.bias", "dense.bias"}
    optimizer = nnx.Optimizer(model, optax.chain(optax.adam(0.1), hold_norms(found, "init")), wrt=nnx.Param)
    step(model, optimizer, IMAGES)
    for weight in found.values():
        assert np.allclose(weight.norms(by_name(model)), before[weight.name], rtol=1e-6)


SHARDED = """
import jax, numpy as np, optax
from jax import numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from decayfree.blocks import Blocks
from decayfree.integrations.optax import TreeInvariance, TreeWeight, hold_norms

jax.config.update("jax_enable_x64", True)
assert jax.device_count() == 4
found = TreeInvariance(
    [
        TreeWeight("rows", None, (-1,), Blocks(0, (1,) * 16)),
        TreeWeight("groups", "bias", (-1,), Blocks(0, (2,) * 8)),
    ],
    {},
    confirmed_to=0.0,
)
random, shapes = np.random.default_rng(0), {"rows": (3, 3, 4, 16), "groups": (8, 16), "bias": (16,)}
params, grads = (
    {name: jnp.asarray(random.standard_normal(of)) for name, of in shapes.items()} for _ in range(2)
)
chain = optax.chain(optax.sgd(0.1, momentum=0.9), hold_norms(found, "init"))


def trained(params, grads, state, steps=3):
    step = jax.jit(lambda params, state: chain.update(grads, state, params)).lower(params, state).compile()
    for _ in range(steps):
        updates, state = step(params, state)
        params = optax.apply_updates(params, updates)
    return params, step.as_text()


alone, _ = trained(params, grads, chain.init(params))
mesh = Mesh(np.array(jax.devices()), ("x",))
spread = lambda tree: jax.tree.map(
    lambda one: jax.device_put(one, NamedSharding(mesh, PartitionSpec(*[None] * (one.ndim - 1), "x"))), tree
)
params, grads = spread(params), spread(grads)
together, text = trained(params, grads, chain.init(params))
for name in shapes:
    assert len(together[name].sharding.device_set) == 4
    assert np.abs(together[name] - alone[name]).max() < 1e-14
collectives = ("all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter")
print("collectives:", sum(text.count(one) for one in collectives))
"""


def test_rows_on_four_devices_are_held_without_a_collective() -> None:
    environment = {
        **os.environ,
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(Path(decayfree.__file__).parents[1]),
    }
    command = [sys.executable, "-c", SHARDED]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    assert run.stdout == "collectives: 0\n"


def test_what_cannot_be_is_said() -> None:
    model, found = nnx.merge(*parts(), copy=True), found_in_net()
    params = nnx.state(model, nnx.Param)
    linen_model = LinenNet()
    with pytest.raises(ValueError, match=r"expected a flax.nnx.Module, or .* got Linear and NoneType"):
        find_invariant(nn.Linear(2, 2), IMAGES)
    with pytest.raises(ValueError, match="its variables with params, got LinenNet and NoneType"):
        find_invariant(linen_model, IMAGES)
    with pytest.raises(ValueError, match="the model does not run on these inputs"):
        find_invariant(model, IMAGES[..., :2])
    with pytest.raises(ValueError, match="not all zero, got norms"):
        find_invariant(model, IMAGES * np.nan)
    with pytest.raises(ValueError, match="radius must be a positive number"):
        hold_norms(found, -1.0)
    with pytest.raises(ValueError, match=r"'head\.\*' matches none of the 3 weights"):
        hold_norms(found, {"head.*": 1.0})
    with pytest.raises(ValueError, match="found must be what find_invariant of decayfree"):
        decay_mask(None)
    with pytest.raises(ValueError, match=r"call rescale\(model, found, radius\)"):
        hold_norms(found).init(params)
    with pytest.raises(ValueError, match=r'variables\["params"\]'):
        hold_norms(found, "init").init({"params": {"conv1": {"kernel": jnp.ones((3, 3, 3, 8))}}})
    with pytest.raises(ValueError, match=r"conv1.kernel was \(3, 3, 3, 8\) when it was looked at"):
        hold_norms(found, "init").init({"conv1": {"kernel": jnp.ones((3, 3, 3, 4))}})
    with pytest.raises(ValueError, match="norms are held with the parameters"):
        hold_norms(found, "init").update(params, None)
    with pytest.raises(ValueError, match='radius="init" is what the weights have'):
        rescale(model, found, "init")
    with pytest.raises(ValueError, match="got Linear"):
        rescale(nn.Linear(2, 2), found)
    with pytest.raises(ValueError, match=r"expected all variables, .* got no batch_stats.norm1.var"):
        rescale({"params": nnx.to_pure_dict(params)}, found_in_linen_net())
    model.conv1.kernel[0, 0, 0, 0] = jnp.nan
    with pytest.raises(ArithmeticError, match="kernel holds NaN"):
        rescale(model, found)
