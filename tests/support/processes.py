"""Several real processes on gloo, which never hang. No test is here."""

import os
import socket
import time
import warnings
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
    worker: Callable[..., Any], n: int, folder: Path, *, meet: bool = True, limit_s: float = 240.0
) -> None:
    """Call ``worker(rank, folder)`` in ``n`` processes; its errors are raised here.

    They have met, or are to meet as torchrun's do, by what it tells them. Forked, nothing is imported again.
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        around = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(free.getsockname()[1]), "NODE_RANK": "0"}
    start = "spawn" if torch.accelerator.is_available() else "fork"  # which forks cannot use
    args = (worker, n, folder, meet, around)
    context = mp.start_processes(_on_rank, args, n, join=False, start_method=start)
    deadline = time.monotonic() + limit_s
    while not context.join(timeout=1):
        if time.monotonic() > deadline:
            for process in context.processes:
                process.kill()
            pytest.fail(f"{n} processes were not done in {limit_s:g} s")


def _on_rank(
    rank: int, worker: Callable[..., Any], n: int, folder: Path, meet: bool, around: dict[str, str]
) -> None:
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": n, "LOCAL_WORLD_SIZE": n}
    os.environ.update(around, **{key: str(value) for key, value in numbers.items()})
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if meet:
        dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=n)
    worker(rank, folder)
    if meet:
        dist.destroy_process_group()
