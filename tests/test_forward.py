"""Does a model find the same random numbers and float64 every time, and is nothing of the process switched?

Each operation that draws, and each way to make a number without a word about its precision, twice; then what
is recomputed, what other threads see meanwhile, and models that reach for the process's own states.
"""

import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from decayfree import find_invariant
from decayfree.forward import ProcessRandomness, Surroundings, _in_a_moment_of

HALVES = torch.full((50,), 0.5)
WHOLE = torch.arange(6)

DRAWS: dict[str, Callable[[], Tensor]] = {
    "rand": lambda: torch.rand(5),
    "randn": lambda: torch.randn(5),
    "randint": lambda: torch.randint(1, 90, (5,)),
    "randperm": lambda: torch.randperm(20),
    "rand_like": lambda: torch.rand_like(HALVES),
    "randn_like": lambda: torch.randn_like(HALVES),
    "randint_like": lambda: torch.randint_like(WHOLE, 90),
    "normal": lambda: torch.normal(0.0, 1.0, (5,)),
    "normal of tensors": lambda: torch.normal(HALVES, HALVES),
    "uniform_": lambda: torch.zeros(5).uniform_(),
    "normal_": lambda: torch.zeros(5).normal_(),
    "exponential_": lambda: torch.zeros(5).exponential_(),
    "random_": lambda: torch.zeros(5).random_(2, 90),
    "bernoulli": lambda: torch.bernoulli(HALVES),
    "multinomial": lambda: torch.multinomial(HALVES, 9),
    "poisson": lambda: torch.poisson(10 * HALVES),
    "binomial": lambda: torch.binomial(20 * HALVES, HALVES),
    "gamma": lambda: torch.distributions.Gamma(1.0, 1.0).sample((5,)),
    "dirichlet": lambda: torch.distributions.Dirichlet(HALVES).sample(),
    "dropout": lambda: F.dropout(HALVES),
    "dropout in place": lambda: F.dropout(HALVES.clone(), inplace=True),
    "native_dropout": lambda: torch.native_dropout(HALVES, 0.5, True)[0],
    "alpha_dropout": lambda: F.alpha_dropout(HALVES, training=True),
    "dropout2d": lambda: F.dropout2d(HALVES.reshape(1, 50, 1, 1)),
    "rrelu": lambda: F.rrelu(-HALVES, training=True),
    "gumbel_softmax": lambda: F.gumbel_softmax(HALVES),
    "attention": lambda: F.scaled_dot_product_attention(*[torch.randn(1, 1, 9, 4)] * 3, dropout_p=0.5),
    "fractional_max_pool": lambda: F.fractional_max_pool2d(torch.randn(1, 9, 9), 2, output_size=3),
    "lstm": lambda: nn.LSTM(2, 9, 2, dropout=0.5)(torch.ones(3, 1, 2))[0],
    "svd_lowrank": lambda: torch.svd_lowrank(torch.randn(9, 9), 2)[1],
    "with a generator": lambda: torch.randn(5, generator=torch.Generator().manual_seed(1)),
}


@contextmanager
def unmoved_states() -> Iterator[None]:
    before = torch.get_rng_state(), random.getstate(), numpy.random.get_state()
    yield
    after = torch.get_rng_state(), random.getstate(), numpy.random.get_state()
    assert torch.equal(before[0], after[0])
    assert before[1] == after[1]
    assert (before[2][1] == after[2][1]).all()
    assert before[2][2:] == after[2][2:]


@pytest.mark.parametrize("is_inference", [False, True], ids=["", "in inference mode"])
@pytest.mark.parametrize("name", DRAWS)
def test_each_draw_is_repeated_and_moves_no_generator(name: str, is_inference: bool) -> None:
    drawn = []
    with unmoved_states(), torch.inference_mode(is_inference):
        for seed in (3, 3, 4):
            with Surroundings(seed):
                drawn.append(DRAWS[name]())
    assert torch.equal(drawn[0], drawn[1])
    assert (name == "with a generator") == torch.equal(drawn[0], drawn[2])


def test_the_numbers_are_those_of_the_seed() -> None:
    with Surroundings(3):
        drawn = torch.randn(5), torch.rand(5)
    generator = torch.Generator().manual_seed(3)
    assert torch.equal(drawn[0], torch.randn(5, generator=generator))
    assert torch.equal(drawn[1], torch.rand(5, generator=generator))


def test_dropout_keeps_its_share_and_its_mean() -> None:
    ones = torch.ones(100_000)
    with Surroundings(0):
        values, kept = torch.native_dropout(ones, 0.3, True)
        assert torch.native_dropout(ones, 1.0, True)[0].sum() == 0
        assert torch.equal(torch.native_dropout(ones, 0.3, False)[0], ones)
    assert torch.equal(values, kept / 0.7)
    assert abs(float(kept.double().mean()) - 0.7) < 0.01


