"""Find residual stacks: chains x_i = x_{i-1} + f_i(x_{i-1}) in any captured graph, by data flow and not by names.

A residual add has two operands of the state's shape, one of which (the skip) is an ancestor of the other. The nodes
between them are the term. A term ends in its add, or in a norm or activation that follows it (`passes.stacks.chains`).
Two adds to one state, (x + f(x)) + g(x), are one term. An add inside another term is part of it. What a term reads
beside the state (masks, rotary tables, sizes) is a side input and must not depend on the state.

Refused, each with its reason:
    1. a value inside the term is read elsewhere;
    2. a side input depends on the state of the stack (the term reads an earlier state);
    3. the term holds a longer stack of its own;
    4. the term has no parameters, and no term reads its result;
    5. the sum is written otherwise than as an add, or scales or broadcasts what it adds: the pass normalize-adds
       writes it as an add where it is a term;
    6. neither operand is the state: a skip path that maps it, or branches that are parallel already.

Told as well, by the operator's name: what parts two stacks of one shape and is no norm or activation.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from torch import fx

from passes.graph import operators as ops
from passes.graph.dataflow import canonical_walk, carries_tensors, tensor_value, values_read
from passes.stacks.chains import find_chains
from passes.stacks.kinds import kind_of
from passes.stacks.residual_adds import ResidualAdd
from passes.stacks.terms import Kind, Refusal, Stack, Stacks, Term

__all__ = ["Kind", "Refusal", "Stack", "Stacks", "Term", "find_stacks", "structure"]


def find_stacks(module: fx.GraphModule) -> Stacks:
    """Find all residual stacks of a captured graph.

    Args:
        module: ATen graph with example values in `node.meta["val"]`.

    Returns:
        Stacks in execution order and every residual add that was refused.
    """
    found = find_chains(module)
    refused = list(found.refused)
    stacks: list[Stack] = []
    for chain in found.chains:
        refused.extend(Refusal(add.node.name, add.spelled.described(add.node)) for add in chain if add.spelled)
        for is_plain, run in groupby(chain, lambda add: add.spelled is None):
            for terms in _regular_parts([_term(add) for add in run]) if is_plain else ():
                stacks.append(Stack(_stack_name(terms, len(stacks)), terms))
    order = {node.name: number for number, node in enumerate(module.graph.nodes)}
    return Stacks(tuple(stacks), tuple(sorted(refused, key=lambda refusal: order[refusal.node])))


def _regular_parts(terms: Sequence[Term]) -> list[tuple[Term, ...]]:
    """Part a stack of several kinds that does not repeat, such as 1 convolution, then attention and MLP in turn.

    The longest run of blocks that repeat by kind is a stack of its own, and so is what lies before and after it.
    """
    kinds = [term.kind for term in terms]
    if len(set(kinds)) == 1 or Stack("", tuple(terms)).period > 1:
        return [tuple(terms)]
    constant = _repeats(kinds, 1)  # terms of one kind from here on; a run of these is no block
    runs = (
        (-length, period, start)
        for period in range(2, len(terms) // 2 + 1)
        for start, length in enumerate(_repeats(kinds, period))
        if length and constant[start] < period
    )
    best = min(runs, default=None)
    if best is None:
        return [tuple(terms)]
    length, _, start = best
    parts = (terms[:start], terms[start : start - length], terms[start - length :])
    return [tuple(part) for part in parts if part]


def _repeats(kinds: Sequence[str], period: int) -> list[int]:
    """For each place, how many kinds from there on are whole repetitions of the next `period` kinds, or 0."""
    found, same = [0] * len(kinds), 0
    for start in reversed(range(len(kinds) - period)):
        same = same + 1 if kinds[start] == kinds[start + period] else 0
        found[start] = (same // period + 1) * period if same >= period else 0
    return found


def _term(add: ResidualAdd) -> Term:
    inner = frozenset(add.region)
    body = _with_private_sides(add, inner.union((add.node, *add.joins)) if add.joins else inner)
    nodes = canonical_walk(add.total if add.joins else add.output, body.__contains__)
    read = {source for node in body for source in values_read(node)}
    leaves = [node for node in nodes if node not in body and node is not add.skip and node in read]
    return Term(
        kind=kind_of(add.outputs, add.region),
        skip=add.skip,
        output=add.output,
        add=add.node,
        joined=add.outputs[1:],
        post=(*add.joins, *add.post),
        nodes=tuple(nodes),
        inner=inner,
        sides=tuple(leaf for leaf in leaves if leaf.op != "get_attr" and carries_tensors(leaf)),
        structure=(*structure(nodes, body, add.skip), *_post_lines(add)),
        module=_module_path(add.region),
    )


def _with_private_sides(add: ResidualAdd, inner: frozenset[fx.Node]) -> frozenset[fx.Node]:
    """The term with what only it computes of side inputs, such as its own keys of a table that all terms share."""
    body = set(inner)
    pending = [source for node in add.region for source in node.all_input_nodes]
    while pending:
        node = pending.pop()
        if node in body or node is add.skip or node.op != "call_function" or not carries_tensors(node):
            continue
        if all(user in body for user in node.users):
            body.add(node)
            pending.extend(node.all_input_nodes)
    return frozenset(body)


def structure(nodes: Iterable[fx.Node], inner: frozenset[fx.Node], skip: fx.Node | None) -> Iterable[str]:
    """One line for each node: operator and arguments by place, a parameter's shape, how a side input is spelled."""
    number = {node: f"%{place}" for place, node in enumerate(nodes)}
    for node in number:
        if node is skip:
            yield "state"
        elif node.op == "get_attr":
            value = tensor_value(node)
            yield "parameter" if value is None else f"parameter {value.dtype} {list(value.shape)}"
        elif node not in inner:
            yield f"side {_spelled(node)}"
        else:
            arguments = fx.map_arg((node.args, node.kwargs), number.__getitem__)
            yield f"{node.target} {arguments}"


def _spelled(node: fx.Node) -> str:
    """A value from outside by its name; a number that is computed from sizes by how, as others may be too."""
    if node.target not in ops.OF_SIZES or carries_tensors(node):
        return node.name
    return f"{node.target} {fx.map_arg(node.args, _spelled)}"


def _post_lines(add: ResidualAdd) -> Iterator[str]:
    """One line for each node of a norm or activation: operator and arguments by place, a stored value's shape."""
    number = {add.total: "sum", **{node: f"post{place}" for place, node in enumerate(add.post)}}

    def described(node: fx.Node) -> str:
        return number.get(node) or str(getattr(tensor_value(node), "shape", ""))

    for node in add.post:
        yield f"post {node.target} {fx.map_arg((node.args, node.kwargs), described)}"


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
