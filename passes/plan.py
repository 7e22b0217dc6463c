"""Plans are data: for each residual stack, which terms run on which level.

A **level** reads x, the sum of everything before it, and holds **chains**, short serial runs of terms:

    y = x + sum_chains (chain(x) - x)

The serial network has one chain of one term on each level; the sublayer form puts several one-term chains on a level;
the block form (Para-Former) puts several chains of whole blocks on a level. A term on no level is deleted.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from passes.errors import ParallelizeError

FORMAT = "parallelize-plan/1"
Refit = Literal["none", "affine", "full"]
Form = Literal["sublayer", "block"]
Chain = tuple[int, ...]
REFITS: tuple[Refit, ...] = ("none", "affine", "full")


@dataclass(frozen=True)
class Level:
    """Chains that run side by side; a number in a chain is the index of a term in its stack.

    Attributes:
        chains: what runs side by side.
        shared: whether the terms' norms N after the add (post-norm) give way to one, that of the last term:
            y = N(x + sum f) in place of y = x + sum (N(x + f) - x).
    """

    chains: tuple[Chain, ...]
    shared: bool = False

    @property
    def terms(self) -> tuple[int, ...]:
        """All terms of the level, in the order of the serial network."""
        return tuple(sorted(term for chain in self.chains for term in chain))

    @property
    def depth(self) -> int:
        """Terms that must wait for each other."""
        return max(len(chain) for chain in self.chains)


@dataclass(frozen=True)
class StackPlan:
    """The schedule of one stack of `terms` terms.

    Attributes:
        levels: from the input of the stack to its output.
        refit: how strong a closed-form refit each level may get ("none", "affine", "full").
    """

    terms: int
    levels: tuple[Level, ...]
    refit: Refit = "none"

    @property
    def depth(self) -> int:
        """Terms on the critical path."""
        return sum(level.depth for level in self.levels)

    @property
    def deleted(self) -> tuple[int, ...]:
        """Terms that no level runs."""
        placed = {term for level in self.levels for term in level.terms}
        return tuple(term for term in range(self.terms) if term not in placed)

    def complete_prefixes(self) -> Iterator[tuple[int, int]]:
        """(level, n) for each level after which exactly the first n terms have run; deleted terms count as run."""
        waiting = {term for level in self.levels for term in level.terms}
        last = -1
        for number, level in enumerate(self.levels):
            waiting -= set(level.terms)
            last = max(last, *level.terms)
            following = min(waiting, default=self.terms)
            if last < following:
                yield number, following

    @property
    def is_serial(self) -> bool:
        """Whether this is the network as it was captured."""
        return self.levels == serial(self.terms).levels

    def check(self) -> None:
        """Refuse a schedule that no network can run.

        Raises:
            ParallelizeError: an unknown or repeated term, an empty level, or a term before one it reads.
        """
        hint = (
            "Each level lists chains, each chain lists term numbers from 0; every term at most once, in serial order."
        )
        seen: set[int] = set()
        last = -1
        for number, level in enumerate(self.levels):
            if not level.chains or not all(level.chains):
                raise ParallelizeError(f"Level {number} of the plan has an empty chain.", hint)
            for term in (term for chain in level.chains for term in chain):
                if not 0 <= term < self.terms:
                    raise ParallelizeError(f"The plan names term {term}, the stack has {self.terms} terms.", hint)
                if term in seen:
                    raise ParallelizeError(f"The plan runs term {term} twice.", hint)
                seen.add(term)
            if any(chain != tuple(sorted(chain)) for chain in level.chains):
                raise ParallelizeError(f"A chain of level {number} of the plan is not in serial order.", hint)
            first = min(min(chain) for chain in level.chains)
            if first < last:
                raise ParallelizeError(f"Level {number} of the plan begins before the level ahead of it.", hint)
            last = first
        if self.refit not in REFITS:
            raise ParallelizeError(f"The plan asks for the refit {self.refit!r}.", f"It is one of {', '.join(REFITS)}.")


@dataclass(frozen=True)
class Plan:
    """What to do with every stack of a model, in the order in which the stacks were found.

    Attributes:
        seed: seeds the split of the data, so that a replay fits on the same samples.
    """

    stacks: tuple[StackPlan, ...]
    seed: int = 0

    @property
    def is_serial(self) -> bool:
        """Whether nothing is scheduled: every stack is as it was captured."""
        return all(stack.is_serial for stack in self.stacks)

    def with_refit(self, refit: Refit) -> Plan:
        """The same schedules with another strength of refit."""
        return replace(self, stacks=tuple(replace(stack, refit=refit) for stack in self.stacks))

    def to_json(self) -> str:
        """Readable, hand-editable JSON: one level a line."""
        lines = []
        for stack in self.stacks:
            levels = ",\n".join(f"        {json.dumps(_plain(level))}" for level in stack.levels)
            head = f'      "terms": {stack.terms},\n      "refit": {json.dumps(stack.refit)},\n'
            lines.append(f'    {{\n{head}      "levels": [\n{levels}\n      ]\n    }}')
        return (
            f'{{\n  "format": "{FORMAT}",\n  "seed": {self.seed},\n  "stacks": [\n' + ",\n".join(lines) + "\n  ]\n}\n"
        )

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Read a plan.

        Raises:
            ParallelizeError: not JSON, another format, a missing part, or a schedule that cannot run.
        """
        hint = "Take plan.json from an output directory of `parallelize convert` as the pattern."
        try:
            value: dict[str, Any] = json.loads(text)
            if value["format"] != FORMAT:
                raise ParallelizeError(f"The plan has the format {value['format']!r}, not {FORMAT!r}.", hint)
            stacks = tuple(
                StackPlan(
                    int(stack["terms"]),
                    tuple(_level(level) for level in stack["levels"]),
                    stack.get("refit", "none"),
                )
                for stack in value["stacks"]
            )
            plan = cls(stacks, int(value.get("seed", 0)))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ParallelizeError(f"The plan cannot be read: {type(error).__name__} {error}.", hint) from error
        for stack in plan.stacks:
            stack.check()
        return plan


