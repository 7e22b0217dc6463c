"""A group of equal branches: node by node for the emitter, by name for a report, with the reason where refused."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import fx

from passes.fusion.branches import Branch
from passes.fusion.emitter import Branches, Emitter
from passes.fusion.layout import CannotLiftError
from passes.runner import Skip

Group = Sequence[Branch]


def aligned(group: Group, factors: Mapping[fx.Node, float] | None = None, tapped: Iterable[fx.Node] = ()) -> Branches:
    """The branches as the emitter wants them.

    Args:
        group: equal branches.
        factors: what a sum multiplies their outputs with.
        tapped: outputs that something beside the sum reads.
    """
    each = tuple(tuple((factors or {}).get(output, 1.0) for output in branch.outputs) for branch in group)
    return Branches(
        tuple(branch.nodes for branch in group),
        tuple(branch.outputs for branch in group),
        frozenset().union(*(branch.inner for branch in group)),
        each if any(factor != 1 for row in each for factor in row) else (),
        frozenset(tapped),
    )


def described(group: Group, emitter: Emitter) -> str:
    """Such as "2 x linear_1", with the operators that run branch by branch."""
    apart = f" ({', '.join(node.name for node in emitter.apart)} in each branch)" if emitter.apart else ""
    return f"{len(group)} x {' + '.join(output.name for output in group[0].outputs)}{apart}"


def outputs_of(groups: Iterable[Group]) -> tuple[str, ...]:
    """The names of all outputs of all branches."""
    return tuple(output.name for group in groups for branch in group for output in branch.outputs)


def refused(group: Group, error: CannotLiftError) -> list[Skip]:
    """The reason for each output of each branch."""
    return [Skip(name, str(error)) for name in outputs_of([group])]
