"""Lift N branches of equal structure into one: every operator once, on values that hold all branches.

One rule for each kind of operator says how the layout passes through it (passes/fusion/layout.py). Branches may be
chains of several terms, each of which the sum adds: a branch then has several outputs. What a linear of a shared input
makes may hold the branches in more than one place among its rows, and the choice that needs the fewest moves later is
taken. An operator without a rule, or whose rule finds no place for the branches, runs branch by branch
(passes/fusion/lift_apart.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from passes.fusion import (
    lift_dimensions,
    lift_indices,
    lift_joins,
    lift_pointwise,
    lift_products,
    lift_shapes,
    lift_transposed,
)
from passes.fusion.contraction import Part, contract, tail_of
from passes.fusion.layout import Apart, CannotLiftError, Lifted, Normed, Pieces, Shared, Stored, Wide
from passes.fusion.lift_apart import each_branch, no_wide_form, refuse_without_gain, run_apart
from passes.fusion.lift_shapes import Env, Rule
from passes.fusion.relayout import unstacked
from passes.graph import operators as ops
from passes.graph.dataflow import carries_tensors, tensor_value
from passes.graph.equal_calls import key_of
from passes.graph.parameters import read_parameter, register_parameter
from passes.graph.sizes import sizes

RULES: dict[Any, Rule] = {
    **lift_shapes.RULES,
    **lift_dimensions.RULES,
    **lift_indices.RULES,
    **lift_joins.RULES,
    **lift_pointwise.RULES,
    **lift_products.RULES,
    **lift_transposed.RULES,
}

aten = ops.aten


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


class Lifter:
    """Lifts one group of branches, inserting new nodes before `before`.

    `shared` is common to all groups of a sum, so that what they compute of the same state is computed once.
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
        self.taps: dict[fx.Node, fx.Node] = {}  # for outputs that are read elsewhere too the same value again
        self.sides: list[fx.Node] = []  # stacks of values from outside, some of which may be gone again

    # the search for a layout ------------------------------------------------------------------------------------

    def lift(self) -> tuple[Part, ...]:
        """Lift the branches up to their last linears, whose sum over branches is one contraction.

        Returns:
            For each output of a branch its sum over the branches.

        Raises:
            CannotLiftError: naming the node and the value that stand in the way; nothing is left in the graph.
        """
        taps = [output for output in self.branches.outputs[0] if self._is_tapped(output)]
        tails = [None if output in taps else tail_of(self.branches, output) for output in self.branches.outputs[0]]
        skipped = {node for tail in tails if tail is not None for node in tail}

        def attempt() -> tuple[Part, ...]:
            env = self._environment(skipped)
            columns = [(self.column(output), each_branch(self, output, env[output])) for output in taps]
            self.taps = {node: again for column in columns for node, again in zip(*column, strict=True)}
            return tuple(
                contract(self, output, tail, env) for output, tail in zip(self.branches.outputs[0], tails, strict=True)
            )

        return self._fewest_moves(attempt)

    def _is_tapped(self, output: fx.Node) -> bool:
        """Whether something reads an output, of any branch, beside the sum."""
        return not self.branches.tapped.isdisjoint(self.column(output))

    def lift_values(self) -> tuple[Lifted, ...]:
        """Lift the branches whole.

        Returns:
            For each output of a branch the value that holds it for all branches.

        Raises:
            CannotLiftError: as for `lift`.
        """

        def attempt() -> tuple[Lifted, ...]:
            env = self._environment(set())
            return tuple(env[output] for output in self.branches.outputs[0])

        return self._fewest_moves(attempt)

    def _fewest_moves(self, attempt: Callable[[], tuple[Any, ...]]) -> tuple[Any, ...]:
        """Try layouts of the in-projections one projection at a time and keep what moves the branches least."""
        linears = [n for n in self.branches.lists[0] if n.target == ops.LINEAR and n in self.branches.inner]
        best = dict.fromkeys(linears, 1)
        result, fewest, reason = self._try(attempt, best)
        for linear in linears:
            for outer in _row_layouts(linear)[1:]:
                if fewest == 0:
                    return result
                self.abandon()
                trial = {**best, linear: outer}
                result, moves, _ = self._try(attempt, trial)
                if moves < fewest:
                    best, fewest = trial, moves
        if fewest == math.inf:
            self.abandon()
            raise reason or CannotLiftError("there is nothing to lift")
        if self.outers != best:
            self.abandon()
            result, _, _ = self._try(attempt, best)
        return result

    def _try(
        self, attempt: Callable[[], tuple[Any, ...]], outers: dict[fx.Node, int]
    ) -> tuple[tuple[Any, ...], float, CannotLiftError | None]:
        """What an attempt gives and how many moves it makes: infinitely many where it fails."""
        self.outers, self.moves = outers, 0
        self.apart.clear()
        try:
            result = attempt()
            refuse_without_gain(self, result)
            return result, self.moves + self.count * len(self.apart), None
        except CannotLiftError as error:
            return (), math.inf, error

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

    # one attempt ------------------------------------------------------------------------------------------------

    def _environment(self, skipped: set[fx.Node]) -> dict[fx.Node, Lifted]:
        env: dict[fx.Node, Lifted] = {}
        for column in zip(*self.branches.lists, strict=True):
            if column[0] not in skipped:
                env[column[0]] = self._value(column, env)
        return env

    def _value(self, column: tuple[fx.Node, ...], env: Mapping[fx.Node, Lifted]) -> Lifted:
        node = column[0]
        if node.op == "get_attr":
            return self._parameter(column)
        if node not in self.branches.inner:
            return self._outside(column)
        random = ops.is_random(node)
        if random and node.target not in RULES:
            raise CannotLiftError(f"{node.name} ({node.target}) draws random values, which the branches must not share")
        inputs = [env[source] for source in node.all_input_nodes]
        if all(isinstance(value, Shared) for value in inputs) and not random:
            return Shared(self.emit_once(node.target, *self.plain(node, env)))
        computed = self._computed(node, env)
        return self._by_rule(node, dict(env)) if computed is None else computed

    def _by_rule(self, node: fx.Node, env: Env) -> Lifted:
        """What the rule of an operator makes of it; branch by branch where there is none or it does not fit."""
        rule = RULES.get(node.target) or (lift_pointwise.pointwise if ops.is_pointwise(node) else None)
        if rule is None:
            return run_apart(self, node, env, no_wide_form(node))
        inserted, moves = len(self.created), self.moves
        try:
            return rule(self, node, env)
        except CannotLiftError as reason:
            self.abandon(inserted)
            self.moves = moves
            return run_apart(self, node, env, reason)

    def _parameter(self, column: tuple[fx.Node, ...]) -> Lifted:
        """The branches' parameters; one node where they are tied, or are the same few integers."""
        tensors = tuple(read_parameter(self.module, node) for node in column)
        if self.count > 1 and len({(t.data_ptr(), t.shape, t.stride(), t.dtype) for t in tensors}) == 1:
            return Shared(column[0])
        small = not tensors[0].is_floating_point() or tensors[0].ndim == 0
        if self.count > 1 and small and all(torch.equal(tensors[0], tensor) for tensor in tensors[1:]):
            return Shared(column[0])
        return Stored(tensors)

    def _outside(self, column: tuple[fx.Node, ...]) -> Lifted:
        """A value from outside; tensors that differ between the branches are stacked, sizes do not differ."""
        if len(set(column)) == 1 or not carries_tensors(column[0]):
            return Shared(column[0])
        side = self.emit_once(aten.stack.default, (list(column), 0))
        self.sides.append(side)
        return unstacked(self, side, lift_shapes.shape_of(column[0]))

    def _computed(self, node: fx.Node, env: Mapping[fx.Node, Lifted]) -> Stored | None:
        """What an operator makes of parameters alone, such as 1 + gain, for each branch."""
        if not isinstance(node.target, torch._ops.OpOverload):
            return None
        constants: dict[fx.Node, Sequence[Tensor]] = {}
        for source in node.all_input_nodes:
            value = env[source]
            if isinstance(value, Stored):
                constants[source] = value.tensors
            elif isinstance(value, Shared) and value.node.op == "get_attr":
                constants[source] = [read_parameter(self.module, value.node)] * self.count
            else:
                return None
        results = []
        for branch in range(self.count):
            args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n, b=branch: constants[n][b])  # type: ignore[misc]
            results.append(node.target(*args, **kwargs))
        return Stored(tuple(results)) if all(isinstance(result, Tensor) for result in results) else None

    # what rules use ---------------------------------------------------------------------------------------------

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
        if isinstance(value, Apart):
            raise CannotLiftError(f"{reader.name} ({reader.target}) reads a value that is computed in each branch")
        what = "a normalised state" if isinstance(value, Normed) else "a parameter"
        raise CannotLiftError(f"{reader.name} ({reader.target}) reads {what} that differs between the branches")

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


def _row_layouts(linear: fx.Node) -> list[int]:
    """Where the branches may go among the rows of an in-projection, from how its output is split next."""
    value = tensor_value(linear)
    layouts = [1]
    pending, seen = list(linear.users), 0
    while pending and value is not None and seen < 32:
        user, seen = pending.pop(), seen + 1
        result = tensor_value(user)
        if user.target in ops.VIEWS | {aten.unflatten.int} and result is not None:
            inside = [s for s in sizes(result)[value.ndim - 1 :] if isinstance(s, int)]
            layouts.extend(math.prod(inside[:cut]) for cut in range(1, len(inside)))
        elif user.target in (aten.chunk.default, aten.split.Tensor, aten.split_with_sizes.default):
            layouts.append(len(user.meta["val"]))
        elif user.target in ops.ELEMENTWISE:
            pending.extend(user.users)
    rows = int(value.shape[-1]) if value is not None else 1
    return [layout for layout in dict.fromkeys(layouts) if layout and rows % layout == 0]
