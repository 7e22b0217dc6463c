"""Run the terms of each stack as a plan says.

    y = x + sum_chains (chain(x) - x)        on each level

A chain of one term adds f(x); a chain of several runs them one after another on a private state; a chain that is alone
on its level is simply serial. What a term computes is not touched, only what it reads, so the serial schedule leaves
the graph as it was, to the bit. A post-norm term counts as N(x + f(x)) - x, or its level shares one norm:

    y = N(x + sum_chains (chain(x) - x))       where the last term of each chain goes without its norm

What reads a state in the middle of a stack reads what is nearest to it afterwards (passes/schedule/tapped_states.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import fx

from passes.errors import ParallelizeError
from passes.graph.dataflow import same_shape, tensor_value, values_read
from passes.graph.editing import clone as clone_module
from passes.graph.editing import finish, restore_order
from passes.graph.operators import ADD, METADATA_ARGUMENTS, aten
from passes.plan import Level, Plan, StackPlan
from passes.runner import Pass, PassResult, Stage
from passes.schedule.sites import LevelSite, StackSite
from passes.schedule.tapped_states import outside_readers, state_after
from passes.stacks.find import Stack, Term, find_stacks


@dataclass(frozen=True)
class ApplyPlan(Pass):
    """Rewrite residual stacks so that the terms of a level read the same state."""

    plan: Plan
    name: ClassVar[str] = "apply-plan"
    exact: ClassVar[bool] = False
    stage: ClassVar[Stage] = "schedule"

    def apply(self, module: fx.GraphModule) -> PassResult:
        """See the module's docstring."""
        sites = schedule(module, self.plan)
        return PassResult(
            tuple(
                f"{site.name}: {sum(len(s.terms) for s in site.levels)} terms on {len(site.levels)} levels"
                for site in sites
            )
        )


def rewrite(module: fx.GraphModule, plan: Plan) -> tuple[fx.GraphModule, tuple[StackSite, ...]]:
    """Apply a plan to a copy and say where its levels are.

    Returns:
        The rewritten graph, shapes propagated, and for each stack the sites of its levels in it.

    Raises:
        ParallelizeError: the plan does not fit the model's stacks.
    """
    edited = clone_module(module)
    sites = schedule(edited, plan)
    finished = finish(edited)
    by_name = {node.name: node for node in finished.graph.nodes}
    return finished, tuple(_follow(site, by_name) for site in sites)


def _follow(site: StackSite, by_name: dict[str, fx.Node]) -> StackSite:
    """The same site in a copy of the graph, found by the nodes' names."""
    return StackSite(
        site.name,
        tuple(
            LevelSite(
                level.level,
                level.terms,
                by_name[level.entry.name],
                tuple(by_name[node.name] for node in level.contributions),
                by_name[level.sum.name],
                by_name[level.result.name],
            )
            for level in site.levels
        ),
    )


def schedule(module: fx.GraphModule, plan: Plan) -> tuple[StackSite, ...]:
    """Apply a plan in place.

    Raises:
        ParallelizeError: the plan has another number of stacks or terms than the model.
    """
    stacks = find_stacks(module).stacks
    check_fits(stacks, plan)
    sites: list[StackSite] = []
    exits: dict[fx.Node, fx.Node] = {}
    for stack, part in zip(stacks, plan.stacks, strict=True):
        site, states = _schedule_stack(module, _entered(stack, exits), part)
        exits.update(states)
        sites.append(site)
    restore_order(module)
    return tuple(sites)


def _entered(stack: Stack, exits: Mapping[fx.Node, fx.Node]) -> Stack:
    """The stack with its terms on the new exits of stacks that were scheduled before it."""
    return replace(stack, terms=tuple(replace(term, skip=exits.get(term.skip, term.skip)) for term in stack.terms))


def check_fits(stacks: Sequence[Stack], plan: Plan) -> None:
    """Refuse a plan made for another model.

    Raises:
        ParallelizeError: the plan has another number of stacks or terms than the model.
    """
    hint = "Use a plan that was made for this model; `parallelize inspect MODEL` lists its stacks and terms."
    if len(stacks) != len(plan.stacks):
        raise ParallelizeError(f"The plan is for {len(plan.stacks)} stacks, the model has {len(stacks)}.", hint)
    for stack, part in zip(stacks, plan.stacks, strict=True):
        if len(stack.terms) != part.terms:
            raise ParallelizeError(
                f"The plan has {part.terms} terms for the stack {stack.name}, the model has {len(stack.terms)}.", hint
            )
        part.check()
        for number, level in enumerate(part.levels):
            if level.shared and not all(stack.terms[term].norms for term in level.terms):
                raise ParallelizeError(
                    f"Level {number} of the plan shares a norm that the terms of {stack.name} do not have.",
                    'Leave out "norm": "shared".',
                )


