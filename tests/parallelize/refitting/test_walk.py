"""A walk along a stack: a level reads guesses of its terms' inputs where that helps, and moves the samples past it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from parallelize.metrics import predict
from parallelize.models.states import start_batches
from parallelize.refitting.refit import refit
from parallelize.refitting.walk import StackWalk
from passes.errors import ParallelizeError
from passes.graph.editing import clone
from passes.graph.operators import LINEAR
from passes.plan import Plan, Refit
from passes.schedule.apply_plan import rewrite, schedule
from passes.stacks.find import find_stacks
from tests.parallelize.small_models import Residual, capture_vectors, mlp, stack_plan, vectors

WIDTH, HIDDEN = 8, 16


def _coordinates(up: list[float], down: list[float]) -> nn.Sequential:
    """Each of two coordinates alone: down * hardtanh(up * x)."""
    term = nn.Sequential(nn.Linear(2, 2), nn.Hardtanh(), nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        term[0].weight.copy_(torch.diag(torch.tensor(up)))  # type: ignore[operator]
        term[0].bias.zero_()  # type: ignore[operator]
        term[2].weight.copy_(torch.diag(torch.tensor(down)))  # type: ignore[operator]
    return term


@pytest.mark.parametrize("strength", ["affine", "full"])
def test_a_read_in_that_foretells_better_and_leaves_the_level_worse_is_undone(strength: Refit) -> None:
    """The second term reads coordinate 1, which is foretold well and which it hardly passes on, and coordinate 0.

    Coordinate 0 lacks 0.5 where it is fitted and -0.5 where it is judged, so the guess doubles the error there.
    """
    identity = nn.Linear(2, 2)
    with torch.no_grad():
        identity.weight.copy_(torch.diag(torch.tensor([1.0, 0.0])))
        identity.bias.zero_()
    teacher = capture_vectors(Residual([_coordinates([1, 0.01], [0.5, 200]), identity]), 2).module
    fit, held_out = vectors(100, 2, 0), vectors(50, 2, 1)
    fit.arrays["x"][:, 0] = torch.linspace(1, 2, 100)
    held_out.arrays["x"][:, 0] = torch.linspace(-2, -1, 50)
    plan = stack_plan(2, [[[0], [1]]], strength)
    as_is, _ = rewrite(teacher, plan)
    undone, kept = refit(teacher, plan, fit, held_out), refit(teacher, plan, fit, fit)
    assert [number for number, _ in kept.levels[0].read_ins] == [1]
    (level,) = undone.levels
    assert (level.strength, level.read_ins) == ("none", ())
    assert level.after == level.before
    assert set(undone.module.state_dict()) == set(as_is.state_dict())
    assert torch.equal(predict(undone.module, held_out)[0], predict(as_is, held_out)[0])


def test_a_level_that_is_exact_whatever_its_terms_read_keeps_its_weights() -> None:
    """The second term adds nothing, so a better guess of its input is no reason to change its weights."""
    torch.manual_seed(0)
    terms = [mlp(WIDTH, HIDDEN) for _ in range(2)]
    nn.init.zeros_(terms[1][3].weight)  # type: ignore[arg-type]
    nn.init.zeros_(terms[1][3].bias)  # type: ignore[arg-type]
    teacher = capture_vectors(Residual(terms), WIDTH).module
    plan = stack_plan(2, [[[0], [1]]], "full")
    refitted = refit(teacher, plan, vectors(100, WIDTH, 0), vectors(50, WIDTH, 1))
    assert (refitted.levels[0].strength, refitted.levels[0].read_ins) == ("none", ())
    assert set(refitted.module.state_dict()) == set(rewrite(teacher, plan)[0].state_dict())


def test_of_terms_with_the_same_weights_each_reads_its_own_guess() -> None:
    torch.manual_seed(0)
    term = mlp(WIDTH, HIDDEN)
    network = Residual([term, term, term])
    teacher = capture_vectors(network, WIDTH).module
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    plan = stack_plan(3, [[[0], [1], [2]]], "affine")
    refitted = refit(teacher, plan, vectors(300, WIDTH, 0), vectors(100, WIDTH, 1))
    assert [number for number, _ in refitted.levels[0].read_ins] == [1, 2]
    linears = refitted.module.graph.find_nodes(op="call_function", target=LINEAR)
    inner = {str(node.args[1].target) for node in linears if node.meta["val"].shape[-1] == HIDDEN}
    assert len(inner) == 3
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_the_later_terms_of_a_chain_are_foretold_after_the_earlier_ones() -> None:
    torch.manual_seed(0)
    teacher = capture_vectors(Residual([mlp(WIDTH, HIDDEN) for _ in range(4)]), WIDTH).module
    plan = stack_plan(4, [[[0, 1], [2, 3]]], "affine")
    refitted = refit(teacher, plan, vectors(300, WIDTH, 0), vectors(100, WIDTH, 1))
    assert [number for number, _ in refitted.levels[0].read_ins] == [2, 3]
    assert all(0 <= left <= 0.98 for _, left in refitted.levels[0].read_ins)


def test_a_term_without_biases_is_foretold_without_a_shift() -> None:
    torch.manual_seed(0)

    def term() -> nn.Module:
        up, down = nn.Linear(WIDTH, HIDDEN, bias=False), nn.Linear(HIDDEN, WIDTH, bias=False)
        return nn.Sequential(nn.RMSNorm(WIDTH), up, nn.SiLU(), down)

    teacher = capture_vectors(Residual([term() for _ in range(2)]), WIDTH).module
    refitted = refit(teacher, stack_plan(2, [[[0], [1]]], "affine"), vectors(300, WIDTH, 0), vectors(100, WIDTH, 1))
    assert [number for number, _ in refitted.levels[0].read_ins] == [1]
    linears = refitted.module.graph.find_nodes(op="call_function", target=LINEAR)
    with_bias = [node for node in linears if len(node.args) > 2 and node.args[2] is not None]
    assert [str(node.args[2].target) for node in with_bias] == ["affine_bias_0"]


def walk_of(plan: Plan, counts: tuple[int, int] = (60, 30), first: int = 0) -> tuple[Residual, StackWalk]:
    """A model of four MLPs, and a walk along its rewrite that begins before a level with the teacher's states there."""
    torch.manual_seed(0)
    model = Residual([mlp(WIDTH, HIDDEN) for _ in range(4)])
    teacher = capture_vectors(model, WIDTH).module
    (stack,) = find_stacks(teacher).stacks
    module = clone(teacher)
    (site,) = schedule(module, plan)
    ran = sum(len(level.terms) for level in plan.stacks[0].levels[:first])
    start = stack.terms[ran].skip
    parts = [start_batches(teacher, start, vectors(count, WIDTH, seed), 16) for seed, count in enumerate(counts)]
    return model, StackWalk(teacher, stack, module, site, plan.stacks[0], (parts[0], parts[1]), first)


