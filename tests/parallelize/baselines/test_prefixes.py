"""Prefixes of a network as programs: what they compute in float64, and what their outputs are called."""

from __future__ import annotations

import pytest
import torch

from parallelize.baselines.prefixes import EVERY, last_answers, prefixes_of
from parallelize.models.program import Program
from passes.errors import ParallelizeError
from passes.graph.outputs import flat_outputs
from passes.plan import Plan, serial
from passes.stacks.find import find_stacks
from passes.stacks.stack_graph import stack_graph
from tests.parallelize.branched import parallel
from tests.parallelize.small_models import Residual, capture_vectors, mlp, stack_plan, vectors

CLOSE = {"rtol": 1e-10, "atol": 1e-10}


def _unscheduled(program: Program) -> Plan:
    return stack_graph(find_stacks(program.module).stacks).serial_plan


def test_each_prefix_and_all_at_once_answer_alike() -> None:
    model, program = parallel()
    found = prefixes_of(program, _unscheduled(program), (1, 3), networks=True, outputs=True)
    assert (found.branches, found.names) == (3, {"prefix 1 of 3": 1, "prefix 3 of 3": 3})
    every = found.program(program, EVERY)
    assert [spec.name for spec in every.outputs] == ["logits_prefix_1", "logits_prefix_3", "doubled"]
    assert tuple(spec.name for spec in every.outputs) == found.every_output
    (x,) = vectors(4, 6, 0).batch(4)
    with torch.no_grad():
        expected = [model.head(x + model.terms[0](x)), model(x)["logits"], 2 * x]
    for value, wanted in zip(flat_outputs(every.module, [x]), expected, strict=True):
        torch.testing.assert_close(value, wanted, **CLOSE)
    for name, wanted in zip(found.names, expected, strict=False):
        torch.testing.assert_close(flat_outputs(found.program(program, name).module, [x])[0], wanted, **CLOSE)


def test_the_last_answers_are_those_of_the_network() -> None:
    _, program = parallel()
    found = prefixes_of(program, _unscheduled(program), (), networks=False, outputs=True)
    assert found.counts == (1, 2, 3)
    (x,) = vectors(4, 6, 0).batch(4)
    last = last_answers(found.program(program, EVERY), program)
    for value, wanted in zip(flat_outputs(last, [x]), flat_outputs(program.module, [x]), strict=True):
        torch.testing.assert_close(value, wanted, **CLOSE)


def test_prefixes_of_a_schedule_are_those_of_its_last_level_of_several_chains() -> None:
    torch.manual_seed(0)
    program = capture_vectors(Residual([mlp(6, 12) for _ in range(4)]), 6)
    plan = stack_plan(4, [[[0], [1], [2]], [[3]]], "none")
    assert prefixes_of(program, plan, (), networks=True, outputs=False).branches == 3
    with pytest.raises(ParallelizeError, match=r"vectors has no prefixes: the network has no level of several"):
        prefixes_of(program, Plan((serial(4),)), (), networks=True, outputs=False)
    with pytest.raises(ParallelizeError, match="no prefix of 4 branches"):
        prefixes_of(program, plan, (4,), networks=True, outputs=False)
