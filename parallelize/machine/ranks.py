"""The processes that share the measurements of one job, each on a device of its own.

Rank 0 leads: it alone decides, writes and speaks, as it would alone. What it wants measured it hands out item by item,
and measures too; whoever is free takes the next item. The others have loaded the same model and data, and do nothing
but measure what they are handed. So what is decided cannot depend on how many there are, as long as a measurement gives
the same value wherever it is done.

    measured = ranks.spread("groups", measure)        on every rank
    for value in measured(items): ...                 on rank 0: values in the order of the items
    ranks.serve()                                     on the others: until rank 0 is done
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Ranks:
    """One process alone, which measures everything itself; `joined_ranks` has several.

    Attributes:
        rank: number of this process.
        size: how many there are.
        local: number of this process among those on its machine; None where it is alone there.
    """

    rank: int = 0
    size: int = 1
    local: int | None = None

    def spread(self, name: str, measure: Callable[[T], R]) -> Callable[[Sequence[T]], Iterator[R]]:
        """A measurement of many items, which all ranks take part in.

        Args:
            name: of the measurement, the same on all ranks.
            measure: one item; both it and the value are sent to another process, so both are small.

        Returns:
            What rank 0 calls with items: it yields their values in order, each as soon as it is there. The first item
            is always measured by rank 0 itself. Items that nobody has begun when the iteration is given up are left.
        """
        del name
        return lambda items: map(measure, items)

    def serve(self) -> None:
        """On another rank than 0: measure what rank 0 hands out, until it is done."""

    def require_same(self, identity: Callable[[], str]) -> None:
        """Refuse another identity than that of rank 0.

        Args:
            identity: of model, data and options; not called where there is one process.

        Raises:
            ParallelizeError: it differs.
        """

    def together(self) -> AbstractContextManager[None]:
        """What waits for the other ranks otherwise, by torch.distributed: where one is gone, so this one ends."""
        return nullcontext()

    def dismiss(self) -> None:
        """On rank 0: let the others end; from here on it is alone."""


ALONE = Ranks()
