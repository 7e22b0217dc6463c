"""Every architecture of the zoo: it is captured, its stacks are found, and its blocks can run side by side in pairs."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, fx

from benchmarks.zoo import ZOO
from benchmarks.zoo.checks import is_serial_to_the_bit, kinds, pairs_plan, picard_error
from parallelize.cleaning import clean
from parallelize.program import Program
from passes import operators as ops
from passes.apply_plan import ApplyPlan, rewrite
from passes.dataflow import tensor_inputs
from passes.fuse_width import FuseWidth
from passes.infra import clone, flat_outputs, largest_change, run_passes
from passes.picard import picard
from passes.plan import Form
from passes.remove_identities import RemoveIdentities
from passes.stacks import Stacks, find_stacks

pytest.importorskip("transformers")
ALTERNATING = {"swin"}  # neighbouring blocks have windows in two places, so their attentions are not alike
NAMES = [pytest.param(name, marks=pytest.mark.slow) if entry.slow else name for name, entry in ZOO.items()]


@dataclass(frozen=True)
class _Captured:
    program: Program
    found: Stacks
    inputs: tuple[Tensor, ...]
    outputs: Sequence[Tensor]

    @property
    def module(self) -> fx.GraphModule:
        return self.program.module


@functools.cache
def _captured(name: str) -> _Captured:
    entry = ZOO[name]
    program = entry.capture(torch.float64)
    inputs = tuple(entry.inputs(torch.float64).values())
    return _Captured(program, find_stacks(program.module), inputs, flat_outputs(program.module, inputs))


@pytest.mark.parametrize("name", NAMES)
def test_the_captured_graph_computes_what_the_model_computes_with_every_dimension_left_free(name: str) -> None:
    entry, captured = ZOO[name], _captured(name)
    for spec, feed in zip(captured.program.inputs, entry.feeds.values(), strict=True):
        free = {axis: size for axis, size in enumerate(spec.shape) if isinstance(size, str)}
        assert free == dict(feed.dims)
    with torch.no_grad():
        expected = captured.program.flat_outputs(entry.model(torch.float64)(**entry.inputs(torch.float64)))
    assert largest_change(expected, captured.outputs) < 1e-12


@pytest.mark.parametrize("name", NAMES)
def test_its_stacks_have_the_right_terms_and_every_other_residual_add_is_refused_with_the_reason(name: str) -> None:
    entry, found = ZOO[name], _captured(name).found
    assert kinds(found.stacks) == list(entry.stacks)
    assert len(found.refused) == len(entry.refused)
    for refusal, words in zip(found.refused, entry.refused, strict=True):
        assert refusal.node in refusal.reason
        assert words in refusal.reason


@pytest.mark.parametrize("name", NAMES)
def test_the_serial_schedule_is_the_captured_graph_to_the_bit(name: str) -> None:
    captured = _captured(name)
    assert is_serial_to_the_bit(captured.module, captured.found.stacks, captured.inputs)


@pytest.mark.parametrize("name", NAMES)
def test_as_many_picard_rounds_as_terms_give_the_serial_network(name: str) -> None:
    captured = _captured(name)
    assert picard_error(captured.module, captured.found.stacks, captured.inputs) < 1e-10
    for stack in captured.found.stacks:
        once = picard(captured.module, stack, captured.inputs, 1)
        assert (largest_change(captured.outputs, once) > 1e-6) == (len(stack.terms) > 1)


@pytest.mark.parametrize("form", ["sublayer", "block"])
@pytest.mark.parametrize("name", NAMES)
def test_pairs_of_blocks_run_side_by_side(name: str, form: Form) -> None:
    captured = _captured(name)
    plan = pairs_plan(captured.found.stacks, form)
    rewritten, _ = rewrite(captured.module, plan)
    outputs = flat_outputs(rewritten, captured.inputs)
    assert [output.shape for output in outputs] == [output.shape for output in captured.outputs]
    assert all(output.isfinite().all() for output in outputs)
    assert (largest_change(captured.outputs, outputs) > 1e-6) == any(not part.is_serial for part in plan.stacks)


@pytest.mark.parametrize("form", ["sublayer", "block"])
@pytest.mark.parametrize("name", NAMES)
def test_pairs_of_blocks_are_fused_with_the_same_numbers_and_half_the_products(name: str, form: Form) -> None:
    captured = _captured(name)
    program, _ = clean(captured.program, captured.inputs)
    found = find_stacks(program.module)
    assert kinds(found.stacks) == kinds(captured.found.stacks)
    plan = pairs_plan(found.stacks, form)
    paired, _ = run_passes(program.module, [ApplyPlan(plan)])
    fused, (record,) = run_passes(paired, [FuseWidth()], captured.inputs)
    assert largest_change(flat_outputs(paired, captured.inputs), flat_outputs(fused, captured.inputs)) < 1e-10
    assert bool(record.matches) != all(part.is_serial for part in plan.stacks) or not found.stacks
    assert bool(record.skipped) == (name in ALTERNATING and form == "sublayer")


@pytest.mark.parametrize("name", NAMES)
def test_operators_that_do_nothing_change_no_stack(name: str) -> None:
    captured = _captured(name)
    cleaned = clone(captured.module)
    RemoveIdentities().apply(cleaned)
    found = find_stacks(cleaned)
    assert kinds(found.stacks) == kinds(captured.found.stacks)
    assert [stack.blocks for stack in found.stacks] == [stack.blocks for stack in captured.found.stacks]
    assert [refusal.node for refusal in found.refused] == [refusal.node for refusal in captured.found.refused]


@pytest.mark.parametrize("name", NAMES)
def test_every_add_behind_a_matrix_product_is_a_term_or_inside_one_or_refused(name: str) -> None:
    captured = _captured(name)
    told = {refusal.node for refusal in captured.found.refused}
    for term in (term for stack in captured.found.stacks for term in stack.terms):
        told.update(node.name for node in (term.add, *term.post, *term.inner))
    silent: list[str] = []
    for node in reversed(list(_adds_behind_products(captured.module))):
        if node.name in told or any(user.name in told for user in node.users if user.target in ops.ADDS):
            told.add(node.name)  # the operands of a sum are told with the sum
        else:
            silent.append(node.name)
    assert silent == []


def _adds_behind_products(module: fx.GraphModule) -> Iterator[fx.Node]:
    """Adds of two tensors that depend on the model's inputs, one of them by way of a matrix product or convolution."""
    data: set[fx.Node] = set()
    behind: set[fx.Node] = set()
    for node in module.graph.nodes:
        sources = list(tensor_inputs(node))
        if node.op == "placeholder" or not data.isdisjoint(sources):
            data.add(node)
        if ops.gemms(node) or not behind.isdisjoint(sources):
            behind.add(node)
        if node.target in ops.ADDS and len(sources) == 2 and data.issuperset(sources) and node in behind:
            yield node
