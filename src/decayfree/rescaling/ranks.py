"""Do all processes of one training hold the same weights in the same way?

Asked through the store by which the processes have met, and not by a collective: a process that does not
answer within a time is told of, and nobody hangs. Where there is one process nothing is asked.
"""

from __future__ import annotations

import hashlib
import json
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from decayfree.arguments.wrappers import parallel_around
from decayfree.errors import MismatchError, faults_of, listed, raise_all
from decayfree.shards import is_sharded

# Gradients are averaged right before a step, so that ranks come to it together.
TIME_OUT_S = 20.0
# Before that some of them may have had more to do than others.
MEETING_TIME_OUT_S = 300.0
_POLL_S = 0.005


@dataclass(frozen=True)
class Answers:
    """What the ranks of one training said.

    Args:
        settings: By rank, those that answered in time, this one among them.
        missing: Ranks that did not.
        are_together: Whether all answered in time, which all of them know alike.
        within_s: The time.
        radii: What the first rank sent along, by name.
    """

    settings: Mapping[int, Mapping[str, str]] = field(default_factory=dict)
    missing: tuple[int, ...] = ()
    are_together: bool = True
    within_s: float = TIME_OUT_S
    radii: Mapping[str, list[float]] = field(default_factory=dict)

    @property
    def differences(self) -> str:
        """What differs between ranks, in one sentence with the cure; empty where nothing does."""
        said = []
        for name in dict.fromkeys(name for one in self.settings.values() for name in one):
            ranks: dict[str, list[str]] = {}
            for rank, settings in self.settings.items():
                ranks.setdefault(settings.get(name, "unknown"), []).append(str(rank))
            if len(ranks) > 1:
                values = (f"{value} on rank {listed(theirs, 3)}" for value, theirs in ranks.items())
                said.append(f"{name} {' but '.join(list(values)[:3])}")
        return (
            f"ranks of one training must hold the same weights in the same way, or they drift apart: "
            f"{'; '.join(said)}: make the same WeightRescaling on every rank, and load the same state"
            if said
            else ""
        )


class Ranks:
    """The processes that train one model with this one.

    Args:
        model: Which.
        weights: Of it that are held, by name.
        optimizer: Whose hook asks.
    """

    def __init__(self, model: nn.Module, weights: Mapping[str, Tensor], optimizer: Optimizer) -> None:
        self._model, self._weights, self._optimizer = model, dict(weights), optimizer
        self._silent: tuple[int, ...] = ()

    @cached_property
    def _who(self) -> tuple[list[int], bool]:
        return _peers_of(self._model, self._weights.values())

    @property
    def is_alone(self) -> bool:
        """Whether there is nobody to ask."""
        return len(self._who[0]) < 2

    def meet(
        self, settings: Mapping[str, str], *, about: Literal["attachment", "state"] = "attachment"
    ) -> None:
        """Where norms are sums over ranks, come together first: a collective would wait without end.

        Args:
            settings: What must be the same everywhere, in words.
            about: What is to be done together.

        Raises:
            MismatchError: If one does not come, or has other settings.
        """
        if self.is_alone or not any(map(is_sharded, self._weights.values())):
            return
        is_start = about == "attachment"
        answers = self.ask(settings, about=about, within_s=MEETING_TIME_OUT_S if is_start else TIME_OUT_S)
        missing = _said_of(answers, "make the WeightRescaling" if is_start else "call state_dict()")
        raise_all(faults_of(MismatchError, filter(None, [missing, answers.differences])))

    def agree(
        self, settings: Mapping[str, str], radii: dict[str, Tensor], *, takes_first: bool, stacklevel: int
    ) -> dict[str, Tensor]:
        """Compare settings before the first step; warns of ranks that do not come to it.

        Args:
            settings: What must be the same everywhere, in words.
            radii: Likewise; by name, (n_blocks,).
            takes_first: Whether all ranks are to have the radii of the first one.
            stacklevel: As for :func:`warnings.warn`.

        Returns:
            The radii to hold.

        Raises:
            MismatchError: If ranks that have the same weights, by a DistributedDataParallel or a mesh, differ
                in them. It is raised on all of them. Where they may train models of their own, it is told.
        """
        if self.is_alone:
            return radii
        takes_first = takes_first and self._who[1]
        own = {"radii": "those of the first rank" if takes_first else told(radii)}
        numbers = {name: one.tolist() for name, one in radii.items()} if takes_first else {}
        answers = self.ask({**settings, **own}, about="first step", radii=numbers)
        if self._who[1]:
            raise_all(faults_of(MismatchError, filter(None, [answers.differences])))
        missing = _said_of(answers, "take its first step with a WeightRescaling")
        for message in filter(None, (missing, answers.differences)):
            warnings.warn(message, stacklevel=stacklevel + 1)
        return {name: one.new_tensor(answers.radii.get(name, one.tolist())) for name, one in radii.items()}

    def problems(self, settings: Mapping[str, str]) -> tuple[list[str], bool]:
        """What is wrong between ranks where all look, a sentence each; whether all are here to go on with."""
        if self.is_alone:
            return [], True
        answers = self.ask(settings, about="check")
        said = [_said_of(answers, "call check() of the WeightRescaling"), answers.differences]
        return [one for one in said if one], answers.are_together

    def ask(
        self,
        settings: Mapping[str, str],
        *,
        about: str,
        within_s: float | None = None,
        radii: Mapping[str, list[float]] = MappingProxyType({}),
    ) -> Answers:
        """Tell all others the settings here, and wait for theirs.

        Args:
            settings: In words.
            about: Keeps questions apart.
            within_s: How long to wait.
            radii: To be sent along where this is the first rank.
        """
        peers, me, limit_s = self._who[0], torch.distributed.get_rank(), within_s or TIME_OUT_S
        own = {"settings": dict(settings), "radii": dict(radii) if me == peers[0] else {}}
        shapes = [tuple(one.shape) for group in self._optimizer.param_groups for one in group["params"]]
        key = f"decayfree/{_digest(repr((peers, type(self._optimizer).__name__, shapes)))}/{about}"
        try:
            said, are_together = self._heard(json.dumps(own), key, limit_s)
        except RuntimeError:  # the process that has the store is gone
            said, are_together = {me: own}, False
        self._silent = tuple(rank for rank in peers if rank not in said)
        return Answers(
            {rank: one["settings"] for rank, one in said.items()},
            self._silent,
            are_together,
            limit_s,
            said[peers[0]]["radii"] if peers[0] in said else {},
        )

    def _heard(self, own: str, key: str, limit_s: float) -> tuple[dict[int, dict[str, Any]], bool]:
        """What each rank that is there says, and whether all are together."""
        store, deadline = _store(), time.monotonic() + limit_s
        # How often this was asked is no process's own count: one may have asked without the others.
        number = int(store.compare_set(f"{key}/number", "", "0"))
        keys = {rank: f"{key}/{number}/{rank}" for rank in self._who[0]}
        store.set(keys[torch.distributed.get_rank()], own)
        # Who did not answer is not waited for again.
        expected = [one for rank, one in keys.items() if rank not in self._silent]
        _wait(lambda: store.check(expected), deadline)
        # The first one to say it decides for all, or some would go on and wait for those that did not.
        verdict = "together" if store.check(list(keys.values())) else "apart"
        are_together = store.compare_set(f"{key}/{number}/verdict", "", verdict) == b"together"
        store.compare_set(f"{key}/number", str(number), str(number + 1))
        there = [rank for rank, one in keys.items() if store.check([one])]
        said = {rank: json.loads(store.get(keys[rank])) for rank in there}
        heard = f"{key}/{number}/heard"
        store.add(heard, 1)
        if torch.distributed.get_rank() == 0:  # the store may end with this process, and it right after this
            _wait(lambda: store.add(heard, 0) >= len(there), deadline)
        return said, are_together


