"""Link residual adds to chains: the next term reads the state that the last one made.

A term ends in its add, or in a norm or activation that follows the add where the next term reads that (post-norm,
post-activation), whole or written out (`passes.stacks.posts`). The last term of a chain takes the same path where the
chain repeats. A term without parameters, such as a Fourier transform or a shift, belongs to a chain where the next
term reads its result; an activation written out, x + 0.04 x^3 inside a GELU, is no term.

Refused, each with its reason: see `passes.stacks.find`.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from torch import fx

from passes.graph import operators as ops
from passes.graph.dataflow import (
    descendants,
    positions,
    region_between,
    same_shape,
    tensor_inputs,
    tensor_value,
    value_users,
)
from passes.stacks.coupled_states import CoupledStates
from passes.stacks.joined_paths import joined_paths
from passes.stacks.posts import obstacle, paths_after
from passes.stacks.residual_adds import ResidualAdd, float_adds, residual_adds
from passes.stacks.terms import Refusal

aten = ops.aten


@dataclass(frozen=True)
class Chains:
    """Chains of residual adds, in execution order, and the residual adds that belong to none."""

    chains: tuple[tuple[ResidualAdd, ...], ...]
    refused: tuple[Refusal, ...]


def find_chains(module: fx.GraphModule) -> Chains:
    """All chains of residual adds that a rewrite may move, sums in other spellings than an add among them.

    Args:
        module: ATen graph with example values in `node.meta["val"]`.
    """
    place = positions(module.graph)
    adds = residual_adds(module.graph, place)
    linked = _linked(adds)
    refused: list[Refusal] = []
    all_chains = _chains(linked)
    coupled = CoupledStates(all_chains)
    chains = _without_nested(all_chains, refused)
    parts = [part for chain in chains for part in _legal_parts(chain, coupled, refused)]
    inside = {node for chain in chains for add in chain for node in (*add.region, *add.joins, *add.post)}
    states = {state for chain in chains for add in chain for state in (add.skip, add.result)}
    nodes = {add.node for add in linked}
    refused.extend(_without_weights([add for add in adds if add.node not in nodes], inside, states))
    known = {node for add in adds for node in (add.node, *add.joins)} | inside
    others = float_adds(module.graph, ops.ADDS | {aten.sub.Tensor})
    refused.extend(_cuts(parts, linked, place))
    refused.extend(joined_paths(module.graph, [pair for pair in others if pair[0] not in known]))
    order = {node.name: number for node, number in place.items()}
    by_place = sorted(refused, key=lambda refusal: order[refusal.node])
    in_order = sorted(parts, key=lambda part: place[part[0].node])  # parts of one chain may lie around another
    return Chains(tuple(tuple(part) for part in in_order), tuple(by_place))


def _linked(adds: Sequence[ResidualAdd]) -> list[ResidualAdd]:
    """Adds that may be terms: those with weights, and those without where the next term reads what they make."""
    taken = {add.node: add for add in adds if add.has_weights}
    bare = [add for add in adds if add.node not in taken]
    skips = {add.skip for add in taken.values()}
    repeated: set[tuple[object, ...]] = set()
    for add in reversed(bare):
        if replace(add, post=_post(add, skips)).result in skips:
            taken[add.node] = add
            skips.add(add.skip)
            repeated.add(_targets(add))
    for add in bare:  # the last term of a stack, which no term follows
        if add.node not in taken and _targets(add) in repeated and _is_result(add.skip, list(taken.values()), skips):
            taken[add.node] = add
    return [add for add in adds if add.node in taken]


def _targets(add: ResidualAdd) -> tuple[object, ...]:
    return tuple(node.target for node in add.region)


def _is_result(state: fx.Node, adds: Iterable[ResidualAdd], skips: Collection[fx.Node]) -> bool:
    return any(replace(add, post=_post(add, {*skips, state})).result is state for add in adds)


def _without_weights(adds: Iterable[ResidualAdd], inside: set[fx.Node], states: set[fx.Node]) -> list[Refusal]:
    """Adds whose term has no parameters; not those inside a term, nor those of an activation or norm written out."""
    bare = [add for add in adds if add.node not in inside and not _is_written_out(add, states)]
    return [Refusal(add.node.name, "the term has no parameters") for add in bare]


def _is_written_out(add: ResidualAdd, states: set[fx.Node]) -> bool:
    """Whether an add is part of an operator in its elements: x + 0.04 x^3, x - mean(x), x cos + rotated(x) sin."""
    if add.spelled is not None and (add.spelled.scaled or add.spelled.broadcast):
        return True
    return add.is_activation and states.isdisjoint((add.skip, add.result))


def _post(add: ResidualAdd, skips: Collection[fx.Node]) -> tuple[fx.Node, ...]:
    """Norms and activations after the add, up to the state that the next term reads; empty if it reads the add."""
    if add.total in skips:
        return ()
    path = next((path for path in paths_after(add.total) if path[-1] in skips), ())
    if not path or not _lies_alike(add.total, path[-1]):
        return ()
    forks = any(len(list(value_users(node))) > 1 for node in (add.total, *path[:-1]))
    # x - mean(x), of which a spread is then taken, is the beginning of a norm
    return () if forks and add.spelled is not None and not add.has_weights else path


def _lies_alike(left: fx.Node, right: fx.Node) -> bool:
    ours, theirs = tensor_value(left), tensor_value(right)
    return ours is not None and theirs is not None and same_shape(ours, theirs)


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
    """Give the last term of a chain the norm after it that the term one period before it has.

    Where nothing repeats that is the term before it.
    """
    posts = [[node.target for node in add.post] for add in chain]
    periods = [p for p in range(1, len(chain) // 2 + 1) if posts[-1 - p] and _has_period(posts, p)]
    if not periods and len(chain) > 1 and posts[-2]:
        periods = [1]
    if not periods or chain[-1].post:
        return chain
    wanted = posts[-1 - periods[0]]
    path = next((path for path in paths_after(chain[-1].total) if [node.target for node in path] == wanted), ())
    return [*chain[:-1], replace(chain[-1], post=path)]


def _has_period(labels: Sequence[object], period: int) -> bool:
    """Whether the labels before the last are those one period earlier, over the last period as far as there is one."""
    last = len(labels) - 1
    return all(labels[i] == labels[i - period] for i in range(max(period, last - period), last))


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


def _legal_parts(chain: list[ResidualAdd], coupled: CoupledStates, refused: list[Refusal]) -> list[list[ResidualAdd]]:
    """Split a chain at terms that cannot be moved, and say why."""
    state = descendants([chain[0].skip])
    parts: list[list[ResidualAdd]] = [[]]
    for add in chain:
        reason = _why_not(add, chain, state, coupled)
        if reason is None:
            parts[-1].append(add)
            continue
        refused.append(Refusal(add.node.name, reason))
        parts.append([])
    return [part for part in parts if part]


def _cuts(
    parts: Sequence[Sequence[ResidualAdd]], linked: Sequence[ResidualAdd], place: dict[fx.Node, int]
) -> Iterator[Refusal]:
    """What stands between the end of a chain and the next one on a state of its shape, and is no norm or activation.

    Behind several terms a product makes another state, whose chain is a stack of its own; it is told where it leaves a
    term alone.
    """
    entries = sorted({part[0].skip for part in parts}, key=place.__getitem__)
    terms, read = {add.node for add in linked}, {add.skip for add in linked}
    for part in parts if len(parts) > 1 else ():
        total = part[-1].total
        after = descendants([total])
        state = next((entry for entry in entries if entry in after and entry is not total), None)
        if state is None or part[-1].result in read or not _lies_alike(total, state):
            continue
        between = region_between(total, state, place)
        apart = not terms.isdisjoint(between) or (len(part) > 1 and any(ops.gemms(node) for node in between))
        found = None if apart else obstacle(total, state)
        if found is not None:
            yield Refusal(found[0].name, found[1])


def _why_not(add: ResidualAdd, chain: Sequence[ResidualAdd], state: set[fx.Node], coupled: CoupledStates) -> str | None:
    inner = set(add.region)
    sums = (add.node, *add.joins)
    states = {part for term in chain for part in (term.skip, term.total, *term.post)}
    for node in add.region:
        outside = [user for user in value_users(node) if user not in inner and user not in sums]
        if outside or (node not in add.outputs and not node.users.keys().isdisjoint(sums)):
            reader = outside[0] if outside else add.node
            tie = coupled.through_reader(add, chain, reader)
            return tie or f"{node.name} inside the term is also read by {reader.name} outside it"
        for source in tensor_inputs(node):
            if source is not add.skip and source not in inner and source in state:
                tie = None if source in states else coupled.through_source(add, chain, source)
                return tie or f"{node.name} also reads {source.name}, an earlier state of the stack"
    for node in (add.total, *add.post[:-1]):
        outside = [user for user in value_users(node) if add.post and user not in add.post]
        if outside:
            return f"{node.name} before the norm of the term is also read by {outside[0].name}"
    return None
