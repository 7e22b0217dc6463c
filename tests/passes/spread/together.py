"""All ranks of a spread graph in one process: a thread for each, whose all-reduces meet in memory."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from passes.spread.collectives import ALL_REDUCE, WAIT
from passes.spread.spread_branches import SpreadBranches
from tests.passes.models import run

PATIENCE = 20.0  # seconds after which ranks have met for different levels


def spread(graph: fx.GraphModule, size: int) -> list[fx.GraphModule]:
    """The graphs of all ranks."""
    return [run(graph, SpreadBranches(rank, size, "group"))[0] for rank in range(size)]


def outputs(graphs: Sequence[fx.GraphModule], *inputs: Tensor) -> list[Any]:
    """What each rank returns."""
    meeting = _Meeting(len(graphs))
    found: list[Any] = [None] * len(graphs)

    def work(rank: int) -> None:
        with torch.no_grad():
            found[rank] = _Rank(graphs[rank], rank, meeting).run(*inputs, enable_io_processing=False)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(len(graphs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [leaf[0] if isinstance(leaf, list | tuple) and len(leaf) == 1 else leaf for leaf in found]


class _Meeting:
    def __init__(self, size: int) -> None:
        self.brought: list[Tensor | None] = [None] * size
        self.barrier = threading.Barrier(size)

    def summed(self, rank: int, value: Tensor) -> Tensor:
        self.brought[rank] = value
        self.barrier.wait(PATIENCE)
        total = torch.stack([value for value in self.brought if value is not None]).sum(0)
        self.barrier.wait(PATIENCE)
        return total


class _Rank(fx.Interpreter):
    def __init__(self, graph: fx.GraphModule, rank: int, meeting: _Meeting) -> None:
        super().__init__(graph)
        self.rank, self.meeting = rank, meeting

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        if target is ALL_REDUCE:
            return self.meeting.summed(self.rank, args[0])
        return args[0] if target is WAIT else super().call_function(target, args, kwargs)
