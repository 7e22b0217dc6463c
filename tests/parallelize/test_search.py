"""The search: the best partition of the blocks by brute force, and budgets that are kept or refused."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from parallelize.metrics import Metric, predict, score
from parallelize.program import Program
from parallelize.refit import StackWalk, refit, start_batches
from parallelize.search import Searcher, best_partitions
from passes.apply_plan import restore_order, rewrite
from passes.errors import CheckError, ParallelizeError
from passes.infra import finish
from passes.plan import Plan, Refit, grouped
from passes.stacks import find_stacks
from tests.parallelize.small_models import Residual, capture_vectors, images, mlp, stack_plan, vectors, vision

FIT, HELD_OUT, JUDGE = (images(count, seed, labelled=True) for seed, count in enumerate((100, 50, 50)))


def _searcher(metric: Metric = "kl", strength: Refit = "affine", **options: Any) -> Searcher:
    return Searcher(vision().module, FIT, HELD_OUT, metric, strength, **options)


@pytest.fixture(scope="module")
def searcher() -> Searcher:
    """Four blocks of attention and MLP, all groups measured once for this file."""
    return _searcher(seed=3)


@functools.cache
def _mlps() -> Program:
    """Four MLPs in front of a classifier: blocks of one term, measured quickly."""
    torch.manual_seed(0)
    return capture_vectors(Residual([mlp(6, 12) for _ in range(4)], nn.Linear(6, 5)), 6)


def _quick(metric: Metric = "kl", strength: Refit = "affine", seed: int = 0) -> Searcher:
    return Searcher(_mlps().module, vectors(100, 6, 0), vectors(50, 6, 1), metric, strength, seed)


# --------------------------------------------------------------------------------------------- the best partition


def _splits(count: int) -> Iterator[tuple[tuple[int, int], ...]]:
    """Every way to cut blocks 0..count-1 into intervals."""
    for cuts in itertools.product([False, True], repeat=count - 1):
        edges = [0, *(place + 1 for place, cut in enumerate(cuts) if cut), count]
        yield tuple((first, last - 1) for first, last in itertools.pairwise(edges))


@st.composite
def _costs(draw: st.DrawFn) -> tuple[int, dict[tuple[int, int], float]]:
    """Costs of intervals, some of which cannot be a group; small whole numbers make ties."""
    count = draw(st.integers(1, 7))
    intervals = [(i, j) for i in range(count) for j in range(i, count)]
    known = draw(st.lists(st.sampled_from(intervals), unique=True))
    return count, {interval: draw(st.integers(0, 5) | st.floats(0, 10)) for interval in known}


@settings(deadline=None, max_examples=200)
@given(problem=_costs())
def test_the_best_partition_of_every_depth_is_that_of_brute_force(
    problem: tuple[int, dict[tuple[int, int], float]],
) -> None:
    count, costs = problem
    cheapest: dict[int, float] = {}
    for groups in _splits(count):
        if all(group in costs for group in groups):
            total = sum(costs[group] for group in groups)
            cheapest[len(groups)] = min(total, cheapest.get(len(groups), float("inf")))
    found = best_partitions(count, costs)
    assert found.keys() == cheapest.keys()
    for depth, (cost, groups) in found.items():
        assert groups in set(_splits(count))
        assert len(groups) == depth
        assert cost == pytest.approx(cheapest[depth])
        assert sum(costs[group] for group in groups) == pytest.approx(cost)


def test_two_stacks_share_a_depth_so_that_the_sum_of_costs_is_smallest() -> None:
    torch.manual_seed(0)
    network = TwoStacks()
    teacher = capture_vectors(network, 4).module
    searcher = Searcher(teacher, vectors(80, 4, 0), vectors(40, 4, 1), "relative-l2", "none")
    assert [len(stack.terms) for stack in searcher.stacks] == [3, 2]
    assert searcher.blocks == 5
    first, second = (best_partitions(len(stack.blocks), searcher._costs(stack)) for stack in searcher.stacks)
    for depth, (cost, groups) in searcher.partitions().items():
        sums = [first[a][0] + second[depth - a][0] for a in first if depth - a in second]
        assert cost == min(sums)
        assert sum(len(part) for part in groups) == depth
    assert sorted(searcher.partitions()) == [2, 3, 4, 5]
    chosen = searcher.at_depth(3).chosen.plan
    assert [part.depth for part in chosen.stacks] == [2, 1]


class TwoStacks(nn.Module):
    """Three terms of width 4 that need each other, then two of width 6 that add little."""

    def __init__(self) -> None:
        super().__init__()
        self.first = Residual([mlp(4, 8) for _ in range(3)])
        self.between = nn.Linear(4, 6)
        self.second = Residual([mlp(6, 8) for _ in range(2)], nn.Linear(6, 3))
        with torch.no_grad():
            for term in self.first.terms:
                term[3].weight.mul_(5)
            for term in self.second.terms:
                term[3].weight.mul_(0.05)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(self.between(self.first(x)))
        return y


# ------------------------------------------------------------------------------------------------------ costs


def test_a_group_costs_the_error_of_the_network_with_that_group_alone_side_by_side(searcher: Searcher) -> None:
    (stack,) = searcher.stacks
    costs = searcher._costs(stack)
    assert costs.keys() == {(i, j) for i in range(4) for j in range(i, 4)}
    assert all(costs[block, block] == 0 for block in range(4))
    expected = predict(vision().module, HELD_OUT)
    for first, last in ((0, 1), (1, 3), (0, 3)):
        groups = [[b] for b in range(first)] + [list(range(first, last + 1))] + [[b] for b in range(last + 1, 4)]
        plan = Plan((grouped(8, [[stack.blocks[b] for b in group] for group in groups], refit="affine"),))
        # What the whole network would be, but with the later blocks left as they are.
        alone = _refit_group_only(plan, first)
        assert costs[first, last] == pytest.approx(score(alone, expected).error("kl"), rel=1e-3)


def _refit_group_only(plan: Plan, first: int) -> list[Tensor]:
    """Outputs when the two levels of a group are refitted and everything after it is serial and untouched."""
    teacher = vision().module
    module, (site,) = rewrite(teacher, plan)
    (stack,) = find_stacks(teacher).stacks
    parts = tuple(start_batches(teacher, stack.entry, samples) for samples in (FIT, HELD_OUT))
    walk = StackWalk(teacher, stack, module, site, plan.stacks[0], parts)
    for level in range(2 * first + 2):
        walk.refit_level(level)
    restore_order(module)
    return predict(finish(module), HELD_OUT)


def test_without_a_refit_a_group_costs_the_error_of_the_plain_rewrite() -> None:
    searcher = _searcher("relative-l2", "none")
    (stack,) = searcher.stacks
    expected = predict(vision().module, HELD_OUT)
    costs = searcher._costs(stack)
    for first, last in ((0, 1), (2, 3), (0, 3)):
        groups = [[b] for b in range(first)] + [list(range(first, last + 1))] + [[b] for b in range(last + 1, 4)]
        module, _ = rewrite(vision().module, Plan((grouped(8, [[stack.blocks[b] for b in g] for g in groups]),)))
        assert costs[first, last] == pytest.approx(
            score(predict(module, HELD_OUT), expected).error("relative-l2"), rel=1e-4
        )


def test_blocks_of_different_kinds_are_never_side_by_side() -> None:
    searcher = Searcher(vision(depth=1).module, FIT, HELD_OUT, "kl", "none")
    assert searcher.blocks == 2
    assert searcher.partitions() == {2: (0.0, (((0, 0), (1, 1)),))}


# ------------------------------------------------------------------------------------------------------ depths


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5, 100])
def test_a_schedule_of_a_wanted_depth_is_never_deeper(searcher: Searcher, depth: int) -> None:
    chosen = searcher.at_depth(depth).chosen
    assert chosen.depth == min(depth, 4)
    assert chosen.plan.depth == 2 * chosen.depth
    assert chosen.plan.seed == 3
    (part,) = chosen.plan.stacks
    part.check()
    assert part.deleted == ()


def test_the_full_depth_is_the_serial_network(searcher: Searcher) -> None:
    chosen = searcher.at_depth(4).chosen
    assert chosen.plan.stacks[0].is_serial
    assert chosen.scores.error("kl") == 0
    assert chosen.predicted == 0


@pytest.mark.parametrize("depth", [0, -1])
def test_less_than_one_block_is_refused_with_the_least_depth(searcher: Searcher, depth: int) -> None:
    with pytest.raises(
        ParallelizeError, match=rf"^No schedule is {depth} blocks deep, the shallowest has 1\.$"
    ) as caught:
        searcher.at_depth(depth)
    assert caught.value.hint == "Ask for --depth 1 or more."
    assert caught.value.exit_code == 2


def test_a_candidate_carries_the_network_that_was_measured_and_its_scores(searcher: Searcher) -> None:
    chosen = searcher.at_depth(2).chosen
    again = refit(vision().module, chosen.plan, FIT, HELD_OUT)
    teacher = predict(vision().module, HELD_OUT)
    outputs = predict(chosen.refitted.module, HELD_OUT)
    assert torch.equal(outputs[0], predict(again.module, HELD_OUT)[0])
    assert chosen.scores == score(outputs, teacher, HELD_OUT.labels)
    assert chosen.predicted == searcher.partitions()[2][0]


def _levels(plan: Plan) -> list[tuple[int, ...]]:
    (part,) = plan.stacks
    assert all(len(chain) == 1 for level in part.levels for chain in level.chains)
    return [level.terms for level in part.levels]


def test_groups_of_attention_and_mlp_are_proposed_in_sublayer_form_and_where_it_costs_less_in_gptj_form(
    searcher: Searcher,
) -> None:
    (stack,) = searcher.stacks
    teacher = predict(vision().module, HELD_OUT)
    parts = searcher._parts(stack, 0)
    costs = {cut: searcher._group_cost(stack, 0, 3, parts, cut) for cut in (None, 1, 2, 3)}
    forms = {
        None: [(0, 2, 4, 6), (1, 3, 5, 7)],
        1: [(0, 1), (2, 3, 4, 5, 6, 7)],
        2: [(0, 1, 2, 3), (4, 5, 6, 7)],
        3: [(0, 1, 2, 3, 4, 5), (6, 7)],
    }
    for cut, levels in forms.items():
        plan = stack_plan(8, [[[term] for term in level] for level in levels], "affine")
        outputs = predict(refit(vision().module, plan, FIT, HELD_OUT).module, HELD_OUT)
        assert costs[cut] == pytest.approx(score(outputs, teacher).error("kl"), rel=1e-3)
    best = min((1, 2, 3), key=lambda cut: costs[cut])
    assert costs[best] < costs[None], "these weights do not show a GPT-J form that is better"
    assert [_levels(plan) for plan in searcher.proposals(1)] == [forms[None], forms[best]]


def test_blocks_of_one_term_and_the_serial_network_have_one_proposal(searcher: Searcher) -> None:
    assert len(_quick().proposals(1)) == 1
    assert len(searcher.proposals(4)) == 1


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_the_best_of_all_proposals_with_and_without_their_refit_is_chosen(searcher: Searcher, depth: int) -> None:
    teacher = predict(vision().module, HELD_OUT)
    errors = {}
    for proposal in searcher.proposals(depth):
        assert proposal.depth == 2 * depth
        for strength in ("affine", "none"):
            plan = proposal.with_refit(strength)
            outputs = predict(refit(vision().module, plan, FIT, HELD_OUT).module, HELD_OUT)
            errors[plan] = score(outputs, teacher).error("kl")
    chosen = searcher.measure(depth)
    assert chosen.plan == min(errors, key=lambda plan: errors[plan])
    assert chosen.scores.error("kl") == pytest.approx(min(errors.values()))


def _hardtanh(up: list[float], down: list[float]) -> nn.Sequential:
    """Each of two coordinates alone: down * hardtanh(up * x)."""
    term = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Hardtanh(), nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        term[0].weight.copy_(torch.diag(torch.tensor(up)))
        term[2].weight.copy_(torch.diag(torch.tensor(down)))
    return term


def test_a_refit_that_helps_the_states_and_hurts_the_outputs_is_not_chosen() -> None:
    """Side by side the second term misses 0.5 sign(x_0) and 2 x_1.

    What is fitted where x_0 is positive doubles the error of coordinate 0 where it is negative, and mends coordinate 1,
    which is most of the state and which the head does not read.
    """
    head = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1.0, 0.0]]))
    network = Residual([_hardtanh([1, 0.01], [0.5, 200]), _hardtanh([0.01, 0.01], [100, 100])], head)
    teacher = capture_vectors(network, 2).module
    fit, held_out = vectors(100, 2, 0), vectors(50, 2, 1)
    fit.arrays["x"][:, 0] = torch.linspace(1, 2, 100)
    held_out.arrays["x"][:, 0] = torch.linspace(-2, -1, 50)
    searcher = Searcher(teacher, fit, held_out, "relative-l2", "affine")
    (plan,) = searcher.proposals(1)
    (level,) = refit(teacher, plan, fit, held_out).levels
    assert level.strength == "affine"
    assert level.after < 0.5 * level.before
    chosen = searcher.measure(1)
    assert chosen.plan.stacks[0].refit == "none"
    assert chosen.refitted.levels == ()


def test_what_was_measured_is_listed_from_deep_to_shallow_and_measured_once() -> None:
    searcher = _quick(strength="none")
    first = searcher.at_depth(1).chosen
    assert searcher.at_depth(1).chosen is first
    searcher.at_depth(3)
    assert [candidate.depth for candidate in searcher.at_depth(2).measured] == [3, 2, 1]


# ------------------------------------------------------------------------------------------------------ budgets


def _errors() -> dict[int, float]:
    searcher = _quick()
    return {depth: searcher.measure(depth).scores.error("kl") for depth in (1, 2, 3)}


def test_the_shallowest_schedule_within_a_budget_is_found() -> None:
    errors = _errors()
    assert errors[1] > errors[2] > errors[3] > 0
    for depth, error in errors.items():
        for budget in (error, 1.01 * error):
            found = _quick().within(budget).chosen
            assert found.depth == depth
            assert found.scores.error("kl") <= budget


def test_a_budget_above_all_errors_runs_all_blocks_side_by_side() -> None:
    found = _quick().within(1e9).chosen
    assert _levels(found.plan) == [(0, 1, 2, 3)]


def test_an_impossible_budget_is_refused_with_the_nearest_error_and_exit_code_1() -> None:
    nearest = _errors()[3]
    with pytest.raises(CheckError) as caught:
        _quick().within(nearest / 2)
    assert str(caught.value) == (
        f"No rewrite is within the kl budget of {nearest / 2:g}; the nearest, 3 blocks deep, has {nearest:.3g}."
    )
    assert "--max-error" in caught.value.hint
    assert caught.value.exit_code == 1


def test_the_serial_network_is_no_rewrite_even_where_it_was_measured_before() -> None:
    searcher = _quick()
    searcher.at_depth(4)
    with pytest.raises(CheckError, match="No rewrite is within the kl budget"):
        searcher.within(0.0)


def test_a_budget_is_measured_with_the_metric_that_was_asked_for() -> None:
    """Scaling the logits down keeps the answers, so all disagree no more, and a budget for relative L2 fails."""
    found = _quick("disagreement").within(0.5).chosen
    assert found.scores.error("disagreement") <= 0.5
    assert found.scores.error("relative-l2") > 0
    with pytest.raises(CheckError, match="relative-l2 budget"):
        _quick("relative-l2").within(1e-6)


def test_a_metric_that_the_outputs_do_not_have_is_refused() -> None:
    with pytest.raises(ParallelizeError, match="top1-drop needs labels"):
        _quick("top1-drop").at_depth(2)


def test_labels_reach_the_metric(searcher: Searcher) -> None:
    labelled = _searcher("top1-drop", "none").measure(3).scores
    teacher = predict(vision().module, HELD_OUT)[0].argmax(1)
    assert HELD_OUT.labels is not None
    assert labelled.top1_teacher == pytest.approx(float((teacher == HELD_OUT.labels).double().mean()))


def test_a_budget_for_a_model_without_two_blocks_alike_is_refused() -> None:
    with pytest.raises(ParallelizeError, match="No two neighbouring blocks"):
        Searcher(vision(depth=1).module, FIT, HELD_OUT, "kl", "none").within(0.1)


# ------------------------------------------------------------------------------------------------------ the rest


def test_a_search_repeats_to_the_bit_whatever_the_random_state(searcher: Searcher) -> None:
    torch.manual_seed(99)
    again = _searcher(seed=3)
    assert again.partitions() == searcher.partitions()
    assert again.at_depth(2).chosen.plan == searcher.at_depth(2).chosen.plan
    assert again.at_depth(2).chosen.scores == searcher.at_depth(2).chosen.scores


def test_blocks_that_need_each_other_are_left_apart() -> None:
    """The first two blocks add much, the others almost nothing."""
    torch.manual_seed(0)
    terms = [mlp(6, 12) for _ in range(4)]
    with torch.no_grad():
        for term in terms[:2]:
            term[3].weight.mul_(10)
        for term in terms[2:]:
            term[3].weight.mul_(0.01)
            term[3].bias.mul_(0.01)
    teacher = capture_vectors(Residual(terms), 6).module
    searcher = Searcher(teacher, vectors(100, 6, 0), vectors(50, 6, 1), "relative-l2", "none")
    assert _levels(searcher.at_depth(2).chosen.plan) == [(0,), (1, 2, 3)]


def test_progress_tells_how_many_groups_are_measured_and_then_the_networks() -> None:
    seen: list[tuple[str, int, int]] = []
    searcher = _quick()
    searcher.progress = lambda *what: seen.append(what)
    searcher.at_depth(2)
    assert seen == [*(("measuring groups", done, 6) for done in range(1, 7)), ("measuring 2 blocks deep", 0, 1)]


def test_the_teacher_is_not_touched() -> None:
    teacher, samples = _mlps().module, vectors(50, 6, 2)
    code, before = teacher.code, predict(teacher, samples)[0]
    _quick(strength="full").at_depth(2)
    assert teacher.code == code
    assert torch.equal(predict(teacher, samples)[0], before)
