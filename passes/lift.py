"""Lift N branches of equal structure into one: every operator once, on values that hold all branches.

One rule for each kind of operator says how the layout passes through it (passes/layout.py). The last linear of the
branches is not lifted but returned as a `Part`, features with one weight, because the sum over branches is the
contraction of that linear: concatenate the branches along its input and the GEMM adds them up. Changes of shape after
it (batch and sequence swapped back, say) move before it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from passes import operators as ops
from passes.dataflow import tensor_value
from passes.layout import (
    CannotLiftError,
    Lifted,
    Normed,
    Pieces,
    Shared,
    Stored,
    Wide,
    interleave,
    sizes,
)
from passes.lift_rules import RULES, SHAPES, carry, fold, linear_parameters
from passes.parameters import add_parameter, read_parameter

aten = ops.aten
MAX_TRIALS = 64


@dataclass(frozen=True)
class Branches:
    """N branches that correspond node by node.

    Attributes:
        lists: for each branch its nodes with their leaves in canonical order, output last.
        inner: the nodes of all branches that are computed by them.
    """

    lists: tuple[tuple[fx.Node, ...], ...]
    inner: frozenset[fx.Node]

    def __len__(self) -> int:
        return len(self.lists)


@dataclass(frozen=True)
class Part:
    """`features @ weight.T + bias`, already summed over branches."""

    features: fx.Node
    weight: Tensor
    bias: Tensor | None


class Lifter:
    """Lifts one group of branches, inserting new nodes before `before`.

    `norms` is shared by all groups of a sum, so that normalisations of one state are computed once.
    """

    def __init__(self, module: fx.GraphModule, branches: Branches, before: fx.Node, norms: dict[Any, fx.Node]) -> None:
        self.module, self.branches, self.before, self.norms = module, branches, before, norms
        self.count = len(branches)
        self.created: list[fx.Node] = []
        self.outers: dict[fx.Node, int] = {}

    def lift(self) -> Part:
        """Lift the branches.

        Raises:
            CannotLiftError: naming the node and the value that stand in the way; nothing is left in the graph.
        """
        first: CannotLiftError | None = None
        for outers in self._trials():
            self.outers = outers
            try:
                return self._attempt()
            except CannotLiftError as error:
                first = first or error
                self._undo()
        raise first or CannotLiftError("there is nothing to lift")

    def _undo(self) -> None:
        for node in reversed(self.created):
            if not node.users:
                self.norms = {key: value for key, value in self.norms.items() if value is not node}
                self.module.graph.erase_node(node)
        self.created.clear()

    def _trials(self) -> Iterator[dict[fx.Node, int]]:
        """Ways to lay the branches into the rows of the in-projections, the plain ones first."""
        linears = [
            node for node in self.branches.lists[0] if node.target in ops.LINEARS and node in self.branches.inner
        ]
        choices = [_row_layouts(node) for node in linears]
        for combination in itertools.islice(itertools.product(*choices), MAX_TRIALS):
            yield dict(zip(linears, combination, strict=True))

    def _attempt(self) -> Part:
        env: dict[fx.Node, Lifted] = {}
        columns = list(zip(*self.branches.lists, strict=True))
        tail = self._tail()
        for column in columns:
            if column[0] in tail:
                continue
            env[column[0]] = self._value(column, env)
        return self._part(tail, env)

    def _value(self, column: tuple[fx.Node, ...], env: dict[fx.Node, Lifted]) -> Lifted:
        node = column[0]
        if node.op == "get_attr":
            return Stored(tuple(read_parameter(self.module, n) for n in column))
        if node not in self.branches.inner:
            return Shared(node)
        rule = RULES.get(node.target)
        inputs = [env[source] for source in node.all_input_nodes]
        if inputs and isinstance(node.target, torch._ops.OpOverload) and all(isinstance(v, Stored) for v in inputs):
            return self._computed(node, env)
        bare_norm = node.target in ops.ROW_NORMS and len(inputs) == 1  # its rule computes it once for all groups
        if not bare_norm and all(isinstance(value, Shared) for value in inputs):
            return Shared(self.emit(node.target, *self.plain(node, env)))
        if rule is None:
            raise CannotLiftError(f"{node.name} is {node.target}, for which no wide form is known")
        return rule(self, node, env)

    def _computed(self, node: fx.Node, env: Mapping[fx.Node, Lifted]) -> Stored:
        """What an operator makes of parameters alone, such as 1 + gain, for each branch."""
        stored = {source: env[source] for source in node.all_input_nodes}
        results = []
        for branch in range(self.count):
            args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n, b=branch: stored[n].tensors[b])  # type: ignore[union-attr,misc]
            results.append(node.target(*args, **kwargs))  # type: ignore[operator]
        if not all(isinstance(result, Tensor) for result in results):
            raise CannotLiftError(f"{node.name} ({node.target}) makes several tensors of a parameter")
        return Stored(tuple(results))

    def plain(self, node: fx.Node, env: Mapping[fx.Node, Lifted]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The node's arguments with lifted nodes in place of its own."""
        return fx.map_arg((node.args, node.kwargs), lambda n: self.node(env[n], node))

    def node(self, value: Lifted, reader: fx.Node) -> fx.Node:
        """The node that holds a lifted value, for `reader`.

        Raises:
            CannotLiftError: the branches' values lie in no single node.
        """
        if isinstance(value, (Shared, Wide, Pieces)):
            return value.node
        what = "a normalised state" if isinstance(value, Normed) else "a parameter"
        raise CannotLiftError(f"{reader.name} ({reader.target}) reads {what} that differs between the branches")

    def emit(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> fx.Node:
        """Insert an operator."""
        with self.module.graph.inserting_before(self.before):
            node = self.module.graph.call_function(target, args, kwargs or {})
        self.created.append(node)
        return node

    def store(self, name: str, value: Tensor) -> fx.Node:
        """Insert a parameter."""
        node = add_parameter(self.module, f"wide_{name}", value, self.before)
        self.created.append(node)
        return node

    # the last linear -------------------------------------------------------------------------------------------

    def _tail(self) -> list[fx.Node]:
        """The last linear of branch 0 and what follows: scales (LayerScale), changes of shape and copies."""
        node = self.branches.lists[0][-1]
        tail = [node]
        while node.target == aten.mul.Tensor or node.target in SHAPES | ops.COPIES:
            sources = [arg for arg in node.args if isinstance(arg, fx.Node) and arg in self.branches.inner]
            if len(sources) != 1:
                break
            node = sources[0]
            tail.append(node)
        if node.target != ops.LINEAR:
            raise CannotLiftError(f"{node.name}, where the branch ends, is {node.target} and not a linear layer")
        return tail[::-1]

    def _part(self, tail: Sequence[fx.Node], env: dict[fx.Node, Lifted]) -> Part:
        place = {node: number for number, node in enumerate(self.branches.lists[0])}
        weights, biases = [], []
        for branch in self.branches.lists:
            linear = branch[place[tail[0]]]
            weight, bias = linear_parameters(self.module, linear)
            for scaled in (node for node in tail if node.target == aten.mul.Tensor):
                scale = self._tail_scale(branch[place[scaled]])
                weight, bias = weight * scale[:, None], None if bias is None else bias * scale
            weights.append(weight)
            biases.append(bias)
        source = env[tail[0].args[0]]  # type: ignore[index]
        features, weight, shift = self._contract(tail[0], source, weights)
        for shaped in (node for node in tail if node.target in SHAPES):
            features = carry(self, shaped, features, weight.shape[1], env)
        total = [bias for bias in (*biases, shift) if bias is not None]
        dtype = weights[0].dtype
        return Part(features, weight.to(dtype), torch.stack(total).sum(0).to(dtype) if total else None)

    def _tail_scale(self, node: fx.Node) -> Tensor:
        stored = [arg for arg in node.args if isinstance(arg, fx.Node) and arg.op == "get_attr"]
        if len(stored) != 1:
            raise CannotLiftError(f"{node.name} scales the branch by something that is no parameter")
        scale = read_parameter(self.module, stored[0]).double()
        if scale.numel() not in (1, scale.shape[-1] if scale.ndim else 1):
            raise CannotLiftError(f"{node.name} scales the branch by a parameter of shape {list(scale.shape)}")
        return scale.flatten()

    def _contract(
        self, linear: fx.Node, source: Lifted, weights: Sequence[Tensor]
    ) -> tuple[fx.Node, Tensor, Tensor | None]:
        """Features, the weight over them and a bias, for the sum of N linears."""
        wide = [weight.double() for weight in weights]
        if isinstance(source, Shared):
            return source.node, torch.stack(wide).sum(0), None
        if isinstance(source, Normed):
            folded = [fold(w, g, s) for w, g, s in zip(wide, source.gains, source.shifts, strict=True)]
            shifts = [shift for _, shift in folded if shift is not None]
            return source.node, torch.stack([w for w, _ in folded]).sum(0), sum(shifts) if shifts else None  # type: ignore[return-value]
        if isinstance(source, Wide) and source.dim == -1 and isinstance(source.outer, int):
            return source.node, interleave(wide, 1, source.outer), None
        raise CannotLiftError(f"{linear.name} contracts a dimension in which the branches do not lie side by side")


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
    return list(dict.fromkeys(layouts))
