"""Which groups of blocks width fusion makes into single operations: what does not fuse gains nothing.

Branches of a level that stay as they are run one after another on a GPU, so that a group is only as deep as one block
where every branch of its levels is fused. Fusing needs branches of equal structure, which is the same for all of a
group where it is so for each two neighbours. So pairs of neighbouring blocks are tried, dry and without data, each
form once for blocks of the same signatures.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from torch import fx

from parallelize.planning.forms import OWN_NORMS, GroupForm, forms, sublayer
from passes.fusion.fuse_width import FuseWidth
from passes.graph.editing import clone, eliminate_dead_code
from passes.plan import Level, Plan, StackPlan, serial
from passes.runner import PassResult
from passes.schedule.apply_plan import schedule
from passes.schedule.sites import StackSite
from passes.stacks.find import Stack
from passes.stacks.terms import Term

_ALONE = re.compile(r"\b1 x (\w+)")  # in a line of fuse-width, a group of one branch


class Fusibility:
    """Says of the groups of one model's stacks whether they fuse.

    Attributes:
        left: for each stack with groups that do not fuse the first reason.
    """

    def __init__(self, teacher: fx.GraphModule, stacks: Sequence[Stack]) -> None:
        self.teacher, self.stacks = teacher, tuple(stacks)
        self.left: dict[int, str] = {}
        self._reasons: dict[tuple[object, ...], str | None] = {}

    def why_not(self, number: int, form: GroupForm) -> str | None:
        """Why a group of one stack in this form is as deep as its blocks one after another, or None if it fuses.

        Args:
            number: of the stack.
            form: the group; a serial block and deletion need no fusion.
        """
        if all(len(level.chains) == 1 for level in form.levels):
            return None
        if form.kind == "GPT-J" and form.last - form.first > 1:  # its halves hold blocks that fuse as in sublayer form
            wide = self.why_not(number, sublayer(self.stacks[number], form.first, form.last))
            if wide is not None:
                return wide
        pairs = (_like(form, self.stacks[number], first) for first in range(form.first, form.last))
        reasons = (self._of_pair(number, pair) for pair in pairs)
        reason = next((reason for reason in reasons if reason is not None), None)
        if reason is not None:
            self.left.setdefault(number, reason)
        return reason

    def _of_pair(self, number: int, form: GroupForm) -> str | None:
        stack = self.stacks[number]
        blocks = stack.blocks[form.first : form.last + 1]
        signatures = tuple(tuple(stack.terms[term].signature for term in block) for block in blocks)
        key = (form.kind, signatures)
        if key not in self._reasons:
            self._reasons[key] = self._tried(number, form)
        return self._reasons[key]

    def _tried(self, number: int, form: GroupForm) -> str | None:
        """Fuse the model with only this pair side by side, dry."""
        stack = self.stacks[number]
        ahead = [Level(((term,),)) for block in stack.blocks[: form.first] for term in block]
        behind = [Level(((term,),)) for block in stack.blocks[form.last + 1 :] for term in block]
        part = StackPlan(len(stack.terms), (*ahead, *form.levels, *behind))
        others = [serial(len(other.terms)) for other in self.stacks]
        module = clone(self.teacher)
        sites = schedule(module, Plan((*others[:number], part, *others[number + 1 :])))
        eliminate_dead_code(module)
        added = _added(sites[number], len(ahead), len(form.levels))
        return _why_left(added, FuseWidth(dry=True).apply(module), alone=form.kind == "GPT-J")


def _like(form: GroupForm, stack: Stack, first: int) -> GroupForm:
    """Two neighbouring blocks in the form of a group."""
    pair = next(each for each in forms(stack, first, first + 1) if each.kind == form.kind.removesuffix(OWN_NORMS))
    if form.kind.endswith(OWN_NORMS):
        return replace(pair, name=form.name, levels=tuple(replace(level, shared=False) for level in pair.levels))
    return pair


def _added(site: StackSite, first: int, count: int) -> list[set[str]]:
    """For each level of several chains the names of what its terms compute, whose last are the branches of its sum."""
    levels = [level for level in site.levels[first : first + count] if len(level.level.chains) > 1]
    return [
        {node.name for node in (*level.contributions, *(node for term in level.terms for node in _made(term)))}
        for level in levels
    ]


def _made(term: Term) -> Iterator[fx.Node]:
    """What a term computes, its norm and joined sums among it."""
    yield from (*term.inner, *term.post)


def _why_left(levels: Sequence[set[str]], result: PassResult, *, alone: bool) -> str | None:
    """The reason of the first branch that is not fused, or None where each level has branches and all of them are.

    A branch that is `alone` in its structure shares its last product with others, which is all that is wanted of
    attention beside MLP, and not enough elsewhere.
    """
    changed = set(result.changed)
    single = {name for line in result.matches for name in _ALONE.findall(line)}
    for names in levels:
        reason = next((skip.reason for skip in result.skipped if skip.node in names), None)
        if reason is not None:
            return reason
        if names.isdisjoint(changed):
            return "width fusion finds no branches in it"
        if not alone and (lone := sorted(names & single)):
            return f"{lone[0]} is computed as no other branch is, and shares its last product only"
    return None
