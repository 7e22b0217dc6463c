"""What a refit leaves as it was: serial networks, teachers, samples, the size of a batch."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, fx

from parallelize.models.program import Program
from parallelize.models.states import placeholders, run_segment
from parallelize.refitting.refit import refit
from passes.graph.segment import extract
from passes.plan import Plan, Refit, serial
from passes.schedule.apply_plan import rewrite
from passes.stacks.find import find_stacks
from tests.parallelize.refitting.four_mlps import FIT, HELD_OUT, HIDDEN, IMAGES, JUDGE, WIDTH, outputs, seeded
from tests.parallelize.small_models import Residual, capture_vectors, images, mlp, pairs, stack_plan, vision


def test_a_plan_without_a_refit_only_rewrites() -> None:
    teacher = vision().module
    as_is, _ = rewrite(teacher, pairs("none"))
    refitted = refit(teacher, pairs("none"), *IMAGES[:2])
    assert refitted.levels == ()
    assert torch.equal(outputs(refitted.module, IMAGES[2]), outputs(as_is, IMAGES[2]))


def _values(module: fx.GraphModule, names: Sequence[str], inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    nodes = {node.name: node for node in module.graph.nodes}
    return run_segment(extract(module, placeholders(module), [nodes[name] for name in names]), inputs)


def test_the_states_that_should_agree_do_in_a_serial_network() -> None:
    program = vision()
    result = refit(program.module, Plan((serial(8),)), IMAGES[0], IMAGES[1])
    ours, theirs = zip(*result.ends, strict=True)
    (batch,) = images(4, 2).batches(4)
    left, right = _values(result.module, ours, batch), _values(program.module, theirs, batch)
    assert len(left) == 8
    assert all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize("strength", ["none", "full"])
def test_states_should_agree_where_a_group_or_what_was_deleted_after_it_ends(strength: Refit) -> None:
    program = vision()
    plan = stack_plan(8, [[[0], [2]], [[1], [3]], [[4]]], strength)
    result = refit(program.module, plan, IMAGES[0], IMAGES[1])
    terms = find_stacks(program.module).stacks[0].terms
    assert [theirs for _, theirs in result.ends] == [terms[3].result.name, terms[7].result.name]
    names = {node.name for node in result.module.graph.nodes}
    assert all(ours in names for ours, _ in result.ends)


@pytest.mark.parametrize("strength", ["affine", "full"])
def test_a_serial_plan_changes_nothing_at_any_strength(program: Program, strength: Refit) -> None:
    refitted = refit(program.module, Plan((serial(4),)).with_refit(strength), FIT, HELD_OUT)
    assert refitted.levels == ()
    assert torch.equal(outputs(refitted.module, JUDGE), outputs(program.module, JUDGE))


def test_the_teacher_is_not_touched() -> None:
    teacher = vision().module
    code, before = teacher.code, outputs(teacher, IMAGES[2])
    state = {name: value.clone() for name, value in teacher.state_dict().items()}
    refit(teacher, pairs("full"), *IMAGES[:2])
    assert teacher.code == code
    assert list(teacher.state_dict()) == list(state)
    assert all(torch.equal(value, state[name]) for name, value in teacher.state_dict().items())
    assert torch.equal(outputs(teacher, IMAGES[2]), before)


def test_the_samples_are_not_touched(program: Program) -> None:
    before = FIT.arrays["x"].clone(), HELD_OUT.arrays["x"].clone()
    refit(program.module, stack_plan(4, [[[0], [1], [2], [3]]], "full"), FIT, HELD_OUT)
    assert torch.equal(FIT.arrays["x"], before[0])
    assert torch.equal(HELD_OUT.arrays["x"], before[1])


def test_a_refit_repeats_to_the_bit_whatever_the_random_state() -> None:
    runs = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        runs.append(refit(vision().module, pairs("full"), *IMAGES[:2]))
    assert runs[0].levels == runs[1].levels
    assert torch.equal(outputs(runs[0].module, IMAGES[2]), outputs(runs[1].module, IMAGES[2]))


def test_the_size_of_a_batch_does_not_matter(program: Program) -> None:
    plan = stack_plan(4, [[[0], [1]], [[2], [3]]], "full")
    large, small = (refit(program.module, plan, FIT, HELD_OUT, batch_size) for batch_size in (1000, 7))
    torch.testing.assert_close(outputs(large.module, JUDGE), outputs(small.module, JUDGE), rtol=0, atol=1e-7)
    for a, b in zip(large.levels, small.levels, strict=True):
        assert (a.strength, a.ridge) == (b.strength, b.ridge)
        assert a.before == pytest.approx(b.before)
        assert a.after == pytest.approx(b.after)


def test_the_refitted_graph_runs_at_every_batch_size() -> None:
    refitted = refit(vision().module, pairs("full"), *IMAGES[:2]).module
    whole = outputs(refitted, IMAGES[2])
    for size in (1, 3):
        torch.testing.assert_close(refitted(IMAGES[2].arrays["images"][:size]), whole[:size])


def test_progress_counts_the_levels(program: Program) -> None:
    seen: list[tuple[int, int]] = []
    plan = stack_plan(4, [[[0], [1]], [[2]], [[3]]], "affine")
    refit(program.module, plan, FIT, HELD_OUT, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_a_model_whose_input_is_the_state_can_be_refitted() -> None:
    networks = [
        seeded(lambda scale=scale: Residual([mlp(WIDTH, HIDDEN) for _ in range(4)], scale=scale))
        for scale in (None, 1.0)
    ]
    plan = stack_plan(4, [[[0], [2]], [[1], [3]]], "full")
    bare, scaled = (refit(capture_vectors(network, WIDTH).module, plan, FIT, HELD_OUT) for network in networks)
    assert bare.levels == scaled.levels
    assert torch.equal(outputs(bare.module, JUDGE), outputs(scaled.module, JUDGE))
