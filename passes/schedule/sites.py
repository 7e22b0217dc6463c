"""Where the levels of a schedule are in the rewritten graph."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from passes.plan import Level
from passes.stacks.terms import Term


@dataclass(frozen=True)
class LevelSite:
    """Where a level is in the rewritten graph.

    Attributes:
        terms: the level's terms in the order of `contributions`.
        entry: the state that the level reads.
        contributions: for each term, what it adds to the state: its output, or N(x + f(x)) - x beside other chains.
        sum: x and the contributions added up.
        result: the state after the level: `sum`, or a norm or activation of it.
    """

    level: Level
    terms: tuple[Term, ...]
    entry: fx.Node
    contributions: tuple[fx.Node, ...]
    sum: fx.Node
    result: fx.Node


@dataclass(frozen=True)
class StackSite:
    """The levels of one stack in the rewritten graph."""

    name: str
    levels: tuple[LevelSite, ...]
