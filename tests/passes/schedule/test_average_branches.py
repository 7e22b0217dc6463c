"""Branches averaged: y = x + 1/g sum (chain(x) - x) on each level, and nothing else changes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from parallelize.data import Samples
from parallelize.metrics import predict
from parallelize.models.program import Program
from passes.errors import ParallelizeError
from passes.fusion.fuse_width import FuseWidth
from passes.graph.measures import operator_counts
from passes.graph.outputs import flat_outputs
from passes.plan import Plan
from passes.runner import run_passes
from passes.schedule.average_branches import AverageBranches, averaged
from tests.parallelize.small_models import (
    PostNorm,
    Residual,
    TwoStacks,
    capture_vectors,
    images,
    mlp,
    pairs,
    stack_plan,
    vectors,
    vision,
)

SAMPLES = vectors(20, 6, 0)


def _mlps(count: int) -> tuple[Residual, Program]:
    torch.manual_seed(0)
    model = Residual([mlp(6, 12) for _ in range(count)])
    return model, capture_vectors(model, 6)


def _output(program: Program, plan: Plan, samples: Samples = SAMPLES) -> Tensor:
    (output,) = predict(averaged(program.module, plan), samples)
    return output


def test_a_level_adds_the_mean_of_its_terms() -> None:
    model, program = _mlps(4)
    x = SAMPLES.arrays["x"]
    a, b, c, d = model.terms
    with torch.no_grad():
        x = x + (a(x) + b(x) + c(x)) / 3
        x = x + d(x)
    output = _output(program, stack_plan(4, [[[0], [1], [2]], [[3]]], "none"))
    torch.testing.assert_close(output, x, rtol=1e-12, atol=1e-12)


def test_a_level_goes_to_the_mean_of_what_its_chains_return_and_the_next_reads_that() -> None:
    model, program = _mlps(6)
    x = SAMPLES.arrays["x"]

    def chain(x: Tensor, *numbers: int) -> Tensor:
        for number in numbers:
            x = x + model.terms[number](x)
        return x

    with torch.no_grad():
        x = (chain(x, 0, 1) + chain(x, 2)) / 2
        x = (chain(x, 3) + chain(x, 4, 5)) / 2
    output = _output(program, stack_plan(6, [[[0, 1], [2]], [[3], [4, 5]]], "none"))
    torch.testing.assert_close(output, x, rtol=1e-12, atol=1e-12)


def test_post_norm_branches_are_averaged_with_their_norms() -> None:
    torch.manual_seed(0)
    model = PostNorm(3)
    program = capture_vectors(model, 6)
    x = SAMPLES.arrays["x"]
    with torch.no_grad():
        branches = [norm(x + term(x)) for term, norm in zip(model.terms, model.norms, strict=True)]
        expected = (branches[0] + branches[1]) / 2
        expected = model.norms[2](expected + model.terms[2](expected))
    output = _output(program, stack_plan(3, [[[0], [1]], [[2]]], "none"))
    torch.testing.assert_close(output, expected, rtol=1e-12, atol=1e-12)


def test_each_of_several_stacks_is_averaged() -> None:
    torch.manual_seed(0)
    model = TwoStacks()
    program = capture_vectors(model, 6)
    plans = [
        stack_plan(3, [[[0]], [[1], [2]]], "none").stacks[0],
        stack_plan(4, [[[0], [1]], [[2], [3]]], "none").stacks[0],
    ]
    x = SAMPLES.arrays["x"]
    with torch.no_grad():
        x = x + model.first.terms[0](x)
        x = x + (model.first.terms[1](x) + model.first.terms[2](x)) / 2
        x = torch.tanh(model.between(x))
        for first, second in ((0, 1), (2, 3)):
            x = x + (model.second.terms[first](x) + model.second.terms[second](x)) / 2
    torch.testing.assert_close(_output(program, Plan(tuple(plans))), x, rtol=1e-12, atol=1e-12)


def test_the_serial_schedule_leaves_the_numbers_to_the_bit() -> None:
    serial = stack_plan(8, [[[term]] for term in range(8)], "none")
    probe = next(iter(images(8, 0).batches(8)))
    before, after = (flat_outputs(module, probe) for module in (vision().module, averaged(vision().module, serial)))
    assert torch.equal(before[0], after[0])


def test_the_pass_says_on_how_many_levels_of_each_stack_it_took_a_mean() -> None:
    _, program = _mlps(4)
    for levels, matches in (([[[0], [1], [2]], [[3]]], 1), ([[[0]], [[1]], [[2]], [[3]]], 0)):
        plan = stack_plan(4, levels, "none")
        module, (record,) = run_passes(program.module, [AverageBranches(plan)])
        assert [match.split(", ")[1] for match in record.matches] == ["levels averaged: 1"] * matches
        (output,) = predict(module, SAMPLES)
        assert torch.equal(output, _output(program, plan))


def test_averaged_branches_fuse_as_summed_ones_do() -> None:
    module = averaged(vision().module, pairs("none"))
    fused, _ = run_passes(module, [FuseWidth()], next(iter(images(8, 0).batches(8))))
    assert operator_counts(fused)["aten.scaled_dot_product_attention.default"] == 2


def test_a_plan_for_another_model_is_refused() -> None:
    with pytest.raises(ParallelizeError, match="The plan has 4 terms"):
        averaged(vision().module, stack_plan(4, [[[0], [1], [2], [3]]], "none"))


def test_shapes_are_known_afterwards() -> None:
    module = averaged(vision().module, pairs("none"))
    nodes = [node for node in module.graph.nodes if node.op == "call_function"]
    assert all("val" in node.meta for node in nodes)
    assert isinstance(module, nn.Module)
