"""A sum as a multiset of values with coefficients, whatever the spelling.

    s_0 + (s_1 - x) + (s_2 - x)     with s_i = x + f_i(x)     is     x + f_0(x) + f_1(x) + f_2(x)

A **step** is an operator that is linear in tensors of its own shape and dtype: add and sub with or without a factor,
neg, a product with or a quotient by a number (a stored tensor of one element is one), a copy, the sum or mean of a
stack. A sum is expanded step by step and equal values collect; what cancels is gone. A step that others read too, such
as the private state x + a of a branch that its next term reads, is expanded only for one of these reasons:
    1. all that read it are steps of the sum;
    2. a value in it collects with one in another part of the sum that neither reads it nor is read by it: the branches
       that meet in the sum begin at that value;
    3. such a part reads a value in it, and of the terms that read the step none stands beside another.
Otherwise it is a **state** of the sum: what reads it are the branches, and it belongs to none. So neither a serial
chain nor a row of levels is ever expanded into one sum.
"""

from __future__ import annotations

import heapq
import math
import operator
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations
from typing import TypeAlias, cast

from torch import fx

from passes.graph import operators as ops
from passes.graph.dataflow import same_shape, tensor_inputs, tensor_value
from passes.graph.parameters import read_parameter

aten = ops.aten

Place: TypeAlias = Mapping[fx.Node, float]
Operands: TypeAlias = tuple[tuple[fx.Node, float], ...]

_SIGNS = {  # of the two operands
    **dict.fromkeys(ops.ADDS, (1.0, 1.0)),
    **dict.fromkeys((aten.sub.Tensor, operator.sub), (1.0, -1.0)),
    aten.rsub.Tensor: (-1.0, 1.0),
}
_PRODUCTS = frozenset({aten.mul.Tensor, aten.mul.Scalar, operator.mul})
_QUOTIENTS = frozenset({aten.div.Tensor, aten.div.Scalar, operator.truediv})
_OF_STACK = frozenset({aten.sum.dim_IntList, aten.mean.dim})
_ROUNDING = 1e-14  # of coefficients that are sums of rounded numbers, such as three thirds


@dataclass(frozen=True)
class Sum:
    """`root` = sum of coefficient * value.

    Attributes:
        terms: the values with their coefficients, none of which is zero, in the order of execution.
        tree: the steps that were expanded, and the stacks between them.
        states: values that branches of the sum read and that belong to none of them.
        tapped: values of branches, and steps, that something else reads too, with all that does: outside of the sum,
            or a step of it that is read there.
        held: values that are not tapped and stay: they are added in a step that something else reads too.
        cancelled: whether a value fell out of the sum, as x does of x + (y - x) + z: what is left was on one state.
    """

    root: fx.Node
    terms: Mapping[fx.Node, float]
    tree: frozenset[fx.Node]
    states: frozenset[fx.Node]
    tapped: Mapping[fx.Node, frozenset[fx.Node]]
    held: frozenset[fx.Node]
    cancelled: bool


def operands(module: fx.GraphModule, node: fx.Node) -> Operands:
    """What a step adds up, each with its factor; nothing where the node is no step."""
    value = tensor_value(node)
    if node.op != "call_function" or value is None or not value.is_floating_point():
        return ()
    found = _operands(module, node)
    values = [tensor_value(operand) for operand, _ in found]
    if any(v is None or v.dtype != value.dtype or not same_shape(v, value) for v in values):
        return ()
    return found


def _operands(module: fx.GraphModule, node: fx.Node) -> Operands:
    if node.target in _SIGNS:
        return _added(node)
    if node.target in _PRODUCTS | _QUOTIENTS and not node.kwargs:
        return _multiplied(module, node)
    if node.target in _OF_STACK:
        return _of_stack(node)
    if node.target == aten.neg.default:
        return ((cast("fx.Node", node.args[0]), -1.0),)
    is_copy = node.target in ops.COPIES or (node.target in ops.DROPOUTS and not node.args[2])
    return ((cast("fx.Node", node.args[0]), 1.0),) if is_copy else ()


def _added(node: fx.Node) -> Operands:
    alpha = node.kwargs.get("alpha", 1)
    if set(node.kwargs) - {"alpha"} or not isinstance(alpha, int | float) or len(node.args) != 2:
        return ()
    if not all(isinstance(arg, fx.Node) for arg in node.args):
        return ()
    factors = list(_SIGNS[node.target])
    factors[0 if node.target == aten.rsub.Tensor else 1] *= alpha
    return tuple(zip(cast("Sequence[fx.Node]", node.args), factors, strict=True))


