"""The depths that a baseline may have, and how stacks share a depth."""

from __future__ import annotations

import pytest
import torch

from parallelize.baselines.depths import Depths, wanted_depths
from passes.errors import ParallelizeError
from passes.plan import Plan, grouped
from passes.stacks.find import Stack, find_stacks
from tests.parallelize.small_models import Towers, TwoStacks, capture_vectors, stack_plan, vision


@pytest.fixture(scope="module")
def two_stacks() -> tuple[Stack, ...]:
    torch.manual_seed(0)
    return find_stacks(capture_vectors(TwoStacks(), 6).module).stacks


def test_a_plan_gives_each_stack_its_depth_rounded_up_to_blocks() -> None:
    plan = stack_plan(8, [[[0], [2], [4]], [[1], [3], [5]], [[6], [7]]], "none")
    assert _numbers(wanted_depths(find_stacks(vision().module).stacks, plan)) == (2, (range(2, 3),))


@pytest.mark.parametrize(
    ("depth", "allowed"),
    [
        (2, (range(1, 2), range(1, 2))),
        (3, (range(1, 3), range(1, 3))),
        (5, (range(1, 4), range(2, 5))),
        (7, (range(3, 4), range(4, 5))),
    ],
)
def test_a_number_is_shared_so_that_each_stack_keeps_a_block(
    two_stacks: tuple[Stack, ...], depth: int, allowed: tuple[range, ...]
) -> None:
    assert _numbers(wanted_depths(two_stacks, depth)) == (depth, allowed)


@pytest.mark.parametrize("depth", [-1, 0, 1, 8])
def test_a_depth_that_no_network_has_is_refused(two_stacks: tuple[Stack, ...], depth: int) -> None:
    message = f"^No baseline is {depth} blocks deep: the model has 7 blocks on its longest path.$"
    with pytest.raises(ParallelizeError, match=message) as refused:
        wanted_depths(two_stacks, depth)
    assert refused.value.hint == "Ask for a depth from 2 to 7."


def test_a_plan_for_another_model_is_refused(two_stacks: tuple[Stack, ...]) -> None:
    with pytest.raises(ParallelizeError, match="The plan is for 1 stacks, the model has 2"):
        wanted_depths(two_stacks, Plan((grouped(3, [[(0,), (1,)], [(2,)]]),)))


def test_the_options_of_least_cost_together_are_shared_out(two_stacks: tuple[Stack, ...]) -> None:
    options = [{1: (5.0, "a1"), 2: (1.0, "a2"), 3: (0.0, "a3")}, {1: (0.5, "b1"), 2: (0.2, "b2")}]
    assert [wanted_depths(two_stacks, total).share(options) for total in (3, 4, 5)] == [
        ("a2", "b1"),
        ("a3", "b1"),
        ("a3", "b2"),
    ]


def test_where_no_options_make_the_depth_there_is_none(two_stacks: tuple[Stack, ...]) -> None:
    assert wanted_depths(two_stacks, 2).share([{1: (0.0, "a")}, {}]) is None
    assert wanted_depths(two_stacks, 3).share([{1: (0.0, "a")}, {1: (0.0, "b")}]) is None


def test_of_stacks_side_by_side_each_may_be_as_deep_as_the_whole() -> None:
    stacks = find_stacks(capture_vectors(Towers((4, 2)), 6).module).stacks
    assert _numbers(wanted_depths(stacks, 2)) == (2, (range(1, 3), range(1, 3)))
    assert _numbers(wanted_depths(stacks, 3)) == (3, (range(3, 4), range(1, 3)))
    depths = wanted_depths(stacks, 3)
    assert depths.is_too_deep(0, [4, 2])
    assert not depths.is_too_deep(1, [4, 2])
    with pytest.raises(ParallelizeError, match=r"^No baseline is 5 blocks deep: the model has 4 blocks"):
        wanted_depths(stacks, 5)


def _numbers(depths: Depths) -> tuple[int, tuple[range, ...]]:
    return depths.total, depths.allowed
