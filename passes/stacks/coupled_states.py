"""Two states that each other's terms read: x_i = x_{i-1} + f_i(x_{i-1}, y_{i-1}), and y_i likewise.

Text and image of MM-DiT, which share one attention, and the halves of a reversible network are such states. A term of
one reads a state of the other that depends on its own earlier states, so no schedule of one stack alone can move it. It
is a limit of this project, and refusals name it as such.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import fx

from passes.graph.dataflow import descendants
from passes.stacks.residual_adds import ResidualAdd

Chain = Sequence[ResidualAdd]


class CoupledStates:
    """The chains of a graph, asked whether one is tied to another."""

    def __init__(self, chains: Iterable[Chain]) -> None:
        self._chains = [list(chain) for chain in chains]
        self._after: dict[fx.Node, set[fx.Node]] = {}

    def through_reader(self, add: ResidualAdd, chain: Chain, reader: fx.Node) -> str | None:
        """Why a value inside a term of `chain` is read by a term of another state that `chain` reads; else None."""
        for other in self._others(chain):
            holds = any(reader is term.node or reader in term.joins or reader in term.region for term in other)
            if holds and self._depends(chain, other):
                return _sentence(add, other[0])
        return None

    def through_source(self, add: ResidualAdd, chain: Chain, source: fx.Node) -> str | None:
        """Why a value that a term of `chain` reads is another state's whose terms read this one; else None."""
        for other in self._others(chain):
            reads_this = any(term.total in self._from(chain[0].skip) for term in other)
            if reads_this and source in self._from(other[0].total):
                return _sentence(add, other[0])
        return None

    def _others(self, chain: Chain) -> Iterable[Chain]:
        own = {add.node for add in chain}
        return (other for other in self._chains if own.isdisjoint(add.node for add in other))

    def _depends(self, chain: Chain, other: Chain) -> bool:
        after = self._from(other[0].total)
        return any(add.total in after for add in chain)

    def _from(self, node: fx.Node) -> set[fx.Node]:
        if node not in self._after:
            self._after[node] = descendants([node])
        return self._after[node]


def _sentence(add: ResidualAdd, other: ResidualAdd) -> str:
    return (
        f"the states {add.skip.name} and {other.skip.name} are coupled: terms of each read both"
        " (as in MM-DiT or a reversible network), so neither is a stack of its own"
    )
