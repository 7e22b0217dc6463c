"""What `torchrun`, or who started the processes by hand, says of them in the environment.

RANK and WORLD_SIZE number them, LOCAL_RANK numbers those of one machine, MASTER_ADDR and MASTER_PORT say where they
meet. A process that was started alone has none of these, or a WORLD_SIZE of 1. Imports no torch.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from passes.errors import ParallelizeError

_PLACE = ("RANK", "MASTER_ADDR", "MASTER_PORT")
_HINT = "Start the processes with torchrun, or set RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT for each of them."


@dataclass(frozen=True)
class Launch:
    """One process of several.

    Attributes:
        rank: its number, from 0.
        size: how many there are.
        local: its number on its machine.
        address: where all meet, HOST:PORT.
    """

    rank: int
    size: int
    local: int
    address: str


def launched(environment: Mapping[str, str] = os.environ) -> Launch | None:
    """How this process was started among others; None where it is alone.

    Raises:
        ParallelizeError: a variable is missing or no number, or the rank is none of so many.
    """
    if not is_one_of_several(environment):
        return None
    size = _number(environment, "WORLD_SIZE")
    for name in _PLACE:
        if not environment.get(name):
            raise ParallelizeError(f"WORLD_SIZE is {size}, but {name} is not set.", _HINT)
    rank, port = _number(environment, "RANK"), _number(environment, "MASTER_PORT")
    if rank >= size:
        raise ParallelizeError(f"There is no rank {rank} among {size}: the first is 0.", _HINT)
    local = _number(environment, "LOCAL_RANK") if environment.get("LOCAL_RANK") else rank
    return Launch(rank, size, local, f"{environment['MASTER_ADDR']}:{port}")


def is_one_of_several(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the environment speaks of more than one process."""
    return environment.get("WORLD_SIZE", "1").strip() not in ("", "1")


def is_silent(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether another process than this one speaks for both."""
    return is_one_of_several(environment) and environment.get("RANK", "0").strip() != "0"


def _number(environment: Mapping[str, str], name: str) -> int:
    text = environment[name].strip()
    if not text.isdecimal():
        raise ParallelizeError(f"{name} is {text!r}, which is no number of processes, ranks or ports.", _HINT)
    return int(text)
