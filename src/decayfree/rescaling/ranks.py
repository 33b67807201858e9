"""Do all processes of one training hold the same weights in the same way?

Asked through the store by which the processes have met, and not by a collective: a process that does not
answer within a time is told of, and nobody hangs. Where there is one process nothing is asked.
"""

from __future__ import annotations

import hashlib
import io
import json
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from decayfree.arguments.wrappers import parallel_around
from decayfree.errors import MismatchError, faults_of, listed, raise_all
from decayfree.shards import is_sharded

# Gradients are averaged right before a step, so that ranks come to it together.
TIME_OUT_S = 20.0
_POLL_S = 0.005

_n_asked: Counter[str] = Counter()


@dataclass(frozen=True)
class Answers:
    """What the ranks of one training said.

    Args:
        settings: By rank, those that answered in time, this one among them.
        missing: Ranks that did not.
    """

    settings: Mapping[int, Mapping[str, str]] = field(default_factory=dict)
    missing: tuple[int, ...] = ()

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
        self._peers, self._is_certain = _peers_of(model, weights.values())
        self._is_spread = any(map(is_sharded, weights.values()))
        shapes = [tuple(one.shape) for group in optimizer.param_groups for one in group["params"]]
        self._key = f"decayfree/{_digest(repr((self._peers, type(optimizer).__name__, shapes)))}"
        self._silent: tuple[int, ...] = ()

    @property
    def is_alone(self) -> bool:
        """Whether there is nobody to ask."""
        return len(self._peers) < 2

    def meet(self, settings: Mapping[str, str]) -> None:
        """Where norms are sums over ranks, come together first: a collective would wait without end.

        Raises:
            MismatchError: If one does not come, or has other settings.
        """
        if not self._is_spread or self.is_alone:
            return
        answers = self.ask(settings, about="attachment")
        missing = self._said_of(answers, "make the WeightRescaling")
        raise_all(faults_of(MismatchError, [one for one in (missing, answers.differences) if one]))

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
        takes_first = takes_first and self._is_certain
        key = f"{self._key}/radii/{_n_asked[self._key]}"
        _n_asked[self._key] += 1
        if takes_first:
            self._give(radii, key)
        own = {"radii": "those of the first rank" if takes_first else told(radii)}
        answers = self.ask({**settings, **own}, about="first step")
        if self._is_certain:
            raise_all(faults_of(MismatchError, [answers.differences][: len(answers.differences)]))
        missing = self._said_of(answers, "take a first step with a WeightRescaling")
        for message in filter(None, (missing, answers.differences)):
            warnings.warn(message, stacklevel=stacklevel + 1)
        is_first_there = self._peers[0] not in answers.missing
        return _of_first(radii, key) if takes_first and is_first_there else radii

    def problems(self, settings: Mapping[str, str]) -> list[str]:
        """What is wrong between ranks, a sentence each, where all look at the same time."""
        if self.is_alone:
            return []
        answers = self.ask(settings, about="check")
        said = [self._said_of(answers, "call check() of a WeightRescaling"), answers.differences]
        return [one for one in said if one]

    @property
    def are_all_here(self) -> bool:
        """Whether all ranks answered the last time."""
        return not self._silent

    def ask(self, settings: Mapping[str, str], *, about: str) -> Answers:
        """Tell all others the settings here, and wait for theirs; ``about`` keeps questions apart."""
        me = torch.distributed.get_rank()
        key = f"{self._key}/{about}"
        keys = {rank: f"{key}/{_n_asked[key]}/{rank}" for rank in self._peers}
        try:
            said = self._heard(json.dumps(dict(settings)), keys, me)
        except RuntimeError:  # the process that has the store is gone
            said = {me: dict(settings)}
        self._silent = tuple(rank for rank in keys if rank not in said)
        _n_asked[key] += not self._silent
        return Answers(said, self._silent)

    def _heard(self, own: str, keys: Mapping[int, str], me: int) -> dict[int, dict[str, str]]:
        store, deadline = _store(), time.monotonic() + TIME_OUT_S
        store.set(keys[me], own)
        # Who did not answer is not waited for again.
        expected = [key for rank, key in keys.items() if rank not in self._silent]
        while not store.check(expected) and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        there = [rank for rank, key in keys.items() if store.check([key])]
        if len(there) < len(keys):
            store.delete_key(keys[me])  # or it would be taken for an answer to the next question
        return {rank: json.loads(store.get(keys[rank])) if rank != me else json.loads(own) for rank in there}

    def _said_of(self, answers: Answers, what: str) -> str:
        ranks = listed([str(rank) for rank in answers.missing])
        return (
            f"rank {ranks} did not {what} of these weights within {TIME_OUT_S:g} s of this one: where ranks "
            "train one model, do it on every rank, or their weights drift apart"
            if answers.missing
            else ""
        )

    def _give(self, tensors: Mapping[str, Tensor], key: str) -> None:
        if torch.distributed.get_rank() == self._peers[0]:
            buffer = io.BytesIO()
            torch.save({name: tensor.cpu() for name, tensor in tensors.items()}, buffer)
            _store().set(key, buffer.getvalue())


def _of_first(tensors: Mapping[str, Tensor], key: str) -> dict[str, Tensor]:
    theirs = torch.load(io.BytesIO(_store().get(key)), weights_only=True)
    return {name: theirs[name].to(tensor) for name, tensor in tensors.items()}


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
