"""Deletion, the rival: as deep as the rewrite, and the better of two ways to pick what stays."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

from paraformer.model import VisionParaFormer
from parallelize.deletion import block_influence, deletion_plan
from parallelize.metrics import predict, score
from parallelize.program import Program
from parallelize.refit import refit
from passes.apply_plan import rewrite
from passes.plan import Plan, Refit, grouped
from passes.stacks import find_stacks
from tests.parallelize.small_models import (
    SMALL,
    Residual,
    capture_images,
    capture_vectors,
    images,
    mlp,
    pairs,
    stack_plan,
    vectors,
    vision,
)

FIT, HELD_OUT = images(120, 0), images(60, 1)
BLOCKS = [(0, 1), (2, 3), (4, 5), (6, 7)]


def _silent(*blocks: int) -> Program:
    """A vision transformer some of whose blocks add nothing."""
    torch.manual_seed(0)
    model = VisionParaFormer(SMALL)
    for block in blocks:
        for linear in (model.blocks[block].attention.out, model.blocks[block].down):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)
    return capture_images(model)


def _kept(plan: Plan) -> list[int]:
    (part,) = plan.stacks
    return [term for level in part.levels for term in level.terms]


@pytest.mark.parametrize(
    "groups",
    [
        [[(0, 1), (2, 3)], [(4, 5), (6, 7)]],
        [[(0, 1)], [(2, 3), (4, 5), (6, 7)]],
        [BLOCKS],
        [[(0, 1)], [(2, 3)], [(4, 5), (6, 7)]],
    ],
)
@pytest.mark.parametrize("form", ["sublayer", "block"])
def test_what_is_left_is_as_deep_as_the_plan_and_runs_whole_blocks_serially(
    groups: list[list[tuple[int, ...]]], form: str
) -> None:
    plan = Plan((grouped(8, groups, form, "none"),), seed=7)
    deletion = deletion_plan(vision().module, plan, FIT, HELD_OUT, "kl")
    (part,) = deletion.stacks
    part.check()
    assert deletion.depth == plan.depth == 2 * len(groups)
    assert all(len(level.chains) == 1 and level.depth == 1 for level in part.levels)
    kept = _kept(deletion)
    assert kept == sorted(kept)
    assert all(set(block) <= set(kept) or not set(block) & set(kept) for block in BLOCKS)
    assert len(part.deleted) == 8 - 2 * len(groups)
    assert deletion.seed == 7


def test_a_depth_that_is_no_whole_number_of_blocks_is_rounded_up() -> None:
    plan = stack_plan(8, [[[0], [2]], [[1], [3]], [[4, 5]], [[6]], [[7]]], "none")
    assert plan.depth == 6
    plan = stack_plan(8, [[[0], [2], [4]], [[1], [3], [5]], [[6], [7]]], "none")
    assert plan.depth == 3
    assert deletion_plan(vision().module, plan, FIT, HELD_OUT, "kl").depth == 4


@pytest.mark.parametrize("strength", ["none", "affine", "full"])
def test_the_deletion_gets_the_same_strength_of_refit(strength: Refit) -> None:
    assert deletion_plan(vision().module, pairs(strength), FIT, HELD_OUT, "kl").stacks[0].refit == strength


def test_blocks_that_add_nothing_are_the_ones_that_go() -> None:
    teacher = _silent(0, 2).module
    deletion = deletion_plan(teacher, pairs("none"), FIT, HELD_OUT, "kl")
    assert _kept(deletion) == [2, 3, 6, 7]
    module, _ = rewrite(teacher, deletion)
    assert score(predict(module, HELD_OUT), predict(teacher, HELD_OUT)).error("kl") < 1e-9


class Bump(nn.Module):
    """Adds a bounded function of its input to one coordinate of four."""

    def __init__(self, coordinate: int, size: float) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 8), nn.Linear(8, 4)
        with torch.no_grad():
            self.down.weight[[i for i in range(4) if i != coordinate]] = 0
            self.down.weight.mul_(size)
            self.down.bias.zero_()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.down(torch.tanh(self.up(x)))
        return y


@pytest.fixture(scope="module")
def quiet_and_loud() -> Program:
    """Of four terms the second and the last move the state much, in a coordinate that the head does not read."""
    torch.manual_seed(0)
    head = nn.Linear(4, 1, bias=False)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1.0, 0, 0, 0]]))
    return capture_vectors(Residual([Bump(0, 1.0), Bump(3, 20.0), Bump(0, 1.0), Bump(3, 20.0)], head), 4)


def test_of_the_two_ways_the_one_that_measures_better_wins_even_against_influence(quiet_and_loud: Program) -> None:
    teacher, samples = quiet_and_loud.module, (vectors(100, 4, 0), vectors(50, 4, 1))
    (stack,) = find_stacks(teacher).stacks
    influence = block_influence(teacher, stack, samples[1])
    assert min(influence[1], influence[3]) > max(influence[0], influence[2])
    plan = stack_plan(4, [[[0], [1]], [[2], [3]]], "none")
    assert _kept(deletion_plan(teacher, plan, *samples, "relative-l2")) == [0, 2]


def test_the_first_blocks_of_groups_are_no_candidate_where_they_make_another_depth(quiet_and_loud: Program) -> None:
    """The terms 0 and 2 alone would be better than any three by influence, but shallower than the plan."""
    plan = stack_plan(4, [[[0, 1]], [[2], [3]]], "none")
    deletion = deletion_plan(quiet_and_loud.module, plan, vectors(100, 4, 0), vectors(50, 4, 1), "relative-l2")
    assert deletion.depth == plan.depth == 3
    assert {1, 3} < set(_kept(deletion))


@pytest.mark.parametrize("strength", ["affine", "full"])
def test_the_two_ways_are_compared_after_an_affine_refit(strength: Refit) -> None:
    teacher = vision().module
    deletion = deletion_plan(teacher, pairs(strength), FIT, HELD_OUT, "kl")
    (stack,) = find_stacks(teacher).stacks
    influence = block_influence(teacher, stack, HELD_OUT)
    influential = sorted(sorted(range(4), key=lambda block: -influence[block])[:2])
    errors = {}
    for kept in ([0, 2], influential):
        candidate = stack_plan(8, [[[term]] for block in kept for term in BLOCKS[block]], "affine")
        module = refit(teacher, candidate, FIT, HELD_OUT).module
        errors[tuple(_kept(candidate))] = score(predict(module, HELD_OUT), predict(teacher, HELD_OUT)).error("kl")
    assert len(errors) == 2
    assert _kept(deletion) == list(min(errors, key=lambda kept: errors[kept]))


def test_a_block_that_is_the_identity_has_no_influence_and_the_others_have_some() -> None:
    teacher = _silent(2).module
    (stack,) = find_stacks(teacher).stacks
    influence = block_influence(teacher, stack, HELD_OUT)
    assert influence[2] == pytest.approx(0, abs=1e-12)
    assert all(influence[block] > 1e-3 for block in (0, 1, 3))


@pytest.mark.parametrize("count", [60, 130])
def test_influence_is_one_minus_the_cosine_averaged_over_all_samples(count: int) -> None:
    torch.manual_seed(0)
    model = Residual([mlp(6, 12) for _ in range(3)])
    teacher = capture_vectors(model, 6).module
    (stack,) = find_stacks(teacher).stacks
    samples = vectors(count, 6, 0)
    state, expected = samples.arrays["x"], []
    for term in model.terms:
        after = state + term(state)
        expected.append(float((1 - F.cosine_similarity(state, after, dim=-1)).mean().detach()))
        state = after
    assert block_influence(teacher, stack, samples) == pytest.approx(expected, rel=1e-9)


def test_influence_is_averaged_over_the_positions_of_a_sample() -> None:
    teacher = vision().module
    (stack,) = find_stacks(teacher).stacks
    torch.manual_seed(0)
    model = VisionParaFormer(SMALL).eval()
    with torch.no_grad():
        before = model.embed(HELD_OUT.arrays["images"])
        after = model.blocks[0](before)
        expected = float((1 - F.cosine_similarity(before.double(), after.double(), dim=-1)).mean())
    assert before.shape == (60, 4, 16)
    assert block_influence(teacher, stack, HELD_OUT)[0] == pytest.approx(expected, rel=1e-4)


def test_a_deletion_repeats_whatever_the_random_state() -> None:
    plans = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        plans.append(deletion_plan(vision().module, pairs("full"), FIT, HELD_OUT, "kl"))
    assert plans[0] == plans[1]