def test_samples_move_level_by_level_with_the_states_of_the_rewrite() -> None:
    model, walk = walk_of(stack_plan(4, [[[0], [1]], [[2], [3]]], "none"))
    x = vectors(60, WIDTH, 0).arrays["x"]
    for first in (0, 2):
        assert walk.refit_level(first // 2).strength == "none"
        walk.go_on()
        x = x + model.terms[first](x) + model.terms[first + 1](x)
        torch.testing.assert_close(torch.cat([batch.state.value for batch in walk.parts[0]]), x)


def test_a_walk_may_begin_behind_levels_that_are_exact() -> None:
    """So the cost of a group is measured without walking the blocks before it."""
    plan = stack_plan(4, [[[0]], [[1]], [[2], [3]]], "affine")
    _, whole = walk_of(plan)
    records = [whole.refit_level(number) for number in range(3)]
    assert [record.strength for record in records[:2]] == ["none", "none"]
    _, late = walk_of(plan, first=2)
    record = late.refit_level(2)
    assert (record.strength, record.ridge) == ("affine", records[2].ridge)
    assert record.after == pytest.approx(records[2].after)
    for walk in (late, whole):
        walk.go_on()
    for ours, theirs in zip(late.parts[1], whole.parts[1], strict=True):
        torch.testing.assert_close(ours.state.value, theirs.state.value)


@pytest.mark.parametrize("strength", ["none", "affine", "full"])
def test_samples_stay_before_the_last_level_until_they_are_asked_for_and_all_or_some_go_on_once(
    strength: Refit,
) -> None:
    plan, states = stack_plan(4, [[[0], [1]], [[2], [3]]], strength), []
    for choosing_only in (False, True):
        _, walk = walk_of(plan)
        walk.refit_level(0)
        walk.go_on()
        before = [batch.state for part in walk.parts for batch in part]
        walk.refit_level(1)
        assert [batch.state for part in walk.parts for batch in part] == before
        for _ in range(2):
            walk.go_on(choosing_only=choosing_only)
            states.append([batch.state.value for batch in walk.parts[1]])
        moved = [now.state is not then for now, then in zip(walk.parts[0], before, strict=False)]
        assert moved == [not choosing_only] * len(walk.parts[0])
    for others in states[1:]:
        torch.testing.assert_close(others, states[0])


@pytest.mark.parametrize("counts", [(0, 30), (60, 0)])
def test_a_walk_without_samples_of_either_kind_is_refused(counts: tuple[int, int]) -> None:
    with pytest.raises(ParallelizeError, match="needs samples to fit on and samples to choose on") as caught:
        walk_of(stack_plan(4, [[[0], [1], [2], [3]]], "affine"), counts)
    assert caught.value.hint == "Give more with --inputs."