def _multiplied(module: fx.GraphModule, node: fx.Node) -> Operands:
    """A value times or divided by a number."""
    left, right = node.args[:2]
    number = number_of(module, right)
    if number is not None and isinstance(left, fx.Node):
        if node.target in _PRODUCTS:
            return ((left, number),)
        return ((left, 1 / number),) if number else ()
    number = number_of(module, left)
    if number is None or node.target in _QUOTIENTS or not isinstance(right, fx.Node):
        return ()
    return ((right, number),)


def number_of(module: fx.GraphModule, argument: object) -> float | None:
    """A finite number that is an argument itself or stored in a tensor of one element."""
    number: object = argument
    if isinstance(argument, fx.Node):
        value = tensor_value(argument)
        if argument.op != "get_attr" or value is None or value.numel() != 1 or not value.is_floating_point():
            return None
        number = read_parameter(module, argument).item()
    if isinstance(number, bool) or not isinstance(number, int | float):
        return None
    return float(number) if math.isfinite(number) else None


def stack_of(node: fx.Node) -> fx.Node | None:
    """The stack of which a step is the sum or mean along the new dimension."""
    source = node.args[0] if node.target in _OF_STACK and len(node.args) == 2 and not node.kwargs else None
    if not isinstance(source, fx.Node) or source.target != aten.stack.default:
        return None
    value, dims = tensor_value(source), node.args[1]
    if value is None or not isinstance(dims, list | tuple) or len(dims) != 1:
        return None
    dim = source.args[1] if len(source.args) > 1 else 0
    if not isinstance(dim, int) or not isinstance(dims[0], int) or (dim - dims[0]) % value.ndim:
        return None
    return source


def _of_stack(node: fx.Node) -> Operands:
    stack = stack_of(node)
    if stack is None:
        return ()
    parts = cast("Sequence[fx.Node]", stack.args[0])
    factor = 1 / len(parts) if node.target == aten.mean.dim else 1.0
    return tuple((part, factor) for part in parts)


def find_roots(module: fx.GraphModule) -> dict[fx.Node, fx.Node]:
    """For each step the last step of its sum: itself, where something reads it that is no step of the same sum."""
    owner: dict[fx.Node, fx.Node] = {}
    for node in reversed(module.graph.nodes):
        if not operands(module, node):
            continue
        owners = {owner.get(_step_behind(user)) for user in node.users}
        (only,) = owners if len(owners) == 1 else (None,)
        owner[node] = only or node
    return dict(reversed(owner.items()))


def _step_behind(user: fx.Node) -> fx.Node:
    """The reader itself, or the sum of the stack that it is."""
    readers = list(user.users)
    return readers[0] if len(readers) == 1 and stack_of(readers[0]) is user else user


def expand(module: fx.GraphModule, root: fx.Node, place: Place) -> Sum:
    """The multiset of a sum.

    Args:
        module: the graph.
        root: a step.
        place: each node's place in the order of execution.
    """
    expansion = _Expansion(module, root, place)
    while (step := expansion.worth_expanding()) is not None:
        expansion.replace(step)
    return expansion.result()


