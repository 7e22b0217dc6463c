"""Curves of a training as TensorBoard reads them.

train/loss  train/learning_rate          by step
test/top1  test/top1_of_K  held_out/loss  held_out/top1          by epoch; K branches of a prefix
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from paraformer.errors import AbsentLibraryError


class Logs(Protocol):
    """What takes the numbers."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> object:
        """A number at a step."""


@contextmanager
def logs_in(folder: Path | None, done: int) -> Iterator[Logs | None]:
    """Logs in a folder, none without one; what is there of steps behind `done` is of a stopped run and is dropped.

    Raises:
        AbsentLibraryError: the package tensorboard is not installed.
    """
    if folder is None:
        yield None
        return
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise AbsentLibraryError(
            "Logs are written by the package tensorboard, which is not installed.",
            "Install it with `pip install parallelize[logs]`, or leave --logs out.",
        ) from error
    with SummaryWriter(folder, purge_step=done + 1 if done else None) as writer:
        yield writer


def add_all(logs: Logs | None, numbers: Mapping[str, float | None], step: int) -> None:
    """The numbers that there are, where there are logs."""
    for tag, value in numbers.items():
        if logs is not None and value is not None:
            logs.add_scalar(tag, value, step)
