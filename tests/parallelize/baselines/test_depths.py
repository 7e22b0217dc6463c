"""The depths that a baseline may have, and how stacks share a depth."""

from __future__ import annotations

import pytest
import torch

from parallelize.baselines.depths import Depths, share, wanted_depths
from passes.errors import ParallelizeError
from passes.plan import Plan, grouped
from passes.stacks import Stack, find_stacks
from tests.parallelize.small_models import TwoStacks, capture_vectors, stack_plan, vision


@pytest.fixture(scope="module")
def two_stacks() -> tuple[Stack, ...]:
    torch.manual_seed(0)
    return find_stacks(capture_vectors(TwoStacks(), 6).module).stacks


def test_a_plan_gives_each_stack_its_depth_rounded_up_to_blocks() -> None:
    plan = stack_plan(8, [[[0], [2], [4]], [[1], [3], [5]], [[6], [7]]], "none")
    assert wanted_depths(find_stacks(vision().module).stacks, plan) == Depths(2, (range(2, 3),))


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
    assert wanted_depths(two_stacks, depth) == Depths(depth, allowed)


@pytest.mark.parametrize("depth", [-1, 0, 1, 8])
def test_a_depth_that_no_network_has_is_refused(two_stacks: tuple[Stack, ...], depth: int) -> None:
    message = f"^No baseline is {depth} blocks deep: the model has 7 blocks in 2 stacks.$"
    with pytest.raises(ParallelizeError, match=message) as refused:
        wanted_depths(two_stacks, depth)
    assert refused.value.hint == "Ask for a depth from 2 to 7."


def test_a_plan_for_another_model_is_refused(two_stacks: tuple[Stack, ...]) -> None:
    with pytest.raises(ParallelizeError, match="The plan is for 1 stacks, the model has 2"):
        wanted_depths(two_stacks, Plan((grouped(3, [[(0,), (1,)], [(2,)]]),)))


def test_the_options_of_least_cost_together_are_shared_out() -> None:
    options = [{1: (5.0, "a1"), 2: (1.0, "a2"), 3: (0.0, "a3")}, {1: (0.5, "b1"), 2: (0.2, "b2")}]
    assert share(options, 3) == ("a2", "b1")
    assert share(options, 4) == ("a3", "b1")
    assert share(options, 5) == ("a3", "b2")


def test_where_no_options_add_up_to_the_depth_there_is_none() -> None:
    assert share([{1: (0.0, "a")}, {}], 2) is None
    assert share([{1: (0.0, "a")}], 2) is None
