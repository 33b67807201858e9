"""What of a tensor that is spread over processes lies on this one, and over whom is a sum over it added up?

Numbers of a tensor carry labels, and sums go by label; what a label means, others say (blocks.py: a block of
a weight). Where nothing is spread, nothing here is called.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor

# All sums are added up in this precision, so that ranks change no digit of what one process would have.
SUM_DTYPE = torch.float64


def is_sharded(tensor: Tensor) -> bool:
    """Whether a tensor is spread over several devices (a DTensor)."""
    return hasattr(tensor, "full_tensor")


def whole(tensor: Tensor) -> Tensor:
    """The full tensor on every device of one that is sharded over several; others as they are."""
    full: Tensor = tensor.full_tensor() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]
    return full


def shard_fault(tensor: Tensor) -> str | None:
    """Why sums over a tensor cannot be added up from what each process has of it, with the cure."""
    if not is_sharded(tensor):
        return None
    spread: Any = tensor
    if any(one.is_partial() for one in spread.placements):
        return (
            "is a sum that is still to be taken over ranks (Partial): redistribute it to Shard or Replicate"
        )
    if spread.device_mesh.get_coordinate() is None:
        return "lies on other ranks only: give each rank the optimizer of what it has"
    expected = tuple(map(len, _cut(spread).here))
    has = tuple(spread.to_local().shape)
    return (
        None
        if has == expected
        else f"is sharded in a way of its own ({has} on this rank instead of {expected}): use fully_shard or "
        "parallelize_module"
    )


@dataclass(frozen=True)
class Labelled:
    """A tensor and the labels of its numbers.

    Args:
        tensor: Spread over processes or not.
        dims: The dimensions along which labels differ, ascending.
        labels: (size of each of ``dims``), int64. From 0; −1 for numbers that have none.
    """

    tensor: Tensor
    dims: tuple[int, ...]
    labels: Tensor

    def here(self, first: int = 0, *, none: int = -1) -> tuple[Tensor, Tensor]:
        """What this process has: the tensor, and labels of it, (numbers along ``dims``,).

        ``first`` is added to labels, and ``none`` stands for no label.
        """
        local, labels = local_of(self.tensor), self.labels
        if is_sharded(self.tensor):
            indices = [_cut(self.tensor).here[dim] for dim in self.dims]
            labels = labels[torch.meshgrid(*indices, indexing="ij")]
        labels = torch.where(labels < 0, none, labels + first)
        return local, labels.flatten().to(local.device)

    def rows_of(self, local: Tensor) -> Tensor:
        """What this process has of it, or of another tensor like it, as (numbers along ``dims``, others)."""
        others = [dim for dim in range(local.ndim) if dim not in self.dims]
        turned = local.permute(*self.dims, *others)
        n_rows = turned.shape[: len(self.dims)].numel()
        return turned.reshape(n_rows, turned.shape[len(self.dims) :].numel())

    def spread(self, of_rows: Tensor, local: Tensor) -> Tensor:
        """One number for each row of what this process has, in a shape that goes with it."""
        return of_rows.reshape([size if dim in self.dims else 1 for dim, size in enumerate(local.shape)])


class Spread:
    """Sums by label over things of one or more tensors each, some of which are spread over processes.

    Args:
        things: The tensors of each thing; one label is one sum over all of them.
        sizes: How many labels each thing has.

    Attributes:
        members: All tensors.
        is_here: (labels of all things,). Whether this process has numbers with a label.
        n_labels: Of all things.
    """

    def __init__(self, things: Sequence[Sequence[Labelled]], sizes: Sequence[int]) -> None:
        self.members = [member for thing in things for member in thing]
        self.sizes, self.n_labels = list(sizes), sum(sizes)
        self._locals: list[Tensor] = []
        self._labels: list[Tensor] = []
        self._is_counted: list[bool] = []
        # Over whom the sums of a label are added up: where several processes have numbers of one, and where
        # all processes are to know it.
        self._columns: dict[bool, dict[Any, list[Tensor]]] = {False: {}, True: {}}
        first = 0
        for thing, size in zip(things, sizes, strict=True):
            cuts = _Cuts(thing, size)
            for member, is_counted in zip(thing, cuts.is_counted, strict=True):
                local, labels = member.here(first, none=self.n_labels)
                self._locals.append(local)
                self._labels.append(labels)
                self._is_counted.append(is_counted)
            for group, is_split in cuts.groups.items():
                for everywhere in (True, False) if is_split else (True,):
                    at = torch.arange(first, first + size, device=self._locals[-1].device)
                    self._columns[everywhere].setdefault(group, []).append(at)
            first += size
        self._all_labels = torch.cat(self._labels)
        is_here = torch.zeros(self.n_labels + 1, dtype=torch.bool, device=self._all_labels.device)
        is_here[self._all_labels] = True
        self.is_here = is_here[:-1]

    @property
    def groups(self) -> list[Any]:
        """The process groups over which any sum is added up."""
        return list(self._columns[True])

    def columns(self, group: Any, *, everywhere: bool) -> Tensor | None:
        """The labels whose sums are added up over a group, if there are any."""
        columns = self._columns[everywhere].get(group)
        return torch.cat(columns) if columns else None

    def add(self, of_rows: Sequence[Tensor]) -> Tensor:
        """What this process has of sums by label, (*, n_labels), from numbers of the rows it has, (*, rows).

        Rows are those of `Labelled.rows_of`, in the order of ``members``. What several processes have alike
        is taken from one of them.
        """
        counted = [
            rows if is_counted else torch.zeros_like(rows)
            for rows, is_counted in zip(of_rows, self._is_counted, strict=True)
        ]
        together = torch.cat(counted, dim=-1).to(SUM_DTYPE)
        sums = together.new_zeros(*together.shape[:-1], self.n_labels + 1)
        return sums.index_add_(-1, self._all_labels, together)[..., :-1]

    def squares(self) -> Tensor:
        """What this process has of the sums of squares, (n_labels,)."""
        pairs = zip(self.members, self._locals, strict=True)
        return self.add([_norms(member.rows_of(local)).square() for member, local in pairs])

    def numbers(self) -> Tensor:
        """What this process has of them where each number has a label of its own, (n_labels,)."""
        return self.add([local.flatten() for local in self._locals])

    def dots(self, others: Sequence[Tensor]) -> Tensor:
        """What this process has of the inner products with other tensors, one a member, (n_labels,)."""
        return self.add([(one.to(SUM_DTYPE) * other).sum(dim=1) for one, other in self.rows(others)])

    def everywhere(self, sums: Tensor) -> Tensor:
        """The whole sums, on every process, of what each has of them, (*, n_labels)."""
        add_up_([(self, sums)], everywhere=True)
        return sums

    @torch.no_grad()
    def scale_(self, factors: Tensor) -> None:
        """Multiply what this process has by the factors of its labels, (n_labels,)."""
        parts = self.to_rows(factors, none=1.0)
        for member, local, part in zip(self.members, self._locals, parts, strict=True):
            local.mul_(member.spread(part, local))

    @torch.no_grad()
    def move_(self, before: Sequence[Tensor], along: Tensor, times: Tensor) -> None:
        """Make of the step that numbers with a label took, from w to w + u, one to w + times·(u − along·w).

        Args:
            before: What this process had of each of ``members``.
            along: By label, (n_labels,).
            times: Likewise.
        """
        columns = [self.to_rows(of_labels, none=0.0) for of_labels in (along, times, torch.ones_like(times))]
        for member, local, old, *parts in zip(self.members, self._locals, before, *columns, strict=True):
            of_w, of_u, is_moved = (member.spread(part, local) for part in parts)
            new = old + of_u * (local - old - of_w * old)
            local.copy_(torch.where(is_moved > 0, new, local))

    def to_rows(self, of_labels: Tensor, *, none: float) -> Sequence[Tensor]:
        """One number for each label, (n_labels,), by tensor for each of the rows that this process has."""
        of_rows = torch.nn.functional.pad(of_labels, (0, 1), value=none)[self._all_labels]
        parts: Sequence[Tensor] = of_rows.split([len(labels) for labels in self._labels])
        return parts

    def rows(self, others: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """What this process has of the tensors and of others like them, as `Labelled.rows_of` has it."""
        return [
            (one.rows_of(local), one.rows_of(local_of(other, like=one.tensor)))
            for one, local, other in zip(self.members, self._locals, others, strict=True)
        ]

    def sums(self, of_labels: Tensor) -> list[Tensor]:
        """Thing by thing, (*, n_labels of it)."""
        return list(of_labels.split(self.sizes, dim=-1))


def add_up_(
    parts: Iterable[tuple[Spread, Tensor]], *, everywhere: bool, op: Literal["SUM", "MAX"] = "SUM"
) -> None:
    """Add up in place what each process has of sums, (*, n_labels), in one all-reduce a process group.

    Args:
        parts: What sums are over, and the sums.
        everywhere: Whether all processes are to have all sums; else each has right ones of what it has a
            part of, and where no label is on two processes nothing is sent.
        op: ``"MAX"`` takes the largest that any of them has instead.
    """
    parts = list(parts)
    groups = dict.fromkeys(group for spread, _ in parts for group in spread.groups)
    for group in groups:
        chosen = [
            (sums, columns)
            for spread, sums in parts
            if (columns := spread.columns(group, everywhere=everywhere)) is not None
        ]
        if not chosen:
            continue
        sent = torch.cat([sums[..., columns].reshape(-1) for sums, columns in chosen])
        torch.distributed.all_reduce(sent, getattr(torch.distributed.ReduceOp, op), group=group)
        at = 0
        for sums, columns in chosen:
            shape = (*sums.shape[:-1], len(columns))
            n = torch.Size(shape).numel()
            sums[..., columns] = sent[at : at + n].view(shape)
            at += n


def each_number(tensor: Tensor) -> Labelled:
    """A tensor (n,) of which each number has a label of its own: to make it whole with other sums."""
    return Labelled(tensor, (0,), torch.arange(len(tensor)))


def local_of(tensor: Tensor, like: Tensor | None = None) -> Tensor:
    """What this process has of a tensor; ``like`` another one, where that has its numbers elsewhere."""
    spread: Any = tensor.detach()
    if not is_sharded(tensor):
        return spread  # type: ignore[no-any-return]
    other: Any = like
    if other is not None and spread.placements != other.placements:
        spread = spread.redistribute(other.device_mesh, other.placements)
    return spread.to_local()  # type: ignore[no-any-return]


@dataclass(frozen=True)
class _Cut:
    """How a tensor is cut.

    Args:
        here: For each dimension the indices that this process has.
        coordinates: By process group: along which dimension it cuts, and which of its processes has an index.
    """

    here: tuple[Tensor, ...]
    coordinates: dict[Any, tuple[int, Tensor]]


def _norms(rows: Tensor) -> Tensor:
    """As blocks.py takes them, in float32 at least: a copy in float64 is for what is added up later."""
    dtype = torch.promote_types(rows.dtype, torch.float32)
    norms: Tensor = torch.linalg.vector_norm(rows, dim=1, dtype=dtype)
    return norms.to(SUM_DTYPE)


def _cut(tensor: Any) -> _Cut:
    mesh = tensor.device_mesh
    sizes = tuple(map(mesh.size, range(mesh.ndim)))
    cuts = tuple((getattr(one, "dim", None), getattr(one, "split_factor", 1)) for one in tensor.placements)
    here, owners = _cut_as(tuple(tensor.shape), cuts, sizes, tuple(mesh.get_coordinate()))
    return _Cut(here, {mesh.get_group(at): owner for at, owner in owners.items()})


@lru_cache(maxsize=4096)
def _cut_as(
    shape: tuple[int, ...],
    cuts: tuple[tuple[int | None, int], ...],
    sizes: tuple[int, ...],
    coordinate: tuple[int, ...],
) -> tuple[tuple[Tensor, ...], dict[int, tuple[int, Tensor]]]:
    """Placements are followed from left to right, as DTensor does it."""
    here = [torch.arange(size) for size in shape]
    parts = [[indices] for indices in here]
    owners = {}
    for at, (dim, factor) in enumerate(cuts):
        if dim is None:
            continue
        cut = [_chunks(one, sizes[at], factor) for one in parts[dim]]
        owner = torch.zeros(shape[dim], dtype=torch.int64)
        for chunks in cut:
            for number, chunk in enumerate(chunks):
                owner[chunk] = number
        owners[at] = (dim, owner)
        parts[dim] = [chunk for chunks in cut for chunk in chunks]
        here[dim] = _chunks(here[dim], sizes[at], factor)[coordinate[at]]
    return tuple(here), owners


def _chunks(indices: Tensor, n: int, factor: int = 1) -> list[Tensor]:
    """As torch cuts a dimension into ``n``; a strided shard has a chunk of each of ``factor`` parts."""
    if factor > 1:
        inner = [_chunks(part, n) for part in _chunks(indices, factor)]
        return [torch.cat(chunks) for chunks in zip(*inner, strict=True)]
    chunks = list(indices.chunk(n)) if len(indices) else []
    return chunks + [indices[:0]] * (n - len(chunks))


class _Cuts:
    """How the tensors of one thing are cut.

    Attributes:
        groups: Process groups that cut any of them; whether several of its processes have numbers of one
            label, or one process has numbers of another than all the thing's tensors.
        is_counted: For each tensor whether its numbers count here: of what several processes have alike, one
            does.
    """

    def __init__(self, thing: Sequence[Labelled], size: int) -> None:
        cuts = [_cut(one.tensor).coordinates if is_sharded(one.tensor) else {} for one in thing]
        groups = dict.fromkeys(group for cut in cuts for group in cut)
        groups = {group: None for group in groups if torch.distributed.get_world_size(group) > 1}
        self.groups = {
            group: any(group not in cut for cut in cuts)
            or _is_split([(one, *cut[group]) for one, cut in zip(thing, cuts, strict=True)], size)
            for group in groups
        }
        self.is_counted = [
            all(group in cut or torch.distributed.get_rank(group) == 0 for group in groups) for cut in cuts
        ]


def _is_split(members: Sequence[tuple[Labelled, int, Tensor]], size: int) -> bool:
    """Whether numbers of one label are with several of the processes that cut these tensors."""
    first, last = torch.full((size + 1,), torch.iinfo(torch.int64).max), torch.full((size + 1,), -1)
    for member, dim, owner in members:
        labels = torch.where(member.labels < 0, size, member.labels)
        if dim in member.dims:
            shape = [-1 if one == dim else 1 for one in member.dims]
            owners = owner.view(shape).expand(labels.shape)
        elif len(owner.unique()) > 1:
            return True
        else:
            owners = torch.zeros_like(labels)
        first.scatter_reduce_(0, labels.flatten(), owners.flatten(), "amin")
        last.scatter_reduce_(0, labels.flatten(), owners.flatten(), "amax")
    return bool((first < last)[:-1].any())
