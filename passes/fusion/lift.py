"""Lift N branches of equal structure into one: every operator once, on values that hold all branches.

One rule for each kind of operator says how the layout passes through it (passes/fusion/layout.py). Branches may be
chains of several terms, each of which the sum adds: a branch then has several outputs. What a linear of a shared input
makes may hold the branches in more than one place among its rows, and the choice that needs the fewest moves later is
taken. An operator without a rule, or whose rule finds no place for the branches, runs branch by branch
(passes/fusion/rules/apart.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from passes.fusion.contraction import Part, contract, tail_of
from passes.fusion.emitter import Emitter
from passes.fusion.gain import refuse_without_gain
from passes.fusion.layout import CannotLiftError, Lifted, Shared, Stored
from passes.fusion.relayout import unstacked
from passes.fusion.rule import Env, Rule, shape_of
from passes.fusion.rules import dimensions, indices, joins, pointwise, products, shapes, transposed
from passes.fusion.rules.apart import each_branch, no_wide_form, run_apart
from passes.graph import operators as ops
from passes.graph.dataflow import carries_tensors, tensor_value
from passes.graph.parameters import read_parameter
from passes.graph.sizes import sizes

RULES: dict[Any, Rule] = {
    **shapes.RULES,
    **dimensions.RULES,
    **indices.RULES,
    **joins.RULES,
    **pointwise.RULES,
    **products.RULES,
    **transposed.RULES,
}

aten = ops.aten


class Lifter:
    """Lifts the branches of an emitter: tries rules and layouts, and keeps what moves the branches least.

    Attributes:
        taps: for outputs that are read elsewhere too, in every branch, the same value again.
        sides: stacks of values from outside, some of which may be gone again.
    """

    def __init__(self, emitter: Emitter) -> None:
        self.emitter, self.branches = emitter, emitter.branches
        self.taps: dict[fx.Node, fx.Node] = {}
        self.sides: list[fx.Node] = []

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
            columns = [(self.emitter.column(output), each_branch(self.emitter, output, env[output])) for output in taps]
            self.taps = {node: again for column in columns for node, again in zip(*column, strict=True)}
            return tuple(
                contract(self.emitter, output, tail, env)
                for output, tail in zip(self.branches.outputs[0], tails, strict=True)
            )

        return self._fewest_moves(attempt)

    def _is_tapped(self, output: fx.Node) -> bool:
        """Whether something reads an output, of any branch, beside the sum."""
        return not self.branches.tapped.isdisjoint(self.emitter.column(output))

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
                self.emitter.abandon()
                trial = {**best, linear: outer}
                result, moves, _ = self._try(attempt, trial)
                if moves < fewest:
                    best, fewest = trial, moves
        if fewest == math.inf:
            self.emitter.abandon()
            raise reason or CannotLiftError("there is nothing to lift")
        if self.emitter.outers != best:
            self.emitter.abandon()
            result, _, _ = self._try(attempt, best)
        return result

    def _try(
        self, attempt: Callable[[], tuple[Any, ...]], outers: dict[fx.Node, int]
    ) -> tuple[tuple[Any, ...], float, CannotLiftError | None]:
        """What an attempt gives and how many moves it makes: infinitely many where it fails."""
        self.emitter.begin(outers)
        try:
            result = attempt()
            refuse_without_gain(self.emitter, result, self.sides)
            return result, self.emitter.moves + self.emitter.count * len(self.emitter.apart), None
        except CannotLiftError as error:
            return (), math.inf, error

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
            return _parameter(self.emitter, column)
        if node not in self.branches.inner:
            return self._outside(column)
        random = ops.is_random(node)
        if random and node.target not in RULES:
            raise CannotLiftError(f"{node.name} ({node.target}) draws random values, which the branches must not share")
        inputs = [env[source] for source in node.all_input_nodes]
        if all(isinstance(value, Shared) for value in inputs) and not random:
            return Shared(self.emitter.emit_once(node.target, *self.emitter.plain(node, env)))
        computed = _computed(self.emitter, node, env)
        return self._by_rule(node, dict(env)) if computed is None else computed

    def _by_rule(self, node: fx.Node, env: Env) -> Lifted:
        """What the rule of an operator makes of it; branch by branch where there is none or it does not fit."""
        rule = RULES.get(node.target) or (pointwise.pointwise if ops.is_pointwise(node) else None)
        if rule is None:
            return run_apart(self.emitter, node, env, no_wide_form(node))
        inserted, moves = len(self.emitter.created), self.emitter.moves
        try:
            return rule(self.emitter, node, env)
        except CannotLiftError as reason:
            self.emitter.abandon(inserted)
            self.emitter.moves = moves
            return run_apart(self.emitter, node, env, reason)

    def _outside(self, column: tuple[fx.Node, ...]) -> Lifted:
        """A value from outside; tensors that differ between the branches are stacked, sizes do not differ."""
        if len(set(column)) == 1 or not carries_tensors(column[0]):
            return Shared(column[0])
        side = self.emitter.emit_once(aten.stack.default, (list(column), 0))
        self.sides.append(side)
        return unstacked(self.emitter, side, shape_of(column[0]))


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


# leaves ---------------------------------------------------------------------------------------------------------------


def _parameter(emitter: Emitter, column: tuple[fx.Node, ...]) -> Lifted:
    """The branches' parameters; one node where they are tied, or are the same few integers."""
    tensors = tuple(read_parameter(emitter.module, node) for node in column)
    if emitter.count > 1 and len({(t.data_ptr(), t.shape, t.stride(), t.dtype) for t in tensors}) == 1:
        return Shared(column[0])
    small = not tensors[0].is_floating_point() or tensors[0].ndim == 0
    if emitter.count > 1 and small and all(torch.equal(tensors[0], tensor) for tensor in tensors[1:]):
        return Shared(column[0])
    return Stored(tensors)


def _computed(emitter: Emitter, node: fx.Node, env: Mapping[fx.Node, Lifted]) -> Stored | None:
    """What an operator makes of parameters alone, such as 1 + gain, for each branch."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return None
    constants: dict[fx.Node, Sequence[Tensor]] = {}
    for source in node.all_input_nodes:
        value = env[source]
        if isinstance(value, Stored):
            constants[source] = value.tensors
        elif isinstance(value, Shared) and value.node.op == "get_attr":
            constants[source] = [read_parameter(emitter.module, value.node)] * emitter.count
        else:
            return None
    results = []
    for branch in range(emitter.count):
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n, b=branch: constants[n][b])  # type: ignore[misc]
        results.append(node.target(*args, **kwargs))
    return Stored(tuple(results)) if all(isinstance(result, Tensor) for result in results) else None
