"""Find residual stacks: chains x_i = x_{i-1} + f_i(x_{i-1}) in any captured graph, by data flow and not by names.

A residual add has two operands of the state's shape, one of which (the skip) is an ancestor of the other. The nodes
between them are the term. A term ends in its add, or in a norm or activation that follows the add where the next
term reads that (post-norm, post-activation). An add inside another term is part of it. What a term reads beside the
state (masks, rotary tables, sizes) is a side input and must not depend on the state.

Refused, each with its reason:
    1. a value inside the term is read elsewhere;
    2. a side input depends on the state of the stack (the term reads an earlier state);
    3. the term holds a longer stack of its own;
    4. the term has no parameters.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import groupby
from typing import Literal

from torch import fx

from passes import operators as ops
from passes.dataflow import (
    canonical_walk,
    carries_tensors,
    descendants,
    positions,
    region_between,
    same_shape,
    tensor_inputs,
    tensor_value,
)

Kind = Literal["attention", "mlp", "convolution", "other"]


@dataclass(frozen=True)
class Term:
    """One residual term f_i.

    Attributes:
        kind: what the term computes.
        skip: the state that the term reads, x_{i-1}.
        output: f_i(x_{i-1}).
        add: the residual add.
        post: the norm or activation after the add that belongs to the term, mostly empty.
        nodes: the term's nodes with their parameters and side inputs, in canonical order: equal places of two terms
            with one signature correspond.
        inner: the nodes between skip and output, output included.
        sides: tensors that the term reads beside the state and its parameters.
        structure: one line for each entry of `nodes`.
        module: the deepest module path that all inner nodes share.
    """

    kind: Kind
    skip: fx.Node
    output: fx.Node
    add: fx.Node
    post: tuple[fx.Node, ...]
    nodes: tuple[fx.Node, ...]
    inner: frozenset[fx.Node]
    sides: tuple[fx.Node, ...]
    structure: tuple[str, ...]
    module: str

    @property
    def result(self) -> fx.Node:
        """The state x_i after the term."""
        return self.post[-1] if self.post else self.add

    @cached_property
    def signature(self) -> str:
        """Equal for terms that differ in parameter values only, so that they can be fused."""
        return hashlib.sha256("\n".join(self.structure).encode()).hexdigest()[:12]

    @property
    def parameters(self) -> tuple[fx.Node, ...]:
        """The get_attr nodes that the term reads."""
        return tuple(node for node in self.nodes if node.op == "get_attr")


@dataclass(frozen=True)
class Stack:
    """A chain of terms on one state."""

    name: str
    terms: tuple[Term, ...]

    @property
    def entry(self) -> fx.Node:
        """The state x_0."""
        return self.terms[0].skip

    @property
    def exit(self) -> fx.Node:
        """The state x_n."""
        return self.terms[-1].result

    @cached_property
    def period(self) -> int:
        """Terms of one block: the shortest period of the signatures, or else of the kinds, at most half the stack."""
        for labels in ([t.signature for t in self.terms], [t.kind for t in self.terms]):
            count = len(labels)
            for period in range(1, count // 2 + 1):
                if count % period == 0 and all(labels[i] == labels[i - period] for i in range(period, count)):
                    return period
        return 1

    @property
    def blocks(self) -> tuple[tuple[int, ...], ...]:
        """Term numbers, block by block."""
        numbers = range(len(self.terms))
        return tuple(tuple(numbers[i : i + self.period]) for i in range(0, len(self.terms), self.period))

    def summary(self) -> str:
        """Kinds and their counts, such as "12 attention, 12 mlp"."""
        return ", ".join(f"{count} {kind}" for kind, count in Counter(term.kind for term in self.terms).items())


@dataclass(frozen=True)
class Refusal:
    """A residual add that belongs to no stack, and why."""

    node: str
    reason: str


@dataclass(frozen=True)
class Stacks:
    """What was found in a graph."""

    stacks: tuple[Stack, ...]
    refused: tuple[Refusal, ...] = ()

    @property
    def terms(self) -> int:
        """Terms in all stacks together."""
        return sum(len(stack.terms) for stack in self.stacks)


@dataclass(frozen=True)
class _Add:
    """A residual add before it is known to which stack it belongs."""

    node: fx.Node
    skip: fx.Node
    output: fx.Node
    region: tuple[fx.Node, ...]
    post: tuple[fx.Node, ...] = field(default=())

    @property
    def result(self) -> fx.Node:
        return self.post[-1] if self.post else self.node


def find_stacks(module: fx.GraphModule) -> Stacks:
    """Find all residual stacks of a captured graph.

    Args:
        module: ATen graph with example values in `node.meta["val"]`.

    Returns:
        Stacks in execution order and every residual add that was refused.
    """
    place = positions(module.graph)
    refused: list[Refusal] = []
    adds = [add for node in module.graph.nodes if (add := _residual_add(node, place)) is not None]
    with_weights = [add for add in adds if _has_weights(add)]
    refused.extend(_without_weights(adds, with_weights))
    chains = _without_nested(_chains(with_weights), refused)
    stacks: list[Stack] = []
    for chain in chains:
        for part in _legal_parts(chain, refused):
            terms = tuple(_term(add) for add in part)
            stacks.append(Stack(_stack_name(terms, len(stacks)), terms))
    return Stacks(tuple(stacks), tuple(refused))


def _residual_add(node: fx.Node, place: dict[fx.Node, int]) -> _Add | None:
    """The node as a residual add, or None."""
    if node.op != "call_function" or node.target not in ops.ADDS or node.kwargs.get("alpha", 1) != 1:
        return None
    value = tensor_value(node)
    operands = [arg for arg in node.args if isinstance(arg, fx.Node)]
    if value is None or not value.is_floating_point() or len(operands) != 2 or operands[0] is operands[1]:
        return None
    values = [tensor_value(operand) for operand in operands]
    if any(v is None or not same_shape(v, value) for v in values):
        return None
    skip, output = sorted(operands, key=place.__getitem__)
    region = region_between(skip, output, place)
    return _Add(node, skip, output, tuple(region)) if region else None


def _has_weights(add: _Add) -> bool:
    return any(source.op == "get_attr" for node in add.region for source in node.all_input_nodes)


def _without_weights(adds: Sequence[_Add], with_weights: Sequence[_Add]) -> list[Refusal]:
    """Adds whose term has no parameters; not those inside a term that has."""
    inside = {node for add in with_weights for node in add.region}
    bare = [add for add in adds if add not in with_weights and add.node not in inside]
    return [Refusal(add.node.name, "the term has no parameters") for add in bare]


def _post(add: _Add, skips: set[fx.Node]) -> tuple[fx.Node, ...]:
    """Norms and activations after the add, up to the state that the next term reads; empty if it reads the add."""
    path: list[fx.Node] = []
    node = add.node
    while node not in skips:
        followers = [user for user in node.users if carries_tensors(user)]
        if len(followers) != 1:
            return ()
        node = followers[0]
        state = [source for source in tensor_inputs(node) if source.op != "get_attr"]
        if node.target not in ops.NORMS | ops.ELEMENTWISE or len(state) != 1:
            return ()
        path.append(node)
    return tuple(path)


def _chains(adds: Sequence[_Add]) -> list[list[_Add]]:
    """Link each add to the one that reads its result; the last term of a post-norm chain takes the same path."""
    skips = {add.skip for add in adds}
    chains: list[list[_Add]] = []
    ends: dict[fx.Node, list[_Add]] = {}
    for add in adds:
        linked = replace(add, post=_post(add, skips))
        chain = ends.pop(linked.skip, None)
        if chain is None:
            chain = []
            chains.append(chain)
        chain.append(linked)
        ends[linked.result] = chain
    return [_close_post(chain) for chain in chains]


def _close_post(chain: list[_Add]) -> list[_Add]:
    """Give the last term the norm after it where all earlier terms end in the same operators."""
    if len(chain) < 2 or not chain[-2].post or chain[-1].post:
        return chain
    wanted = [node.target for node in chain[-2].post]
    path: list[fx.Node] = []
    node = chain[-1].node
    for target in wanted:
        followers = [user for user in node.users if carries_tensors(user)]
        if len(followers) != 1 or followers[0].target != target:
            return chain
        node = followers[0]
        path.append(node)
    return [*chain[:-1], replace(chain[-1], post=tuple(path))]


def _without_nested(chains: list[list[_Add]], refused: list[Refusal]) -> list[list[_Add]]:
    """Keep the longest chains; an add inside a kept term is part of it, a term around a kept chain is refused.

    What is left of a chain on both sides of such a term are chains of their own, which wait for their turn again.
    """
    inside: set[fx.Node] = set()
    kept_adds: set[fx.Node] = set()
    kept: list[list[_Add]] = []
    order = {add.node: number for number, add in enumerate(add for chain in chains for add in chain)}
    waiting = [(-len(chain), order[chain[0].node], chain) for chain in chains]
    heapq.heapify(waiting)
    while waiting:
        _, _, chain = heapq.heappop(waiting)
        around = {add.node for add in chain if not kept_adds.isdisjoint(add.region)}
        cut = around | {add.node for add in chain if add.node in inside}
        if not cut:
            kept.append(chain)
            kept_adds.update(add.node for add in chain)
            inside.update(node for add in chain for node in add.region)
            continue
        reason = "the term holds a longer stack of its own"
        refused.extend(Refusal(add.node.name, reason) for add in chain if add.node in around - inside)
        for part in _runs(chain, cut):
            heapq.heappush(waiting, (-len(part), order[part[0].node], part))
    return sorted(kept, key=lambda chain: order[chain[0].node])


def _runs(chain: Sequence[_Add], cut: set[fx.Node]) -> list[list[_Add]]:
    """The longest runs of a chain without the adds in `cut`."""
    return [list(run) for is_cut, run in groupby(chain, lambda add: add.node in cut) if not is_cut]


def _legal_parts(chain: list[_Add], refused: list[Refusal]) -> list[list[_Add]]:
    """Split a chain at terms that cannot be moved, and say why."""
    state = descendants([chain[0].skip])
    parts: list[list[_Add]] = [[]]
    for add in chain:
        reason = _why_not(add, state)
        if reason is None:
            parts[-1].append(add)
            continue
        refused.append(Refusal(add.node.name, reason))
        parts.append([])
    return [part for part in parts if part]


def _why_not(add: _Add, state: set[fx.Node]) -> str | None:
    inner = set(add.region)
    for node in add.region:
        outside = [user for user in node.users if user not in inner and user is not add.node and carries_tensors(user)]
        if outside or (node is not add.output and add.node in node.users):
            reader = outside[0].name if outside else add.node.name
            return f"{node.name} inside the term is also read by {reader} outside it"
        for source in tensor_inputs(node):
            if source is not add.skip and source not in inner and source in state:
                return f"{node.name} also reads {source.name}, an earlier state of the stack"
    for node in (add.node, *add.post[:-1]):
        outside = [user for user in node.users if add.post and user not in add.post and carries_tensors(user)]
        if outside:
            return f"{node.name} before the norm of the term is also read by {outside[0].name}"
    return None


def _term(add: _Add) -> Term:
    inner = frozenset(add.region)
    nodes = canonical_walk(add.output, inner.__contains__)
    leaves = [node for node in nodes if node not in inner and node is not add.skip]
    return Term(
        kind=_kind(add.region),
        skip=add.skip,
        output=add.output,
        add=add.node,
        post=add.post,
        nodes=tuple(nodes),
        inner=inner,
        sides=tuple(leaf for leaf in leaves if leaf.op != "get_attr" and carries_tensors(leaf)),
        structure=(*structure(nodes, inner, add.skip), *(_post_line(node) for node in add.post)),
        module=_module_path(add.region),
    )


def structure(nodes: Iterable[fx.Node], inner: frozenset[fx.Node], skip: fx.Node | None) -> Iterable[str]:
    """One line for each node: operator and arguments by place, a parameter's shape, a side input's name."""
    number = {node: f"%{place}" for place, node in enumerate(nodes)}
    for node in number:
        if node is skip:
            yield "state"
        elif node.op == "get_attr":
            value = tensor_value(node)
            yield "parameter" if value is None else f"parameter {value.dtype} {list(value.shape)}"
        elif node not in inner:
            yield f"side {node.name}"
        else:
            arguments = fx.map_arg((node.args, node.kwargs), number.__getitem__)
            yield f"{node.target} {arguments}"


def _post_line(node: fx.Node) -> str:
    constants = fx.map_arg(node.args, lambda n: str(getattr(tensor_value(n), "shape", "")))
    return f"post {node.target} {constants}"


def _kind(region: Sequence[fx.Node]) -> Kind:
    targets = [node.target for node in region]
    products = sum(target in ops.MATRIX_PRODUCTS for target in targets)
    if ops.ATTENTION in targets or (products >= 2 and any(target in ops.SOFTMAXES for target in targets)):
        return "attention"
    if any(target in ops.CONVOLUTIONS for target in targets):
        return "convolution"
    if sum(target in ops.LINEARS for target in targets) >= 2:
        return "mlp"
    return "other"


def _module_path(region: Sequence[fx.Node]) -> str:
    """The longest common module path of the nodes, from `nn_module_stack`."""
    paths = []
    for node in region:
        stack = node.meta.get("nn_module_stack")
        if stack:
            paths.append(str(list(stack.values())[-1][0]).split("."))
    if not paths:
        return ""
    common: list[str] = []
    for parts in zip(*paths, strict=False):
        if len(set(parts)) != 1:
            break
        common.append(parts[0])
    return ".".join(common)


def _stack_name(terms: Sequence[Term], number: int) -> str:
    """The module path that all terms share, else a number."""
    paths = [term.module.split(".") for term in terms]
    common = []
    for parts in zip(*paths, strict=False):
        if len(set(parts)) != 1:
            break
        common.append(parts[0])
    return ".".join(part for part in common if part) or f"stack{number}"