def _schedule_stack(module: fx.GraphModule, stack: Stack, plan: StackPlan) -> tuple[StackSite, dict[fx.Node, fx.Node]]:
    """The levels of one stack, and for the states that are read outside of it those that stand for them now."""
    users_of_exit = list(stack.exit.users)
    taps = outside_readers(stack)
    state = stack.entry
    _read_metadata_of_entry(stack)
    sites = []
    for level in plan.levels:
        site = _place_level(module, stack, level, state)
        sites.append(site)
        state = site.result
    states = {stack.exit: state}
    readers = {stack.exit: users_of_exit}
    for number, users in taps.items():
        serial = stack.terms[number].result
        states[serial], readers[serial] = state_after(module, stack, sites, number), users
    for serial, now in states.items():
        for user in readers[serial] if now is not serial else ():
            user.replace_input_with(serial, now)
    return StackSite(stack.name, tuple(sites)), states


def _read_metadata_of_entry(stack: Stack) -> None:
    """Let what reads shape or dtype of a later state, as zeros_like does, read the entry's: a level may not have it."""
    entry = tensor_value(stack.entry)
    for state in {node for term in stack.terms[:-1] for node in (term.total, term.result)}:
        value = tensor_value(state)
        if entry is None or value is None or value.dtype != entry.dtype or not same_shape(value, entry):
            continue
        for user in [user for user in state.users if user.target in METADATA_ARGUMENTS]:
            if state not in values_read(user):
                user.replace_input_with(state, stack.entry)


def _place_level(module: fx.GraphModule, stack: Stack, level: Level, entry: fx.Node) -> LevelSite:
    alone = len(level.chains) == 1
    terms: list[Term] = []
    contributions: list[fx.Node] = []
    state = entry
    for chain in level.chains:
        state = entry
        for number in chain:
            term = stack.terms[number]
            shares = level.shared and number == chain[-1]
            needs_result = alone or number != chain[-1] or (bool(term.post) and not shares)
            state_before, state = state, _place_term(term, state, needs_result=needs_result)
            terms.append(term)
            contributions.append(term.output if alone else _contribution(module, term, state_before, bare=shares))
    if alone:
        return LevelSite(level, tuple(terms), entry, tuple(contributions), terms[-1].total, state)
    total = _sum(module, entry, contributions)
    result = _normed(total, stack.terms[level.terms[-1]]) if level.shared else total
    return LevelSite(level, tuple(terms), entry, tuple(contributions), total, result)


def _normed(total: fx.Node, term: Term) -> fx.Node:
    """The norm of a term, of `total` in place of the term's own sum."""
    for node in term.norms:
        node.replace_input_with(term.total, total)
    return term.norms[-1]


def _place_term(term: Term, state: fx.Node, *, needs_result: bool) -> fx.Node:
    """Let a term read `state`; return the state after it, or `state` where nobody needs that."""
    for node in term.inner:
        node.replace_input_with(term.skip, state)
    if not needs_result:
        return state
    term.add.replace_input_with(term.skip, state)
    return term.result


def _contribution(module: fx.GraphModule, term: Term, state: fx.Node, *, bare: bool) -> fx.Node:
    """What a term adds to the state it reads: f(x), f(x) + g(x), or N(x + f(x)) - x where a norm of its own follows."""
    if bare or not term.norms:
        return _sum(module, term.output, term.joined)
    with module.graph.inserting_after(term.result):
        contribution = module.graph.call_function(aten.sub.Tensor, (term.result, state))
    contribution.meta["val"] = state.meta.get("val")
    return contribution


def _sum(module: fx.GraphModule, entry: fx.Node, contributions: Sequence[fx.Node]) -> fx.Node:
    """`entry` and all contributions added up, from left to right."""
    total = entry
    for contribution in contributions:
        with module.graph.inserting_after(contribution):
            total = module.graph.call_function(ADD, (total, contribution))
        total.meta["val"] = entry.meta.get("val")
    return total
