"""A network among others that came of the same model: what it computes, the plan that made it, and how deep it is.

Depth is that of the stacks, by the longest path through them. Terms are what a plan places on levels. Blocks are what a
user counts; those of a stack are its terms over the terms of a block, rounded up.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from torch import fx

from parallelize.models.program import Program
from passes.graph.measures import critical_gemms, parameter_count
from passes.plan import Plan
from passes.stacks.stack_graph import StackGraph


@dataclass(frozen=True, eq=False)
class Network:
    """One network; it equals itself alone.

    Attributes:
        name: what it is called among the others.
        program: what it computes.
        plan: its schedule of the model's terms; None where it is no such schedule.
        depth_terms: terms on the longest path through its stacks.
        depth_blocks: blocks on that path, rounded up.
    """

    name: str
    program: Program
    plan: Plan | None
    depth_terms: int
    depth_blocks: int

    @staticmethod
    def of(name: str, program: Program, plan: Plan, graph: StackGraph) -> Network:
        """A network that a plan made of the model with these stacks."""
        return Network(name, program, plan, graph.terms(plan), graph.blocks(plan))

    @property
    def module(self) -> fx.GraphModule:
        """The graph."""
        return self.program.module

    @cached_property
    def parameters(self) -> int:
        """Numbers that it stores."""
        return parameter_count(self.module)

    @cached_property
    def critical_gemms(self) -> int:
        """Matrix products on the critical path of the whole graph."""
        return critical_gemms(self.module)


class Described(Protocol):
    """What is told of a network; a `Network` tells it, and so do its facts where the network itself is gone."""

    @property
    def name(self) -> str: ...  # noqa: D102  (as `Network`)

    @property
    def depth_terms(self) -> int: ...  # noqa: D102

    @property
    def depth_blocks(self) -> int: ...  # noqa: D102

    @property
    def parameters(self) -> int: ...  # noqa: D102

    @property
    def critical_gemms(self) -> int: ...  # noqa: D102


@dataclass(frozen=True)
class NetworkFacts:
    """What is told of a network, without its graph and weights; attributes as those of `Network`."""

    name: str
    depth_terms: int
    depth_blocks: int
    parameters: int
    critical_gemms: int

    @staticmethod
    def of(network: Described) -> NetworkFacts:
        """Those of a network."""
        return NetworkFacts(
            network.name, network.depth_terms, network.depth_blocks, network.parameters, network.critical_gemms
        )