def _plain(level: Level) -> Any:
    """A level as it stands in JSON: its chains, or an object where its norm is shared."""
    chains = [list(chain) for chain in level.chains]
    return {"chains": chains, "norm": "shared"} if level.shared else chains


def _level(value: Any) -> Level:
    chains = value["chains"] if isinstance(value, dict) else value
    norm = value.get("norm", "each") if isinstance(value, dict) else "each"
    if norm not in ("each", "shared"):
        raise ValueError(f"a level has the norm {norm!r}, not 'each' or 'shared'")
    return Level(tuple(tuple(int(term) for term in chain) for chain in chains), norm == "shared")


def serial(terms: int) -> StackPlan:
    """The network as it was captured: one term on each level."""
    return StackPlan(terms, tuple(Level(((term,),)) for term in range(terms)))


def grouped(
    terms: int, groups: Iterable[Sequence[Sequence[int]]], form: Form = "sublayer", refit: Refit = "none"
) -> StackPlan:
    """Run groups of blocks side by side.

    Args:
        terms: terms in the stack.
        groups: groups in serial order; a group is blocks, a block is its terms (attention and MLP, say). Blocks of
            one group are of equal length in sublayer form.
        form: "sublayer" puts the first terms of all blocks of a group on one level, then the second terms, and so
            on; "block" puts every block of a group, as one chain, on a single level.
        refit: strength of the refit that the levels may get.
    """
    levels: list[Level] = []
    for blocks in groups:
        if form == "block" and len(blocks) > 1:
            levels.append(Level(tuple(tuple(block) for block in blocks)))
            continue
        length = max(len(block) for block in blocks)
        levels.extend(Level(tuple((block[p],) for block in blocks if p < len(block))) for p in range(length))
    plan = StackPlan(terms, tuple(levels), refit)
    plan.check()
    return plan
