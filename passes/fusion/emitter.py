"""What makes wide nodes: N branches that correspond, and the operators and parameters inserted for all of them.

Rules and moves see this and no search. An attempt may fail halfway, so what is inserted can be taken out again, and
parameters are computed once it is known that they are needed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from passes.fusion.layout import Apart, CannotLiftError, Lifted, Normed, Pieces, Shared, Stored, Wide
from passes.graph.equal_calls import key_of
from passes.graph.parameters import register_parameter


@dataclass(frozen=True)
class Branches:
    """N branches that correspond node by node.

    Attributes:
        lists: for each branch its nodes with their leaves, in the same order.
        outputs: for each branch what the sum adds; several for a chain of terms.
        inner: the nodes of all branches that are computed by them.
        factors: for each branch what the sum multiplies its outputs with; nothing where all factors are one.
        tapped: the outputs that something else reads too.
    """

    lists: tuple[tuple[fx.Node, ...], ...]
    outputs: tuple[tuple[fx.Node, ...], ...]
    inner: frozenset[fx.Node]
    factors: tuple[tuple[float, ...], ...] = ()
    tapped: frozenset[fx.Node] = frozenset()

    def __len__(self) -> int:
        return len(self.lists)

    def factors_of(self, output: fx.Node) -> tuple[float, ...]:
        """For an output of branch 0, and those of the others that correspond, what the sum multiplies them with."""
        place = self.outputs[0].index(output)
        return tuple(factors[place] for factors in self.factors) or (1.0,) * len(self)


class Emitter:
    """Inserts what computes one group of branches, before `before`.

    `shared` is common to all groups of a sum, so that what they compute of the same state is computed once.

    Attributes:
        outers: for each linear of a shared input where its branches lie among the rows, as the search has chosen.
        moves: how many transpositions were inserted to move branches.
        apart: operators of branch 0 that were inserted once for each branch, and why.
    """

    def __init__(self, module: fx.GraphModule, branches: Branches, before: fx.Node, shared: dict[Any, fx.Node]) -> None:
        self.module, self.branches, self.before, self.shared = module, branches, before, shared
        self.count = len(branches)
        self.place = {node: number for number, node in enumerate(branches.lists[0])}
        self.created: list[fx.Node] = []
        self.stored: list[tuple[fx.Node, str, Callable[[], Tensor]]] = []
        self.outers: dict[fx.Node, int] = {}
        self.moves = 0
        self.apart: dict[fx.Node, CannotLiftError] = {}

    # what the branches compute ----------------------------------------------------------------------------------

    def column(self, node: fx.Node) -> tuple[fx.Node, ...]:
        """The nodes of all branches that correspond to one of branch 0."""
        place = self.place[node]
        return tuple(branch[place] for branch in self.branches.lists)

    def plain(self, node: fx.Node, env: Mapping[fx.Node, Lifted]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The node's arguments with lifted nodes in place of its own."""
        return fx.map_arg((node.args, node.kwargs), lambda n: self.node(env[n], node))

    def node(self, value: Lifted, reader: fx.Node) -> fx.Node:
        """The node that holds a lifted value, for `reader`.

        Raises:
            CannotLiftError: the branches' values lie in no single node.
        """
        if isinstance(value, Shared | Wide | Pieces):
            return value.node
        raise in_no_node(value, reader)

    # what is inserted -------------------------------------------------------------------------------------------

    def emit(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> fx.Node:
        """Insert an operator."""
        with self.module.graph.inserting_before(self.before):
            node = self.module.graph.call_function(target, args, kwargs or {})
        self.created.append(node)
        return node

    def emit_once(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> fx.Node:
        """Insert an operator on values that all groups of the sum share, unless one has done so."""
        key = key_of(target, args, kwargs or {})
        if key not in self.shared:
            self.shared[key] = self.emit(target, args, kwargs)
        return self.shared[key]

    def store(self, name: str, value: Callable[[], Tensor]) -> fx.Node:
        """Insert a parameter, which is computed once it is known to be needed."""
        with self.module.graph.inserting_before(self.before):
            node = self.module.graph.create_node("get_attr", f"wide_{name}")
        self.created.append(node)
        self.stored.append((node, f"wide_{name}", value))
        return node

    # attempts ---------------------------------------------------------------------------------------------------

    def begin(self, outers: dict[fx.Node, int]) -> None:
        """Begin an attempt with a choice of where branches lie among the rows of in-projections."""
        self.outers, self.moves = outers, 0
        self.apart.clear()

    def abandon(self, first: int = 0) -> None:
        """Take out again what was inserted, from the node of number `first` on, and is read by nothing else."""
        gone: set[fx.Node] = set()
        for node in reversed(self.created[first:]):
            if not node.users:
                self.module.graph.erase_node(node)
                gone.add(node)
        for key in [key for key, node in self.shared.items() if node in gone]:
            del self.shared[key]
        self.created[first:] = [node for node in self.created[first:] if first and node not in gone]
        self.stored[:] = [entry for entry in self.stored if first and entry[0] not in gone]

    def commit(self) -> None:
        """Compute the parameters of what was lifted."""
        for node, name, value in self.stored:
            if not node.users:
                self.module.graph.erase_node(node)
                continue
            tensor = value()
            node.target = register_parameter(self.module, name, tensor)
            node.meta["val"] = torch.empty_like(tensor, device="meta")
        self.stored.clear()


def in_no_node(value: Lifted, reader: fx.Node) -> CannotLiftError:
    """The sentence for a reader of one tensor whose operand no single tensor holds."""
    what = {
        Apart: "a value that is computed in each branch",
        Normed: "a normalised state that differs between the branches",
        Stored: "a parameter that differs between the branches",
    }
    held = what.get(type(value), "several values at once")
    return CannotLiftError(f"{reader.name} ({reader.target}) reads {held}")
