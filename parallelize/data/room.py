"""How many samples go in at a time, learnt from what did not fit into a GPU.

What was begun with batches that do not fit is begun again with batches of half the size, and so is all that follows:
parts of the same data share one room. A sentence tells of each halving.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from passes.errors import EnvironmentLackError

T = TypeVar("T")


class Room:
    """The samples that fit.

    Attributes:
        most: in a batch; None while everything has fitted.
        tell: told of each halving.
    """

    def __init__(self, tell: Callable[[str], None] = lambda _said: None) -> None:
        self.most: int | None = None
        self.tell = tell
        self._used = 0  # the largest batch of what runs now

    def bound(self, size: int) -> int:
        """The size, or as many as fit."""
        size = size if self.most is None else min(size, self.most)
        self._used = max(self._used, size)
        return size

    def fitting(self, run: Callable[[], T]) -> T:
        """What `run` returns, called again with smaller batches until it fits; it must ask for sizes anew each time.

        Raises:
            EnvironmentLackError: the smallest batch does not fit.
        """
        while True:
            outside, self._used = self._used, 0
            try:
                return run()
            except torch.OutOfMemoryError:
                used = self._used  # tensors of the attempt live until its traceback is gone, behind this block
            finally:
                self._used = max(outside, self._used)
            self._halve(used)

    def _halve(self, used: int) -> None:
        torch.cuda.empty_cache()
        if used <= 1:
            raise EnvironmentLackError(
                "The smallest batch does not fit into the memory of the GPU.",
                "Use --device cpu, or a GPU with more memory that is free.",
            )
        self.most = used // 2
        self.tell(f"{used} samples at a time do not fit into the GPU: going on with {self.most}")
