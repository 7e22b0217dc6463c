"""Several processes that are ranks of each other, started by hand as a launcher would, and how each of them ended.

They are forked from a process that has imported what is slow to import and has run nothing.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

PRELOADED = [
    "torch",
    "torch.distributed",
    "torch.export",
    "torch._subclasses",
    "networkx",
    "numpy",
    "rich",
    "typer",
]  # not ours
LIMIT = 240.0  # seconds after which a test has failed


@dataclass(frozen=True)
class End:
    """How a rank ended.

    Attributes:
        code: its exit code, negative for a signal.
        said: what it printed on both streams.
    """

    code: int
    said: str


def ranks(
    size: int,
    folder: Path,
    run: Callable[..., None],
    *arguments: Any,
    missing: int | None = None,
    then: Callable[[list[BaseProcess]], None] = lambda _started: None,
) -> list[End]:
    """Call `run` in each of some processes, and wait for all of them.

    Args:
        size: how many.
        folder: for what they print.
        run: what each calls.
        arguments: of the call.
        missing: one that is not started.
        then: called with the processes once they run.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "WORLD_SIZE": str(size)}
    files = [folder / f"rank{rank}.txt" for rank in range(size)]
    processes = [
        context.Process(target=_rank, args=({**address, "RANK": str(rank)}, file, run, arguments))
        for rank, file in enumerate(files)
        if rank != missing
    ]
    for process in processes:
        process.start()
    then(list(processes))
    end = time.monotonic() + LIMIT
    for process in processes:
        process.join(max(0.0, end - time.monotonic()))
    late = [process for process in processes if process.is_alive()]
    for process in late:
        process.kill()
        process.join()
    assert not late, [file.read_text() for file in files if file.exists()]
    codes = iter(process.exitcode for process in processes)
    return [End(next(codes) or 0, file.read_text()) for file in files if file.exists()]


def _rank(environment: Mapping[str, str], file: Path, run: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    os.environ.update(environment, OMP_NUM_THREADS="1")
    with file.open("w") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    import torch

    torch.set_num_threads(1)
    run(*arguments)


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])
