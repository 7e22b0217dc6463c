"""Every architecture of the zoo: it is captured, its stacks are found, and its blocks can run side by side in pairs."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, fx

from benchmarks.zoo import ZOO
from benchmarks.zoo.checks import is_serial_to_the_bit, kinds, pairs_plan, picard_error
from benchmarks.zoo.measured import refusal_of_capture
from parallelize.models.clean import clean
from parallelize.models.program import Program
from passes.clean.remove_identities import RemoveIdentities
from passes.fusion.fuse_width import FuseWidth
from passes.graph.agreement import largest_change
from passes.graph.editing import clone
from passes.graph.outputs import flat_outputs
from passes.plan import Form
from passes.runner import run_passes
from passes.schedule.apply_plan import ApplyPlan, rewrite
from passes.schedule.picard import picard
from passes.stacks.accounting import unaccounted
from passes.stacks.find import Stacks, find_stacks

pytest.importorskip("transformers")
NAMES = [
    pytest.param(name, marks=pytest.mark.slow) if entry.slow else name
    for name, entry in ZOO.items()
    if not entry.uncaptured
]


@dataclass(frozen=True)
class _Captured:
    raw: Program
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
    raw = entry.capture(torch.float64)
    inputs = tuple(entry.inputs(torch.float64).values())
    program, _ = clean(raw, inputs)
    return _Captured(raw, program, find_stacks(program.module), inputs, flat_outputs(raw.module, inputs))


@pytest.mark.parametrize("name", NAMES)
def test_the_captured_graph_computes_what_the_model_computes_with_every_dimension_left_free(name: str) -> None:
    entry, captured = ZOO[name], _captured(name)
    for spec, feed in zip(captured.raw.inputs, entry.feeds.values(), strict=True):
        free = {axis: size for axis, size in enumerate(spec.shape) if isinstance(size, str)}
        assert free == dict(feed.dims)
    with torch.no_grad():
        expected = captured.raw.flat_outputs(entry.model(torch.float64)(**entry.inputs(torch.float64)))
    assert largest_change(expected, captured.outputs) < 1e-12


@pytest.mark.parametrize("name", NAMES)
def test_its_stacks_have_the_right_terms_and_every_other_residual_add_is_refused_with_the_reason(name: str) -> None:
    entry, found = ZOO[name], _captured(name).found
    if entry.stacks is None:
        return
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
    plan = pairs_plan(captured.found.stacks, form)
    paired, _ = run_passes(captured.module, [ApplyPlan(plan)])
    fused, (record,) = run_passes(paired, [FuseWidth()], captured.inputs)
    assert largest_change(flat_outputs(paired, captured.inputs), flat_outputs(fused, captured.inputs)) < 1e-10
    assert {*record.present} == {*record.changed, *(skip.node for skip in record.skipped)}
    side_by_side = [len(level.chains) for part in plan.stacks for level in part.levels if len(level.chains) > 1]
    assert len(record.present) >= sum(side_by_side)


@pytest.mark.parametrize("name", NAMES)
def test_operators_that_do_nothing_change_no_stack(name: str) -> None:
    raw = _captured(name).raw.module
    before = find_stacks(raw)
    cleaned = clone(raw)
    RemoveIdentities().apply(cleaned)
    after = find_stacks(cleaned)
    assert kinds(after.stacks) == kinds(before.stacks)
    assert [stack.blocks for stack in after.stacks] == [stack.blocks for stack in before.stacks]
    # a reason may name an operator that does nothing, or the one behind it
    ours, theirs = ([re.sub(r"_\d+\b", "", refusal.reason) for refusal in found.refused] for found in (after, before))
    assert ours == theirs


@pytest.mark.parametrize("name", NAMES)
def test_every_residual_sum_is_a_term_or_inside_one_or_refused(name: str) -> None:
    captured = _captured(name)
    assert unaccounted(captured.module, captured.found) == ()


@pytest.mark.parametrize(
    "name",
    [
        name if name == "encodec" else pytest.param(name, marks=pytest.mark.slow)
        for name, entry in ZOO.items()
        if entry.uncaptured
    ],
)
def test_what_is_in_the_way_of_a_capture_is_named(name: str) -> None:
    assert ZOO[name].uncaptured in refusal_of_capture(ZOO[name])
