"""What is checked of every architecture, on the captured graph and one batch of random inputs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from torch import Tensor, fx

from benchmarks.zoo.entry import Kinds
from passes.apply_plan import rewrite
from passes.infra import flat_outputs, largest_change
from passes.picard import picard
from passes.plan import Form, Plan, StackPlan, grouped, serial
from passes.stacks import Stack


def kinds(stacks: Sequence[Stack]) -> list[Kinds]:
    """Terms by kind, stack by stack."""
    return [dict(Counter(term.kind for term in stack.terms)) for stack in stacks]


def serial_plan(stacks: Sequence[Stack]) -> Plan:
    """The network as it was captured."""
    return Plan(tuple(serial(len(stack.terms)) for stack in stacks))


def pairs_plan(stacks: Sequence[Stack], form: Form) -> Plan:
    """Neighbouring blocks two by two; a last block without a neighbour stays alone."""
    return Plan(tuple(_pairs(stack, form) for stack in stacks))


def _pairs(stack: Stack, form: Form) -> StackPlan:
    blocks = stack.blocks
    return grouped(len(stack.terms), [blocks[i : i + 2] for i in range(0, len(blocks), 2)], form)


def is_serial_to_the_bit(module: fx.GraphModule, stacks: Sequence[Stack], inputs: Sequence[Tensor]) -> bool:
    """Whether the serial schedule computes what the captured graph computes, to the bit."""
    scheduled, _ = rewrite(module, serial_plan(stacks))
    pairs = zip(flat_outputs(module, inputs), flat_outputs(scheduled, inputs), strict=True)
    return all(before.equal(after) for before, after in pairs)


def picard_error(module: fx.GraphModule, stacks: Sequence[Stack], inputs: Sequence[Tensor]) -> float:
    """The largest relative error of any stack after as many Picard rounds as it has terms; exact rewrites have none."""
    before = flat_outputs(module, inputs)
    return max(
        (largest_change(before, picard(module, stack, inputs, len(stack.terms))) for stack in stacks), default=0.0
    )