@pytest.mark.usefixtures("seed")
def test_a_generator_that_is_passed_gives_its_numbers_and_stays_where_it_is() -> None:
    generator = torch.Generator().manual_seed(5)
    before = generator.get_state()
    for _ in range(2):
        with Surroundings(0):
            torch.randn(3)
            drawn = torch.randn(3, generator=generator), torch.randn(3, generator=generator)
        assert torch.equal(generator.get_state(), before)
    assert torch.equal(torch.cat(drawn), torch.cat([torch.randn(3, generator=generator) for _ in "12"]))


def test_an_operation_with_no_generator_but_its_devices_draws_and_puts_it_back() -> None:
    """Fused attention on an accelerator; here a generator of the host stands in for the device's."""
    generator = torch.Generator().manual_seed(5)
    before = generator.get_state()
    drawn = [_in_a_moment_of(generator, 7, lambda: torch.randn(3, generator=generator)) for _ in "12"]
    assert torch.equal(drawn[0], drawn[1])
    assert torch.equal(generator.get_state(), before)


# Precision

MAKES: dict[str, Callable[[], Tensor]] = {
    "zeros": lambda: torch.zeros(2),
    "empty": lambda: torch.empty(2),
    "full": lambda: torch.full((2,), 0.1),
    "eye": lambda: torch.eye(2),
    "linspace": lambda: torch.linspace(0, 1, 7),
    "logspace": lambda: torch.logspace(0, 1, 7),
    "arange": lambda: torch.arange(0.0, 1.0, 0.1),
    "rand": lambda: torch.rand(2),
    "hann_window": lambda: torch.hann_window(7),
    "fftfreq": lambda: torch.fft.fftfreq(7),
    "quotient of whole numbers": lambda: WHOLE / 3,
    "product with a number": lambda: WHOLE * 0.1,
    "root": WHOLE.sqrt,
    "where": lambda: torch.where(WHOLE > 2, 0.1, 0.2),
    "cast": lambda: WHOLE.float(),
    "legacy constructor": lambda: torch.Tensor([0.5, 1]),
    "literal": lambda: torch.tensor([0.5, 1]),
    "complex literal": lambda: torch.tensor(0.5j),
    "explicit": lambda: torch.zeros(2, dtype=torch.bfloat16),
}
ROUNDED = ("quotient of whole numbers", "product with a number", "root")
EXACT = ("zeros", "full", "eye", "linspace", "logspace", "arange", "hann_window", "fftfreq")


@pytest.mark.parametrize("name", MAKES)
def test_what_is_made_is_in_float64(name: str) -> None:
    with Surroundings(0, torch.float64):
        made = MAKES[name]()
    assert made.dtype in (torch.float64, torch.complex128)
    assert MAKES[name]().dtype not in (torch.float64, torch.complex128)
    if name in EXACT + ROUNDED:
        torch.set_default_dtype(torch.float64)
        try:
            expected = MAKES[name]()
        finally:
            torch.set_default_dtype(torch.float32)
        # A quotient, a product and a root of whole numbers are rounded to float32 before.
        tolerance = 1e-7 if name in ROUNDED else 1e-15
        torch.testing.assert_close(made, expected, rtol=tolerance, atol=tolerance)


def test_whole_numbers_and_what_is_said_stay() -> None:
    with Surroundings(0, torch.float64):
        assert (
            torch.arange(3).dtype == torch.full((2,), 1).dtype == torch.randint(3, (2,)).dtype == torch.int64
        )
        single = torch.ones(2).numpy().astype("float32")
        assert torch.from_numpy(single).dtype == torch.float64
    with Surroundings(0):
        assert torch.zeros(2).dtype == torch.float32


def test_in_float32_another_default_does_not_show() -> None:
    torch.set_default_dtype(torch.bfloat16)
    try:
        with Surroundings(0, torch.float32):
            assert torch.zeros(2).dtype == (WHOLE / 3).dtype == torch.rand(2).dtype == torch.float32
            assert torch.zeros(2, dtype=torch.float64).dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


# Recomputation


class Checkpointed(nn.Module):
    """Dropout inside checkpoints inside a checkpoint, and outside of them."""

    def __init__(self, *, is_reentrant: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4).double(), nn.Linear(4, 4).double()
        self.is_reentrant = is_reentrant

    def forward(self, x: Tensor) -> Tensor:
        x = self.part(x)
        return self.again(self.again_and_again(x))

    def part(self, x: Tensor) -> Tensor:
        return F.dropout(torch.tanh(self.second(F.dropout(torch.tanh(self.first(x))))))

    def again(self, x: Tensor) -> Tensor:
        return self.part(x) + checkpoint(self.part, x, use_reentrant=self.is_reentrant)

    def again_and_again(self, x: Tensor) -> Tensor:
        return checkpoint(self.again, x, use_reentrant=self.is_reentrant)


