"""Find residual stacks: chains x_i = x_{i-1} + f_i(x_{i-1}) in any captured graph, by data flow and not by names.

A residual add has two operands of the state's shape, one of which (the skip) is an ancestor of the other. The nodes
between them are the term. A term ends in its add, or in a norm or activation that follows the add where the next
term reads that (post-norm, post-activation). Two adds to one state, (x + f(x)) + g(x), are one term. An add inside
another term is part of it. What a term reads beside the state (masks, rotary tables, sizes) is a side input and must
not depend on the state.

Refused, each with its reason:
    1. a value inside the term is read elsewhere;
    2. a side input depends on the state of the stack (the term reads an earlier state);
    3. the term holds a longer stack of its own;
    4. the term has no parameters;
    5. the add scales or broadcasts what it adds;
    6. neither operand is the state: a skip path that maps it, or branches that are parallel already.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import groupby

from torch import fx

from passes import operators as ops
from passes.dataflow import (
    canonical_walk,
    carries_tensors,
    descendants,
    positions,
    tensor_inputs,
    tensor_value,
)
from passes.joined_paths import joined_paths
from passes.kinds import kind_of
from passes.residual_adds import ResidualAdd, float_adds, join_adds, part_unfit, residual_add
from passes.terms import Kind, Refusal, Stack, Stacks, Term

__all__ = ["Kind", "Refusal", "Stack", "Stacks", "Term", "find_stacks", "structure"]


_POSTS = ops.NORMS | ops.ELEMENTWISE | {ops.aten.dropout.default}  # a captured dropout does nothing


def find_stacks(module: fx.GraphModule) -> Stacks:
    """Find all residual stacks of a captured graph.

    Args:
        module: ATen graph with example values in `node.meta["val"]`.

    Returns:
        Stacks in execution order and every residual add that was refused.
    """
    place = positions(module.graph)
    sums = float_adds(module.graph)
    found = {node: add for node, operands in sums if (add := residual_add(node, operands, place)) is not None}
    joined = join_adds(found, sums, place)
    fit, unfit = part_unfit(joined)
    refused: list[Refusal] = []
    chains = _without_nested(_chains([add for add in fit if add.has_weights]), refused)
    parts = [part for chain in chains for part in _legal_parts(chain, refused)]
    inside = {node for chain in chains for add in chain for node in (*add.region, *add.joins)}
    states = {state for chain in chains for add in chain for state in (add.skip, add.result)}
    refused.extend(_without_weights(fit, inside, states))
    refused.extend(refusal for add, refusal in unfit if add.node not in inside)
    refused.extend(joined_paths(module.graph, [s for s in sums if s[0] not in found and s[0] not in inside]))
    stacks: list[Stack] = []
    for part in parts:
        for terms in _regular_parts([_term(add) for add in part]):
            stacks.append(Stack(_stack_name(terms, len(stacks)), terms))
    order = {node.name: number for node, number in place.items()}
    return Stacks(tuple(stacks), tuple(sorted(refused, key=lambda refusal: order[refusal.node])))


def _without_weights(adds: Iterable[ResidualAdd], inside: set[fx.Node], states: set[fx.Node]) -> list[Refusal]:
    """Adds whose term has no parameters; not those inside a term, nor those of an activation written out elsewhere."""
    bare = [add for add in adds if not add.has_weights and add.node not in inside]
    on_state = [add for add in bare if not add.is_activation or not states.isdisjoint((add.skip, add.result))]
    return [Refusal(add.node.name, "the term has no parameters") for add in on_state]


def _post(add: ResidualAdd, skips: set[fx.Node]) -> tuple[fx.Node, ...]:
    """Norms and activations after the add, up to the state that the next term reads; empty if it reads the add."""
    path: list[fx.Node] = []
    node = add.total
    while node not in skips:
        followers = [user for user in node.users if carries_tensors(user)]
        if len(followers) != 1:
            return ()
        node = followers[0]
        state = [source for source in tensor_inputs(node) if source.op != "get_attr"]
        if node.target not in _POSTS or len(state) != 1:
            return ()
        path.append(node)
    return tuple(path)


def _chains(adds: Sequence[ResidualAdd]) -> list[list[ResidualAdd]]:
    """Link each add to the one that reads its result; the last term of a post-norm chain takes the same path."""
    skips = {add.skip for add in adds}
    chains: list[list[ResidualAdd]] = []
    ends: dict[fx.Node, list[ResidualAdd]] = {}
    for add in adds:
        linked = replace(add, post=_post(add, skips))
        chain = ends.pop(linked.skip, None)
        if chain is None:
            chain = []
            chains.append(chain)
        chain.append(linked)
        ends[linked.result] = chain
    return [_close_post(chain) for chain in chains]


def _close_post(chain: list[ResidualAdd]) -> list[ResidualAdd]:
    """Give the last term the norm after it where all earlier terms end in the same operators."""
    if len(chain) < 2 or not chain[-2].post or chain[-1].post:
        return chain
    wanted = [node.target for node in chain[-2].post]
    path: list[fx.Node] = []
    node = chain[-1].total
    for target in wanted:
        followers = [user for user in node.users if carries_tensors(user)]
        if len(followers) != 1 or followers[0].target != target:
            return chain
        node = followers[0]
        path.append(node)
    return [*chain[:-1], replace(chain[-1], post=tuple(path))]


def _without_nested(chains: list[list[ResidualAdd]], refused: list[Refusal]) -> list[list[ResidualAdd]]:
    """Keep the longest chains; an add inside a kept term is part of it, a term around a kept chain is refused.

    What is left of a chain on both sides of such a term are chains of their own, which wait for their turn again.
    """
    inside: set[fx.Node] = set()
    kept_adds: set[fx.Node] = set()
    kept: list[list[ResidualAdd]] = []
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


def _runs(chain: Sequence[ResidualAdd], cut: set[fx.Node]) -> list[list[ResidualAdd]]:
    """The longest runs of a chain without the adds in `cut`."""
    return [list(run) for is_cut, run in groupby(chain, lambda add: add.node in cut) if not is_cut]


def _legal_parts(chain: list[ResidualAdd], refused: list[Refusal]) -> list[list[ResidualAdd]]:
    """Split a chain at terms that cannot be moved, and say why."""
    state = descendants([chain[0].skip])
    parts: list[list[ResidualAdd]] = [[]]
    for add in chain:
        reason = _why_not(add, state)
        if reason is None:
            parts[-1].append(add)
            continue
        refused.append(Refusal(add.node.name, reason))
        parts.append([])
    return [part for part in parts if part]


def _why_not(add: ResidualAdd, state: set[fx.Node]) -> str | None:
    inner = set(add.region)
    sums = (add.node, *add.joins)
    for node in add.region:
        outside = [user for user in node.users if user not in inner and user not in sums and carries_tensors(user)]
        if outside or (node not in add.outputs and not node.users.keys().isdisjoint(sums)):
            reader = outside[0].name if outside else add.node.name
            return f"{node.name} inside the term is also read by {reader} outside it"
        for source in tensor_inputs(node):
            if source is not add.skip and source not in inner and source in state:
                return f"{node.name} also reads {source.name}, an earlier state of the stack"
    for node in (add.total, *add.post[:-1]):
        outside = [user for user in node.users if add.post and user not in add.post and carries_tensors(user)]
        if outside:
            return f"{node.name} before the norm of the term is also read by {outside[0].name}"
    return None


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
    leaves = [node for node in nodes if node not in body and node is not add.skip]
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
        structure=(*structure(nodes, body, add.skip), *(_post_line(node) for node in add.post)),
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
