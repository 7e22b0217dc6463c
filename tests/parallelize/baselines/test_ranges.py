"""One range of blocks side by side: which ranges are tried, and that the best one is taken."""

from __future__ import annotations

import pytest
import torch
from torch import fx

from parallelize.baselines.depths import wanted_depths
from parallelize.baselines.ranges import CQIL, LP, PAINTERS, RangeMethod, best_ranges
from parallelize.baselines.trial import Trial
from parallelize.data import Samples
from passes.plan import Plan, grouped
from passes.schedule.apply_plan import rewrite
from passes.schedule.average_branches import averaged
from passes.stacks.find import find_stacks
from tests.parallelize.small_models import (
    PostNorm,
    Residual,
    TwoStacks,
    capture_vectors,
    images,
    linear,
    vectors,
    vision,
)

HELD_OUT = images(60, 1)


def _best(method: RangeMethod, teacher: fx.GraphModule, depth: int | Plan, samples: Samples) -> Plan | None:
    stacks = find_stacks(teacher).stacks
    metric = "kl" if samples is HELD_OUT else "relative-l2"
    return best_ranges(method, stacks, wanted_depths(stacks, depth), Trial(teacher, samples, metric))


@pytest.mark.parametrize("depth", [1, pytest.param(2, marks=pytest.mark.slow), 3])
@pytest.mark.parametrize(("method", "form"), [(CQIL, "block"), (LP, "sublayer"), (PAINTERS, "block")])
def test_of_all_ranges_the_one_of_least_error_as_a_whole_network_is_taken(
    method: RangeMethod, form: str, depth: int
) -> None:
    teacher = vision().module
    trial = Trial(teacher, HELD_OUT, "kl")
    blocks = [(0, 1), (2, 3), (4, 5), (6, 7)]
    splits = {
        1: [[4]],
        2: [[2, 2], [3, 1], [1, 3]],
        3: [[2, 1, 1], [1, 2, 1], [1, 1, 2]],
    }[depth]
    if method is LP:
        splits = [split for split in splits if max(split) == 2]
    if method is PAINTERS:
        splits = [split for split in splits if sum(size > 1 for size in split) == 1]
    plans = []
    for split in splits:
        starts = [sum(split[:number]) for number in range(len(split))]
        groups = [blocks[start : start + size] for start, size in zip(starts, split, strict=True)]
        plans.append(Plan((grouped(8, groups, form),)))
    found = _best(method, teacher, depth, HELD_OUT)
    if not plans:
        assert found is None
        return

    def error(plan: Plan) -> float:
        return trial.error(averaged(teacher, plan) if method.mean else rewrite(teacher, plan)[0])

    assert found in plans
    assert error(found) == pytest.approx(min(error(plan) for plan in plans), rel=1e-4)


def test_a_wanted_depth_of_all_blocks_is_the_serial_network() -> None:
    for method in (CQIL, LP, PAINTERS):
        plan = _best(method, vision().module, 4, HELD_OUT)
        assert plan is not None
        assert plan.stacks[0].is_serial


def test_pairs_cannot_make_a_model_shallower_than_half() -> None:
    assert _best(LP, vision().module, 1, HELD_OUT) is None
    assert _best(LP, vision().module, 2, HELD_OUT) is not None


def test_a_range_goes_where_blocks_do_not_read_each_other() -> None:
    """Of six linear terms only the middle ones, 2 and 3, read a coordinate that no term writes."""
    up, read = torch.zeros(4, 4), torch.zeros(4, 4)
    up[0, 0], read[1, 3] = 0.5, 0.5
    teacher = capture_vectors(Residual([linear(w) for w in (up, up, read, read, up, up)]), 4).module
    for method in (CQIL, LP):
        plan = _best(method, teacher, 5, vectors(30, 4, 0))
        assert plan is not None
        assert not plan.stacks[0].is_serial
        assert Trial(teacher, vectors(30, 4, 1), "relative-l2").error(rewrite(teacher, plan)[0]) < 1e-12


@pytest.mark.slow
def test_the_least_size_powers_of_two_and_the_whole_range_are_tried_and_the_last_group_takes_the_rest() -> None:
    """To save 5 of 8 blocks takes groups of 3 at least; 4 is a power of two, 6 the whole range."""
    teacher = vision(8).module
    trial = Trial(teacher, HELD_OUT, "kl")
    plans = []
    for sizes in ([3, 3, 2], [4, 3], [6]):
        for first in range(8 - sum(sizes) + 1):
            blocks = iter([(2 * block, 2 * block + 1) for block in range(8)])
            split = [*[1] * first, *sizes, *[1] * (8 - sum(sizes) - first)]
            groups = [[next(blocks) for _ in range(size)] for size in split]
            plans.append(Plan((grouped(16, groups, "block"),)))
    found = _best(CQIL, teacher, 3, HELD_OUT)
    assert found in plans
    errors = [trial.error(rewrite(teacher, plan)[0]) for plan in plans]
    assert errors[plans.index(found)] == pytest.approx(min(errors), rel=1e-4)


def test_stacks_share_a_depth_where_it_costs_least() -> None:
    """The terms of the second stack do not read each other; those of the first do."""
    torch.manual_seed(0)
    model = TwoStacks()
    for number, term in enumerate(model.second.terms):
        with torch.no_grad():
            term[0].weight.zero_()
            term[0].bias.fill_(number)
    teacher = capture_vectors(model, 6).module
    plan = _best(CQIL, teacher, 4, vectors(30, 6, 0))
    assert plan is not None
    assert [part.depth for part in plan.stacks] == [3, 1]
    wanted = Plan((grouped(3, [[(0,), (1,)], [(2,)]]), grouped(4, [[(0,), (1,)], [(2,), (3,)]])))
    plan = _best(CQIL, teacher, wanted, vectors(30, 6, 0))
    assert plan is not None
    assert [part.depth for part in plan.stacks] == [2, 2]


def test_ranges_of_a_post_norm_model_are_measured_as_whole_networks_too() -> None:
    torch.manual_seed(0)
    teacher = capture_vectors(PostNorm(4), 6).module
    samples = vectors(30, 6, 0)
    trial = Trial(teacher, samples, "relative-l2")
    plan = _best(CQIL, teacher, 3, samples)
    pairs = [
        grouped(4, [[(b,) for b in group] for group in split], "block")
        for split in ([[0, 1], [2], [3]], [[0], [1, 2], [3]], [[0], [1], [2, 3]])
    ]
    best = min(pairs, key=lambda part: trial.error(rewrite(teacher, Plan((part,)))[0]))
    assert plan == Plan((best,))
