"""Two real processes for a test, forked so that nothing is imported again, and ended after a minute.

Starts them; what they do, and how they talk, is the test's.
"""

import multiprocessing
import os
import socket
import warnings
from collections.abc import Callable
from pathlib import Path

LIMIT_S = 60


def run_on_two_ranks(target: Callable[[int, Path], None], folder: Path) -> None:
    """Call ``target(rank, folder)`` in two processes that find each other as torchrun's do."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    context = multiprocessing.get_context("fork")
    ranks = [context.Process(target=_on_rank, args=(target, rank, port, folder)) for rank in range(2)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(LIMIT_S)
        rank.kill()
    assert [rank.exitcode for rank in ranks] == [0, 0]


def _on_rank(target: Callable[[int, Path], None], rank: int, port: str, folder: Path) -> None:
    os.environ.update(MASTER_ADDR="localhost", MASTER_PORT=port, NODE_RANK="0", WORLD_SIZE="2")
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE="2")
    warnings.simplefilter("ignore")
    target(rank, folder)