def _wait(is_so: Callable[[], bool], deadline: float) -> None:
    while not is_so() and time.monotonic() < deadline:
        time.sleep(_POLL_S)


def _said_of(answers: Answers, what: str) -> str:
    """That ranks are missing, or come too late for others, in one sentence; empty where all are together."""
    if answers.are_together:
        return ""
    ranks, time_s = listed([str(rank) for rank in answers.missing]), f"{answers.within_s:g} s"
    return (
        f"rank {ranks} did not {what} of these weights within {time_s} of this one, or ended before it: "
        "where ranks train one model, do it on every rank, or their weights drift apart"
        if answers.missing
        else f"ranks came more than {time_s} apart to {what} of these weights"
    )


def told(values: Mapping[str, Tensor]) -> str:
    """Tensors by name in a few letters, which are others where one bit is."""
    together = torch.cat([one.detach().double().cpu() for one in values.values()])
    digest = _digest(repr(together.tolist()))
    return f"{float(together.min()):.6g} to {float(together.max()):.6g} (#{digest[:6]})"


def names_told(names: Sequence[str]) -> str:
    """Names in a few letters, which are others where one of them is."""
    return f"{len(names)} weights ({listed(list(names), 1)}; #{_digest(' '.join(names))[:6]})"


def _peers_of(model: nn.Module, weights: Iterable[Tensor]) -> tuple[list[int], bool]:
    """The ranks that should hold the same weights, if several; whether that is certain or only likely."""
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()) or _store() is None:
        return [], True
    mesh = next((one.device_mesh for one in weights if is_sharded(one)), None)  # type: ignore[attr-defined]
    wrapper = None if mesh is not None else parallel_around(model)
    if mesh is not None:
        peers = mesh.mesh.flatten().tolist()
    elif wrapper is not None:
        peers = distributed.get_process_group_ranks(wrapper.process_group)
    else:
        peers = list(range(distributed.get_world_size()))
    return (sorted(peers) if len(peers) > 1 else []), mesh is not None or wrapper is not None


def _store() -> Any:
    """Where the processes have met; None for backends without such a place."""
    if torch.distributed.get_backend() in ("fake", "mpi"):
        return None
    return torch.distributed.distributed_c10d._get_default_store()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
