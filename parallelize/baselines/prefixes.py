"""Prefixes of a network whose branches are side by side: the network of each, and one that answers after each.

    prefix 2 of 8     the first two branches of the last level, fused
    every prefix      all branches, fused, with an output after each prefix that was chosen

Each is made when it is asked for, of the network before width fusion, with which it shares the weights that fusion does
not put side by side.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from torch import fx

from parallelize.data.tensor_spec import TensorSpec
from parallelize.models.network import Network
from parallelize.models.program import Program
from parallelize.refitting.prefix_rest import RestOfLevel
from passes.clean.merge_duplicates import MergeDuplicates
from passes.clean.merge_pieces import MergePieces
from passes.errors import ParallelizeError
from passes.graph.editing import clone, finish
from passes.graph.outputs import flat_leaves
from passes.plan import Plan
from passes.prefixes.keep_prefix import KeepPrefix
from passes.prefixes.level import last_level
from passes.prefixes.prefix_outputs import PrefixOutputs, prefix_name, returns_of
from passes.prefixes.rest import Rest
from passes.registry import FUSION
from passes.runner import Pass, run_passes
from passes.schedule.apply_plan import ApplyPlan
from passes.stacks.stack_graph import StackGraph

EVERY = "every prefix"


@dataclass(frozen=True)
class Prefixes:
    """Which prefixes of a network are made.

    Attributes:
        level: the node in which the last level ends.
        branches: that the level has.
        counts: how many branches each of them has, rising.
        networks: whether each is a network of its own that is written.
        outputs: whether there is one that answers after each.
        every_output: the names of its outputs.
        rest: foretells what is missing in prefixes that no training has meant; None leaves it out.
    """

    level: str
    branches: int
    counts: tuple[int, ...]
    networks: bool
    outputs: bool
    every_output: tuple[str, ...]
    rest: RestOfLevel | None = None

    def name(self, count: int) -> str:
        """What the network of a prefix is called among others."""
        return f"prefix {count} of {self.branches}"

    @property
    def names(self) -> dict[str, int]:
        """Those of all networks, and how many branches they have."""
        return {self.name(count): count for count in self.counts}

    def program(self, apart: Program, name: str) -> Program:
        """The network of a name, fused."""
        rest = None if self.rest is None else self.rest(apart)
        return with_every(apart, self.counts, rest) if name == EVERY else of_prefix(apart, self.names[name], rest)

    def made(self, apart: Program, plan: Plan, graph: StackGraph) -> Iterator[Network]:
        """Every network, one after another."""
        for name in (*self.names, *([EVERY] if self.outputs else [])):
            yield Network.of(name, self.program(apart, name), plan, graph)


def prefixes_of(program: Program, plan: Plan, counts: tuple[int, ...], *, networks: bool, outputs: bool) -> Prefixes:
    """Find the level that a plan makes, and hold the prefixes that were asked for against it.

    Args:
        program: the captured model.
        plan: its schedule.
        counts: that were asked for; empty is all.
        networks: whether each is a network of its own that is written.
        outputs: whether there is one that answers after each.

    Raises:
        ParallelizeError: there is no level of several branches, or it has no such prefix.
    """
    module = program.module if plan.is_serial else run_passes(program.module, [ApplyPlan(plan)])[0]
    try:
        level = last_level(module)
    except ParallelizeError as error:
        raise ParallelizeError(f"{program.origin} has no prefixes: {_lowered(str(error))}", error.hint) from error
    level.require(counts)
    counts = counts or tuple(range(1, level.count + 1))
    names = tuple(spec.name for spec in _every_spec(replace(program, module=module), counts))
    return Prefixes(level.root.name, level.count, counts, networks, outputs, names)


def _lowered(sentence: str) -> str:
    return sentence[0].lower() + sentence[1:]


def of_prefix(apart: Program, count: int, rest: Rest | None = None) -> Program:
    """The network of the first branches, fused."""
    steps: list[Pass] = [KeepPrefix(count, rest), MergeDuplicates(), *FUSION]
    return replace(apart, module=run_passes(apart.module, steps)[0], original=None)


def with_every(apart: Program, counts: tuple[int, ...], rest: Rest | None = None) -> Program:
    """The network that answers after each of these prefixes, fused; an output has the name of one with its prefix."""
    names = tuple(spec.name for spec in apart.outputs)
    steps: list[Pass] = [PrefixOutputs(counts, names, rest), *FUSION, MergePieces()]
    module, outputs = run_passes(apart.module, steps)[0], _every_spec(apart, counts)
    return replace(apart, module=module, outputs=outputs, original=None)


def _every_spec(apart: Program, counts: tuple[int, ...]) -> tuple[TensorSpec, ...]:
    """The outputs of the network that answers after each prefix."""
    return tuple(
        replace(spec, name=prefix_name(spec.name, count)) if varies else spec
        for spec, varies in zip(apart.outputs, returns_of(apart.module), strict=True)
        for count in (counts if varies else counts[:1])
    )


def last_answers(every: Program, like: Program) -> fx.GraphModule:
    """A network that answers after each prefix, with the answers of the last one alone, in the order of `like`."""
    names = [spec.name for spec in every.outputs]
    places = [max(place for place, name in enumerate(names) if _is_of(name, spec.name)) for spec in like.outputs]
    module = clone(every.module)
    leaves = flat_leaves(module)
    (end,) = module.graph.find_nodes(op="output")
    end.args = (tuple(leaves[place] for place in places),)
    return finish(module)


def _is_of(name: str, output: str) -> bool:
    """Whether an output is one of the model's, of a prefix or as it is."""
    return name == output or name.rpartition("_prefix_")[0] == output
