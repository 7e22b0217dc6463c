"""The ways in which a group of neighbouring blocks is as deep as one block.

    sublayer   {a1..an} then {m1..mn}
    GPT-J      {a1, m1 .. ac, mc} then {ac+1, mc+1 .. an, mn}, two-term blocks only
    block      {(a1, m1) .. (an, mn)}, chains with states of their own
    deletion   one block runs, the others are deleted

Post-norm terms share one norm on each level, or keep their own. A level some of whose terms have none shares none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from passes.plan import Chain, Level, grouped
from passes.stacks.find import Stack

Span = tuple[int, int]  # first and last block of a group
OWN_NORMS = ", each its norm"  # at the end of the name of a form


@dataclass(frozen=True)
class GroupForm:
    """Blocks `first` to `last` of a stack on the levels of one block.

    Attributes:
        name: such as "sublayer" or "GPT-J, cut at 3".
        cut: the first block of the second half of a group in GPT-J form.
    """

    first: int
    last: int
    name: str
    levels: tuple[Level, ...]
    cut: int | None = None

    @property
    def kind(self) -> str:
        """The name without numbers."""
        return "GPT-J" if self.cut is not None else self.name

    @property
    def span(self) -> Span:
        """First and last block."""
        return self.first, self.last


def main_form(stack: Stack, first: int, last: int) -> GroupForm:
    """The form that is measured for every group: serial for one block, else GPT-J cut in the middle, or sublayer."""
    if first == last:
        return GroupForm(first, last, "serial", grouped(len(stack.terms), [[stack.blocks[first]]]).levels)
    if stack.period == 2:
        return gptj(stack, first, last, (first + last + 2) // 2)
    return sublayer(stack, first, last)


def forms(stack: Stack, first: int, last: int) -> Iterator[GroupForm]:
    """The forms that keep every term of a group, those that fuse into fewest operations first."""
    yield sublayer(stack, first, last)
    if stack.period > 1:
        yield block(stack, first, last)
    if stack.period == 2:
        yield gptj(stack, first, last, (first + last + 2) // 2)


def other_forms(stack: Stack, first: int, last: int, cut: int | None) -> Iterator[GroupForm]:
    """The other forms, for a group that is part of a promising schedule.

    Args:
        stack: the stack.
        first: first block.
        last: last block.
        cut: the cheapest cut so far; its neighbours are tried.
    """
    if first == last:
        return
    if cut is not None:
        yield sublayer(stack, first, last)
        yield from (gptj(stack, first, last, place) for place in (cut - 1, cut + 1) if first < place <= last)
    if stack.period > 1:
        yield block(stack, first, last)
    side_by_side = sublayer(stack, first, last).levels
    if any(level.shared for level in side_by_side):
        levels = tuple(Level(level.chains) for level in side_by_side)
        yield GroupForm(first, last, f"sublayer{OWN_NORMS}", levels)
    for kept in (first, last):
        yield deletion(stack, first, last, kept)


def deletion(stack: Stack, first: int, last: int, kept: int) -> GroupForm:
    """One block of the group, the others deleted."""
    return GroupForm(first, last, f"deletion of all but {kept}", tuple(Level(((t,),)) for t in stack.blocks[kept]))


def block(stack: Stack, first: int, last: int) -> GroupForm:
    """Every block a chain with a state of its own."""
    return GroupForm(first, last, "block", (_shared(stack, stack.blocks[first : last + 1]),))


def sublayer(stack: Stack, first: int, last: int) -> GroupForm:
    """The first terms of all blocks side by side, then the second terms, and so on."""
    levels = grouped(len(stack.terms), [stack.blocks[first : last + 1]]).levels
    return GroupForm(first, last, "sublayer", tuple(_shared(stack, level.chains) for level in levels))


def gptj(stack: Stack, first: int, last: int, cut: int) -> GroupForm:
    """Attentions and MLPs of the blocks before `cut` side by side, then those of the others."""
    runs = stack.blocks[first:cut], stack.blocks[cut : last + 1]
    levels = tuple(_shared(stack, [(term,) for block in run for term in block]) for run in runs)
    return GroupForm(first, last, f"GPT-J, cut at {cut}", levels, cut)


def alike(stack: Stack, first: int, last: int) -> bool:
    """Whether all blocks of a group have terms of the same kinds."""
    kinds = [[stack.terms[term].kind for term in stack.blocks[block]] for block in range(first, last + 1)]
    return all(kind == kinds[0] for kind in kinds)


def _shared(stack: Stack, chains: Sequence[Chain]) -> Level:
    """A level under one norm or activation where each of its terms ends in one."""
    return Level(tuple(chains), all(stack.terms[term].norms for chain in chains for term in chain))
