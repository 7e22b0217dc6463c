"""The solution D of a ridge regression, (columns, targets), read part by part: it may be larger than the memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable

from torch import Tensor


class Solution(ABC):
    """What each feature adds to each target, float64."""

    @abstractmethod
    def part(self, start: int, stop: int) -> Tensor:
        """Of some of the features, (stop - start, targets)."""

    def predicted(self, features: Iterable[tuple[int, Tensor]]) -> Tensor:
        """F D of some rows (rows, targets), from their features by columns, each part with its first one."""
        total: Tensor | None = None
        for start, columns in features:
            ours = columns.double() @ self.part(start, start + columns.shape[1])
            total = ours if total is None else total + ours
        assert total is not None
        return total