@pytest.mark.parametrize("is_reentrant", [False, True])
@pytest.mark.usefixtures("seed")
def test_what_is_recomputed_draws_the_same_numbers_again(is_reentrant: bool) -> None:
    model = Checkpointed(is_reentrant=is_reentrant)
    x = torch.randn(8, 4, dtype=torch.float64, requires_grad=True)
    weight = model.first.weight

    def loss() -> Tensor:
        with torch.enable_grad(), Surroundings(1):
            return model(x).square().sum()

    surroundings = Surroundings(1)
    with surroundings:
        value = model(x).square().sum()
    with surroundings:
        value.backward()
    slope, step = weight.grad[0, 0].clone(), 1e-6
    with torch.no_grad():
        weight[0, 0] += step
        above = loss()
        weight[0, 0] -= 2 * step
        assert float((above - loss()) / (2 * step)) == pytest.approx(float(slope), rel=1e-6)


# Threads


def test_other_threads_draw_and_compute_as_ever() -> None:
    """Two searches at once, while a third thread draws: its numbers are those of its seeds, in float32."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(), nn.Flatten())
    images = torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(1)
    random.seed(1)
    numpy.random.seed(1)
    expected = [[*torch.rand(1).tolist(), random.random(), numpy.random.rand()] for _ in range(4000)]
    torch.manual_seed(1)
    random.seed(1)
    numpy.random.seed(1)
    stop, faults = threading.Event(), []

    def search() -> None:
        while not stop.is_set():
            if "0.weight" not in find_invariant(model, images):
                faults.append("not found")

    threads = [threading.Thread(target=search) for _ in range(2)]
    for thread in threads:
        thread.start()
    drawn = [[*torch.rand(1).tolist(), random.random(), numpy.random.rand()] for _ in range(4000)]
    stop.set()
    for thread in threads:
        thread.join()
    assert drawn == expected
    assert not faults
    assert torch.get_default_dtype() == torch.float32


def test_torchs_compiler_is_not_imported() -> None:
    code = (
        "import torch, decayfree, sys; from torch import nn\n"
        "decayfree.find_invariant(nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4)), torch.randn(8, 3))\n"
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# The process's own states


def draws_of(function: Callable[[], Any]) -> tuple[list[Any], int]:
    """What three calls gave, and how often the function was called."""
    randomness, calls = ProcessRandomness(), []

    def call() -> Any:
        calls.append(function())
        return calls[-1]

    return [randomness.call(call, 7) for _ in "123"], len(calls)


@pytest.mark.parametrize(
    "function",
    [random.random, lambda: float(numpy.random.rand()), lambda: torch.manual_seed(3).initial_seed()],
    ids=["python", "numpy", "torch.manual_seed"],
)
@pytest.mark.usefixtures("seed")
def test_what_reaches_for_the_process_is_repeated_and_put_back(function: Callable[[], Any]) -> None:
    with unmoved_states():
        results, n_calls = draws_of(function)
    assert results[0] == results[1] == results[2]
    assert n_calls == 4


def test_what_does_not_is_called_once() -> None:
    results, n_calls = draws_of(lambda: 1)
    assert (results, n_calls) == ([1, 1, 1], 3)


class DrawsFromNumpy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.norm, self.head = nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.fc(x))) * (1 + numpy.random.rand() + random.random())


def test_searches_in_several_threads_that_draw_from_the_process_do_not_meet() -> None:
    random.seed(5)
    numpy.random.seed(5)
    before = random.getstate(), numpy.random.get_state()[1].tolist()
    inputs = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: [*find_invariant(DrawsFromNumpy(), inputs)], range(8)))
    assert [[weight.name for weight in one] for one in found] == [["fc.weight"]] * 8
    assert (random.getstate(), numpy.random.get_state()[1].tolist()) == before


class MakesOnDefaultDevice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.norm, self.head = nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        DEVICES.add(torch.zeros(1).device.type)
        return self.head(self.norm(checkpoint(self.fc, x, use_reentrant=False)))


DEVICES: set[str] = set()


def test_another_default_device_is_the_models_and_not_the_searchs() -> None:
    model, inputs = MakesOnDefaultDevice(), torch.randn(8, 6)
    with torch.device("meta"):
        found = find_invariant(model, inputs)
        assert torch.zeros(1).is_meta
    assert [weight.name for weight in found] == ["fc.weight"]
    assert {"meta"} == DEVICES


@pytest.mark.usefixtures("seed")
def test_states_are_put_back_when_the_call_raises() -> None:
    def fails() -> None:
        random.random()
        raise RuntimeError("out of luck")

    with unmoved_states(), pytest.raises(RuntimeError, match="out of luck"):
        ProcessRandomness().call(fails, 7)