class _Expansion:
    """A sum while it is expanded."""

    def __init__(self, module: fx.GraphModule, root: fx.Node, place: Place) -> None:
        self.module, self.root, self.place = module, root, place
        self.addends: dict[fx.Node, list[float]] = {root: [1.0]}
        self.tree: set[fx.Node] = set()
        self.cancelled = False
        self.replace(root)

    def replace(self, step: fx.Node) -> None:
        """Put a step's operands in its place, and those of the steps that now only steps of the sum read."""
        pending = [(-self.place[step], step)]
        seen = {step}
        while pending:
            node = heapq.heappop(pending)[1]
            parts = operands(self.module, node)
            if not parts or (node is not step and any(user not in self.tree for user in node.users)):
                continue
            self.tree.add(node)
            stack = stack_of(node)
            if stack is not None and len(stack.users) == 1:
                self.tree.add(stack)
            factors = self.addends.pop(node)
            for part, factor in parts:
                self.addends.setdefault(part, []).extend(factor * outer for outer in factors)
                if part not in seen:
                    seen.add(part)
                    heapq.heappush(pending, (-self.place[part], part))

    def terms(self) -> dict[fx.Node, float]:
        """The values that are left, with their coefficients."""
        total = {node: _rounded(factors) for node, factors in self.addends.items()}
        return {node: factor for node, factor in total.items() if factor}

    def worth_expanding(self) -> fx.Node | None:
        """The latest step among the values that is worth expanding."""
        terms = self.terms()
        self.cancelled |= len(terms) < len(self.addends)
        steps: list[fx.Node] = [node for node in terms if operands(self.module, node)]
        self.addends = {node: self.addends[node] for node in terms}
        if not steps or len(terms) < 2:
            return None
        reads = _Dependence(terms, self.place)
        latest_first = sorted(steps, key=self.place.__getitem__, reverse=True)
        return next((step for step in latest_first if self._is_worth(step, terms, reads)), None)

    def _is_worth(self, step: fx.Node, terms: Collection[fx.Node], reads: _Dependence) -> bool:
        """Cases 2 and 3 of the module's docstring."""
        apart = [node for node in terms if not reads.are_related(step, node)]
        if not apart:
            return False
        parts = self._reach(step) - {step}
        if any(parts & self._reach(node) for node in apart):
            return True
        if reads.branch_at(step):
            return False
        deeper = _Dependence([*apart, *parts], self.place)
        return any(deeper.depends(node, part) for node in apart for part in parts)

    def _reach(self, node: fx.Node) -> set[fx.Node]:
        """A value and all that it is when it is expanded, step by step."""
        found = {node}
        pending = [node]
        while pending:
            parts = operands(self.module, pending.pop())
            pending.extend(part for part, _ in parts if part not in found)
            found.update(part for part, _ in parts)
        return found

    def result(self) -> Sum:
        """The sum as it is now."""
        terms = self.terms()
        reads = _Dependence(terms, self.place)
        states = {node for node in terms if operands(self.module, node) or reads.is_state(node)}
        ordered = {node: terms[node] for node in sorted(terms, key=self.place.__getitem__)}
        inside = {*self.tree, *terms}.union(*reads.ancestors.values())
        kept = self._kept(inside)
        branching = [node for node in ordered if node not in states and reads.reads_any(node)]
        taps = {node: frozenset(u for u in node.users if u not in inside or u in kept) for node in (*branching, *kept)}
        tapped = {node: readers for node, readers in taps.items() if readers}
        held = frozenset(terms).difference(tapped).intersection(chain.from_iterable(map(self._reach, kept)))
        return Sum(self.root, ordered, frozenset(self.tree), frozenset(states), tapped, held, self.cancelled)

    def _kept(self, inside: Collection[fx.Node]) -> set[fx.Node]:
        """The steps that are read from outside of the sum, by way of other steps too."""
        kept: set[fx.Node] = set()
        for node in sorted(self.tree - {self.root}, key=self.place.__getitem__, reverse=True):
            if any(user not in inside or user in kept for user in node.users):
                kept.add(node)
        return kept


class _Dependence:
    """Which values of a sum are computed from which."""

    def __init__(self, members: Iterable[fx.Node], place: Place) -> None:
        self.members = list(members)
        first = min((place[member] for member in self.members), default=0.0)
        self.ancestors = {node: _ancestors(node, first, place) for node in self.members}

    def depends(self, node: fx.Node, source: fx.Node) -> bool:
        """Whether `node` is computed from `source`."""
        return source in self.ancestors[node]

    def are_related(self, left: fx.Node, right: fx.Node) -> bool:
        """Whether they are one, or one is computed from the other."""
        return left is right or self.depends(left, right) or self.depends(right, left)

    def branch_at(self, node: fx.Node) -> bool:
        """Whether two values are computed from `node` of which neither is computed from the other."""
        readers = [other for other in self.members if self.depends(other, node)]
        return any(not self.are_related(a, b) for a, b in combinations(readers, 2))

    def is_state(self, node: fx.Node) -> bool:
        """Whether branches begin at `node` and every value of the sum comes before it or after it."""
        return all(self.are_related(node, other) for other in self.members) and self.branch_at(node)

    def reads_any(self, node: fx.Node) -> bool:
        """Whether `node` is computed from a value of the sum."""
        return any(self.depends(node, other) for other in self.members)


def _ancestors(node: fx.Node, first: float, place: Place) -> set[fx.Node]:
    """All that a value is computed from and that is no earlier than `first`."""
    found: set[fx.Node] = set()
    pending = [node]
    while pending:
        fresh = [source for source in tensor_inputs(pending.pop()) if source not in found and place[source] >= first]
        found.update(fresh)
        pending.extend(fresh)
    return found


def _rounded(factors: Sequence[float]) -> float:
    """Their sum, a whole number where it is one up to rounding."""
    total = math.fsum(factors)
    size = math.fsum(abs(factor) for factor in factors)
    whole = float(round(total))
    return whole if abs(total - whole) <= _ROUNDING * size else total
