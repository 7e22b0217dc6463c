"""A rule on branches that lie anywhere in one tensor, against each branch by itself.

forward(x_b, g, w_b)  for each branch b   ->   one wide value for x laid at (dim, outer), g shared, w stored
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from passes.fusion.emitter import Branches, Emitter
from passes.fusion.layout import CannotLiftError, Lifted, Shared, Stored, Wide, interleave
from passes.fusion.lift import RULES
from passes.fusion.rules import pointwise
from passes.fusion.rules.apart import each_branch
from passes.graph import operators as ops
from passes.graph.editing import clone
from passes.graph.parameters import read_parameter
from tests.passes.drawn import drawn, inputs_of, returned
from tests.passes.models import normal

COUNT = 3
Layout = tuple[int, int]
Forward = Callable[..., Any]


@dataclass(frozen=True)
class Own:
    """A tensor of each branch, of one shape; `of` makes it of normal numbers."""

    shape: tuple[int, ...]
    of: Callable[[Tensor], Tensor] = field(default=lambda x: x)

    def branches(self, seed: int) -> list[Tensor]:
        return [
            self.of(normal(math.prod(self.shape), seed=100 * seed + branch).reshape(self.shape))
            for branch in range(COUNT)
        ]

    def layouts(self) -> list[Layout]:
        """Every place that the branches could have."""
        sizes = enumerate(self.shape, -len(self.shape))
        return [(dim, outer) for dim, size in sizes for outer in range(1, size + 1) if size % outer == 0]


@dataclass(frozen=True)
class Parameter(Own):
    """A parameter of each branch."""


@dataclass(frozen=True)
class Common:
    """A tensor that the branches share."""

    value: Tensor


Given = Own | Common


class Rows:
    """A function of N branches as one graph, to be lifted for any layout of what the branches have of their own."""

    def __init__(self, forward: Forward, *given: Given) -> None:
        self.forward, self.given = forward, given
        self.values = [
            [each.value] * COUNT if isinstance(each, Common) else _stored(each, number)
            for number, each in enumerate(given, 1)
        ]
        self.own = [number for number, each in enumerate(given) if type(each) is Own]
        self.inputs = [value for number in self.own for value in self.values[number]]
        self.common = [each.value for each in given if isinstance(each, Common)]
        self.graph = drawn(self._each, *self.inputs, *self.common)

    def _each(self, *inputs: Tensor) -> list[Tensor]:
        private = iter(inputs)
        rows = {number: [next(private) for _ in range(COUNT)] for number in self.own}
        common = list(private)
        made = []
        for branch in range(COUNT):
            shared = iter(common)
            args = [
                next(shared) if isinstance(each, Common) else rows.get(number, self.values[number])[branch]
                for number, each in enumerate(self.given)
            ]
            made.append(self.forward(*args))
        return made

    def expected(self) -> list[Tensor]:
        return [self.forward(*args) for args in zip(*self.values, strict=True)]

    def layouts(self) -> Iterator[list[Layout]]:
        """Every layout of the first operand with like ones of the others, and then all first places of each."""
        choices = [self.given[number].layouts() for number in self.own]  # type: ignore[union-attr]
        for layout in choices[0] if choices else ():
            yield [layout if layout in others else others[0] for others in choices]
        if len(choices) > 1:
            yield from (list(each) for each in itertools.product(*([c[0], c[-1]] for c in choices)))
        if not choices:
            yield []

    def lifted(self, layouts: Sequence[Layout], outer: int = 1) -> tuple[Lifted, list[Tensor], list[str]]:
        """The value that holds all branches, what each has of it, and the operators that were inserted.

        Raises:
            CannotLiftError: the rule finds no place for the branches.
        """
        graph = clone(self.graph)
        places, output = inputs_of(graph), graph.graph.output_node()
        rest = [node for node in graph.graph.nodes if node.op not in ("placeholder", "output")]
        size = len(rest) // COUNT
        lists = tuple(
            (*places[branch : COUNT * len(self.own) : COUNT], *places[COUNT * len(self.own) :], *rest[b : b + size])
            for branch, b in enumerate(range(0, len(rest), size))
        )
        outputs = tuple((node,) for node in returned(graph))
        inner = frozenset(node for node in rest if node.op == "call_function")
        emitter = Emitter(graph, Branches(lists, outputs, inner), output, {})
        emitter.begin(dict.fromkeys(inner, outer))
        env: dict[fx.Node, Lifted] = {node: Shared(node) for node in places[COUNT * len(self.own) :]}
        wides = []
        for number, layout, node in zip(self.own, layouts, lists[0], strict=False):
            with graph.graph.inserting_before(rest[0]):
                env[node] = Wide(graph.graph.placeholder(f"wide_{number}"), *layout, tuple(node.meta["val"].shape))
            wides.append(interleave(self.values[number], *layout))
        for column in zip(*lists, strict=True):
            if column[0] not in env:
                env[column[0]] = _lift(emitter, column, env)
        value = env[outputs[0][0]]
        made = each_branch(emitter, outputs[0][0], value)
        emitter.commit()
        output.args = (list(made),)
        names = [str(node.target).removeprefix("aten.") for node in emitter.created if node.op == "call_function"]
        return value, fx.Interpreter(graph).run(*self.inputs, *self.common, *wides), names


def _stored(each: Own, seed: int) -> list[Tensor]:
    rows = each.branches(seed)
    return [nn.Parameter(row, requires_grad=False) for row in rows] if isinstance(each, Parameter) else rows


def _lift(emitter: Emitter, column: Sequence[fx.Node], env: dict[fx.Node, Lifted]) -> Lifted:
    node = column[0]
    if node.op == "get_attr":
        tensors = tuple(read_parameter(emitter.module, each) for each in column)
        return Shared(node) if all(torch.equal(tensors[0], other) for other in tensors) else Stored(tensors)
    if all(isinstance(env[source], Shared) for source in node.all_input_nodes):
        return Shared(emitter.emit(node.target, *emitter.plain(node, env)))
    rule = RULES.get(node.target) or (pointwise.pointwise if ops.is_pointwise(node) else None)
    assert rule is not None, node.target
    return rule(emitter, node, env)


def check(forward: Forward, *given: Given, outer: int = 1) -> set[tuple[str, ...]]:
    """Every branch gets its value wherever the branches lie; the operators that were inserted, of all layouts."""
    rows = Rows(forward, *given)
    expected, seen = rows.expected(), set()
    for layouts in rows.layouts():
        _, made, names = rows.lifted(layouts, outer)
        for ours, theirs in zip(made, expected, strict=True):
            assert ours.shape == theirs.shape
            assert ours.dtype == theirs.dtype
            assert torch.allclose(ours, theirs, rtol=1e-10, atol=1e-12, equal_nan=True), layouts
        seen.add(tuple(names))
    return seen


def refusal(forward: Forward, *given: Given) -> str:
    """The sentence with which the rule refuses the first layout."""
    rows = Rows(forward, *given)
    try:
        rows.lifted(next(rows.layouts()))
    except CannotLiftError as error:
        return str(error)
    return ""
