"""What torch's own table of optimizers promises holds with a rescaling as it does without.

Every class and setting that torch tests itself with, as a loop, with foreach and fused: one promise at a time
gives the same answer, kept or broken in the same way, with and without weights that are held.
"""

import copy
import io
import pickle
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import decayfree

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torch.testing._internal.common_optimizers import OptimizerInfo, optim_db

INPUTS = torch.randn(16, 4, generator=torch.Generator().manual_seed(1))
MODEL = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 2))
FOUND = decayfree.find_invariant(MODEL, INPUTS)
decayfree.rescale_(MODEL, FOUND)
# Takes sparse gradients only, which no weight before a normalization has.
ROWS = [row for row in optim_db if not row.only_supports_sparse_grads]


class Run:
    """A model with an optimizer, and a rescaling if asked for."""

    def __init__(self, kind: type[torch.optim.Optimizer], settings: dict[str, Any], *, is_held: bool) -> None:
        self.kind, self.settings, self.is_held = kind, settings, is_held
        self.model = copy.deepcopy(MODEL)
        found = decayfree.Invariance.from_dict(FOUND.to_dict(), self.model)
        matrices = [one for one in self.model.parameters() if one.ndim == 2]
        every = kind is not torch.optim.Muon
        self.optimizer = kind(self.model.parameters() if every else matrices, **copy.deepcopy(settings))
        if "weight_decay" in self.optimizer.param_groups[0] or kind is torch.optim.ASGD:
            decayfree.exempt_(self.optimizer, found)
        self.wrs = decayfree.WeightRescaling(self.optimizer, found) if is_held else None

    def loss(self) -> Tensor:
        self.optimizer.zero_grad()
        loss = (self.model(INPUTS) - 1).square().mean()
        loss.backward()
        return loss

    def step(self) -> Any:
        if self.kind is torch.optim.LBFGS:
            return self.optimizer.step(self.loss)
        self.loss()
        return self.optimizer.step()

    def train(self, n_steps: int = 3) -> "Run":
        for _ in range(n_steps):
            self.step()
        return self

    def weights(self) -> list[Tensor]:
        return [one.detach().clone() for one in self.model.state_dict().values()]

    def again(self) -> "Run":
        return Run(self.kind, self.settings, is_held=self.is_held)


def are_equal(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(first, second) for first, second in zip(one, other, strict=True))


def resumes_bitwise(run: Run, *, with_our_state: bool = True) -> bool:
    run.train()
    file = io.BytesIO()
    wrs = {"wrs": run.wrs.state_dict()} if run.wrs and with_our_state else {}
    torch.save({"model": run.model.state_dict(), "optimizer": run.optimizer.state_dict(), **wrs}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    other = run.again()
    other.model.load_state_dict(saved["model"])
    other.optimizer.load_state_dict(saved["optimizer"])
    if other.wrs and with_our_state:
        other.wrs.load_state_dict(saved["wrs"])
    return are_equal(run.train().weights(), other.train().weights())


def resumes_without_our_state(run: Run) -> bool:
    return resumes_bitwise(run, with_our_state=False)


def is_pickled(run: Run) -> bool:
    state = run.train().optimizer.state_dict()
    other = pickle.loads(pickle.dumps(run.optimizer))
    other.step(lambda: torch.zeros(())) if run.kind is torch.optim.LBFGS else other.step()
    return str(pickle.loads(pickle.dumps(state))) == str(state)


def is_copied(run: Run) -> bool:
    before = run.train().weights()
    model, optimizer = copy.deepcopy((run.model, run.optimizer))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step(lambda: torch.zeros(())) if run.kind is torch.optim.LBFGS else optimizer.step()
    is_apart = are_equal(run.weights(), before)
    return is_apart and not are_equal([*model.state_dict().values()], before)


def calls_hooks_once_in_order(run: Run) -> bool:
    calls: list[str] = []
    run.optimizer.register_step_pre_hook(lambda *_: calls.append("pre"))
    run.optimizer.register_step_post_hook(lambda *_: calls.append("post"))
    run.optimizer.register_state_dict_pre_hook(lambda *_: calls.append("state"))
    run.optimizer.register_load_state_dict_post_hook(lambda *_: calls.append("loaded"))
    run.step()
    run.optimizer.load_state_dict(run.optimizer.state_dict())
    return calls == ["pre", "post", "state", "loaded"]


def returns_the_loss_of_its_closure(run: Run) -> bool:
    losses: list[float] = []

    def closure() -> Tensor:
        loss = run.loss()
        losses.append(float(loss.detach()))
        return loss

    return float(run.optimizer.step(closure)) == losses[0]


def moves_a_group_that_joins(run: Run) -> bool:
    run.train(1)
    joined = nn.Parameter(torch.ones(3, 2))
    run.optimizer.add_param_group({"params": [joined]})
    joined.grad = torch.full_like(joined, 0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that nobody looks after it is told
        run.optimizer.step(lambda: torch.ones(())) if run.kind is torch.optim.LBFGS else run.optimizer.step()
    return not torch.equal(joined.detach(), torch.ones(3, 2))


def moves_nothing_without_gradients(run: Run) -> bool:
    before = run.weights()
    run.optimizer.zero_grad()
    run.optimizer.step(lambda: torch.zeros(())) if run.kind is torch.optim.LBFGS else run.optimizer.step()
    return are_equal(run.weights(), before)


def counts_its_steps(run: Run) -> bool:
    run.train(3)
    own = {int(state["step"]) for state in run.optimizer.state.values() if "step" in state}
    is_ours = run.wrs is None or (run.wrs.n_steps == 3 and run.wrs.check().problems == ())
    return own <= {3} and is_ours


PROMISES: list[Callable[[Run], bool]] = [
    counts_its_steps,
    resumes_bitwise,
    resumes_without_our_state,
    is_pickled,
    is_copied,
    calls_hooks_once_in_order,
    returns_the_loss_of_its_closure,
    moves_a_group_that_joins,
    moves_nothing_without_gradients,
]


def settings_of(row: OptimizerInfo) -> Iterator[tuple[str, dict[str, Any]]]:
    """Torch's own settings, each in every implementation that has a switch and runs on the host."""
    switches: list[dict[str, bool]] = [{}]
    switches += [{name: True} for name in ("foreach", "fused") if name in row.supported_impls]
    for entry in row.optim_inputs_func(device="cpu"):
        for switch in switches:
            settings = {**entry.kwargs, **switch}
            if isinstance(settings.get("lr"), Tensor) and "foreach" in switch:
                continue  # torch refuses it without capturable
            yield f"{entry.desc} {switch}", settings


def answer(promise: Callable[[Run], bool], make: Callable[[], Run]) -> str:
    """Whether it is kept, or by which error it is broken."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch's own, about lr as a tensor and the like
        try:
            return str(promise(make()))
        except Exception as error:
            return f"{type(error).__name__}: {error}"


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.__name__)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.optim_cls.__name__)
def test_a_promise_is_kept_with_a_rescaling_where_it_is_kept_without(
    row: OptimizerInfo, promise: Callable[[Run], bool]
) -> None:
    answers = {
        is_held: {
            name: answer(
                promise,
                lambda settings=settings, is_held=is_held: Run(  # type: ignore[misc]
                    row.optim_cls, settings, is_held=is_held
                ),
            )
            for name, settings in settings_of(row)
        }
        for is_held in (False, True)
    }
    assert answers[True] == answers[False]
    assert answers[True]
    broken = {name for name, one in answers[False].items() if one != "True"}
    assert not broken or row.optim_cls.__name__ in {"NAdam", "LBFGS"}, answers[False]
