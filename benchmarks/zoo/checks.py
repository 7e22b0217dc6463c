"""What is checked of every architecture, on the captured graph and one batch of random inputs."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, fx

from benchmarks.zoo.entry import Entry, Kinds
from parallelize.models.clean import clean
from parallelize.models.program import Program
from passes.graph.agreement import largest_change
from passes.graph.measures import critical_gemms
from passes.graph.outputs import flat_outputs
from passes.plan import Form, Plan, StackPlan, grouped, serial
from passes.registry import FUSION
from passes.runner import run_passes
from passes.schedule.apply_plan import ApplyPlan, rewrite
from passes.schedule.picard import picard
from passes.stacks.find import Stack, find_stacks


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


def eager_error(entry: Entry, program: Program) -> float:
    """The largest relative difference of the captured graph from the model itself, float64."""
    inputs = entry.inputs(torch.float64)
    with torch.no_grad():
        expected = program.flat_outputs(entry.model(torch.float64)(**inputs))
    return largest_change(expected, flat_outputs(program.module, list(inputs.values())))


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


def longest_path(module: fx.GraphModule, counted: set[fx.Node]) -> int:
    """How many of the nodes in `counted` lie on the path that has most of them."""
    length: dict[fx.Node, int] = {}
    for node in module.graph.nodes:
        before = max((length[source] for source in node.all_input_nodes), default=0)
        length[node] = before + (node in counted)
    return max(length.values(), default=0)


def operators(module: fx.GraphModule) -> int:
    """Operators of the graph; inputs, parameters and the output are none."""
    return sum(node.op == "call_function" for node in module.graph.nodes)


@dataclass(frozen=True)
class Fusion:
    """Pairs of blocks side by side, then their width fused, in float64.

    Attributes:
        sums: how many sums became one wide operation.
        present: branches that meet in a sum or a concatenation.
        left: why a branch was left as it is, one reason for each.
        error: the largest relative change of the outputs by fusion.
        finite: whether all outputs are.
        products: matrix products on the longest path.
        operators: operators of the fused graph.
    """

    sums: int
    present: int
    left: tuple[str, ...]
    error: float
    finite: bool
    products: int
    operators: int

    @property
    def fused(self) -> int:
        """Branches that run in one operation with others."""
        return self.present - len(self.left)


def fuse(module: fx.GraphModule, form: Form, inputs: Sequence[Tensor]) -> Fusion:
    """Pairs of blocks in one form, fused; a network that is parallel already is fused as it is."""
    paired, _ = run_passes(module, [ApplyPlan(pairs_plan(find_stacks(module).stacks, form))])
    fused, records = run_passes(paired, FUSION, inputs)
    record = records[0]
    outputs = flat_outputs(fused, inputs)
    errors = [step.error for step in records if step.error is not None]
    return Fusion(
        len(record.matches),
        len(record.present),
        tuple(skip.reason for skip in record.skipped),
        max(errors),
        all(bool(output.isfinite().all()) for output in outputs if output.is_floating_point()),
        critical_gemms(fused),
        operators(fused),
    )


def onnx_error(entry: Entry) -> float:
    """The largest relative difference of the fused pairs in ONNX Runtime from the same graph in PyTorch, float32."""
    from parallelize.backends.onnxruntime.session import OnnxRuntime
    from parallelize.export.onnx import write_onnx

    program, _ = clean(entry.capture())
    plan = pairs_plan(find_stacks(program.module).stacks, "sublayer")
    module, _ = run_passes(program.module, [ApplyPlan(plan), *FUSION])
    fused = Program(module, program.inputs, program.outputs, program.origin)
    inputs = list(entry.inputs(seed=2).values())
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "model.onnx"
        write_onnx(fused, path)
        return largest_change(flat_outputs(module, inputs), OnnxRuntime(path, threads=1)(inputs))
