"""What a refit did, level by level."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from passes.plan import Refit
from passes.runner import Skip

ReadIns = tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class LevelRefit:
    """What the refit of one level chose.

    Attributes:
        strength: "none" where no change helped on held-out samples.
        ridge: the chosen ridge, 0 where none.
        before: relative error of the level's sum as scheduled, |y - target|^2 / |target|^2, on held-out samples.
        after: the same with the chosen changes, fitted without these samples.
        read_ins: for each term whose input is foretold, how much of the input's error is left, |..|^2 / |..|^2.
    """

    stack: str
    level: int
    strength: Refit
    ridge: float
    before: float
    after: float
    read_ins: ReadIns = ()
    skipped: tuple[Skip, ...] = ()


@dataclass(frozen=True)
class Refitted:
    """A rewritten and refitted graph.

    Attributes:
        module: the graph, its branches side by side.
        levels: one record for each level of a refitted stack.
        ends: states that should agree, a node's name in `module` and in the teacher: after each level up to which
            exactly the first terms of the stack have run.
    """

    module: fx.GraphModule
    levels: tuple[LevelRefit, ...]
    ends: tuple[tuple[str, str], ...] = ()
