"""States in a stack that something outside of it reads: hidden states as outputs, heads on several depths, long skips.

After a rewrite the state after term k of the serial network is what is nearest to it:
    1. the state after a level, where exactly the terms up to k have run by then;
    2. else the state before the first level that is cut, and what the terms up to k add on that level and later ones;
    3. where a level is cut that ends in a norm of all its terms, the state after the level on which the last of the
       terms up to k runs.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import fx

from passes.graph.dataflow import carries_tensors
from passes.graph.operators import ADD
from passes.schedule.sites import LevelSite
from passes.stacks.terms import Stack


def outside_readers(stack: Stack) -> dict[int, list[fx.Node]]:
    """For each term but the last what reads the state after it, beside the next term."""
    found: dict[int, list[fx.Node]] = {}
    for number, (term, following) in enumerate(zip(stack.terms, stack.terms[1:], strict=False)):
        own = following.inner | {following.add}
        readers = [user for user in term.result.users if user not in own and _reads_values(user)]
        if readers:
            found[number] = readers
    return found


def _reads_values(user: fx.Node) -> bool:
    """Not a size alone."""
    return user.op == "output" or carries_tensors(user)


def state_after(module: fx.GraphModule, stack: Stack, sites: Sequence[LevelSite], number: int) -> fx.Node:
    """The state after term `number` of the serial network, in the rewritten graph."""
    wanted = {term for site in sites for term in site.level.terms if term <= number}
    base, waiting = stack.entry, list(sites)
    while waiting and wanted.issuperset(waiting[0].level.terms):
        site = waiting.pop(0)
        base = site.result
        wanted.difference_update(site.level.terms)
    cut = [site for site in waiting if not wanted.isdisjoint(site.level.terms)]
    if not cut:
        return base
    if len(cut) == 1 and cut[0] is waiting[0] and len(cut[0].level.chains) == 1:
        return stack.terms[max(wanted)].result
    if any(_ends_in_norm(site) for site in cut):
        return cut[-1].result
    for site in cut:
        numbers = [term for chain in site.level.chains for term in chain]
        for term, contribution in zip(numbers, site.contributions, strict=True):
            if term in wanted:
                base = _added(module, base, contribution)
    return base


def _ends_in_norm(site: LevelSite) -> bool:
    """Whether what the terms of a level add is no summand of the state after it."""
    return site.level.shared or (len(site.level.chains) == 1 and any(term.post for term in site.terms))


def _added(module: fx.GraphModule, state: fx.Node, contribution: fx.Node) -> fx.Node:
    with module.graph.inserting_after(contribution):
        total = module.graph.call_function(ADD, (state, contribution))
    total.meta["val"] = state.meta.get("val")
    return total
