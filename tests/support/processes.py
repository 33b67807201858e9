"""Several real processes on gloo, which never hang. No test is here."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

needs_gloo = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="torch was built without gloo"
)


def in_processes(
    worker: Callable[..., Any], n: int, folder: Path, *args: Any, limit_s: float = 240.0
) -> None:
    """Call ``worker(rank, folder, *args)`` in ``n`` processes that have met; its errors are raised here."""
    context = mp.spawn(_met, args=(worker, n, str(folder), args), nprocs=n, join=False)
    deadline = time.monotonic() + limit_s
    while not context.join(timeout=1):
        if time.monotonic() > deadline:
            for process in context.processes:
                process.kill()
            pytest.fail(f"{n} processes were not done in {limit_s:g} s")


def _met(rank: int, worker: Callable[..., Any], n: int, folder: str, args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=n)
    try:
        worker(rank, Path(folder), *args)
    finally:
        dist.destroy_process_group()
