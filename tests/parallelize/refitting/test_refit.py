"""The refit: nearer to the teacher on samples it never saw, or not at all."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

from parallelize.data import Samples
from parallelize.models.program import Program
from parallelize.refitting.records import LevelRefit
from parallelize.refitting.refit import refit
from parallelize.refitting.ridge import RIDGES
from passes.graph.measures import operator_counts, parameter_count
from passes.plan import Plan, Refit
from passes.schedule.apply_plan import rewrite
from tests.parallelize.refitting.four_mlps import FIT, HELD_OUT, IMAGES, JUDGE, WIDTH, distance, outputs, seeded
from tests.parallelize.small_models import Residual, capture_vectors, pairs, stack_plan, vectors, vision


@pytest.mark.parametrize("strength", ["affine", "full"])
def test_the_refitted_rewrite_is_much_nearer_to_the_teacher_on_samples_it_never_saw(strength: Refit) -> None:
    teacher = vision().module
    fit, held_out, judge = IMAGES
    as_is, _ = rewrite(teacher, pairs(strength))
    refitted = refit(teacher, pairs(strength), fit, held_out)
    assert distance(refitted.module, teacher, judge) < 0.6 * distance(as_is, teacher, judge)
    assert [level.strength for level in refitted.levels] == [strength] * 4
    assert [level.level for level in refitted.levels] == [0, 1, 2, 3]
    assert all(level.after < level.before and level.ridge in RIDGES for level in refitted.levels)


@pytest.mark.parametrize("levels", [[[[0], [1]], [[2], [3]]], [[[0, 1], [2, 3]]], [[[0]], [[1]], [[3]]], [[[1]]]])
def test_a_full_refit_is_at_least_as_good_as_an_affine_one_on_the_samples_of_the_fit(
    program: Program, levels: list[list[list[int]]]
) -> None:
    affine, full = (refit(program.module, stack_plan(4, levels, strength), FIT, FIT) for strength in ("affine", "full"))
    pairs_of_levels = list(zip(affine.levels, full.levels, strict=True))
    first = next(number for number, level in enumerate(affine.levels) if level.before > 0)
    assert full.levels[first].after <= affine.levels[first].after
    assert full.levels[first].before == affine.levels[first].before
    assert all(b.after <= b.before and a.after <= a.before for a, b in pairs_of_levels)
    distances = [distance(refitted.module, program.module, FIT) for refitted in (full, affine)]
    assert distances == sorted(distances)


def test_a_linear_problem_is_solved_by_the_affine_part_alone() -> None:
    network = seeded(lambda: Residual([nn.Linear(WIDTH, WIDTH) for _ in range(3)]))
    teacher = capture_vectors(network, WIDTH).module
    plan = stack_plan(3, [[[0], [1], [2]]], "affine")
    as_is, _ = rewrite(teacher, plan)
    refitted = refit(teacher, plan, FIT, HELD_OUT)
    assert distance(as_is, teacher, JUDGE) > 0.1
    assert distance(refitted.module, teacher, JUDGE) < 1e-5
    assert refitted.levels[0].after < 1e-10


def test_a_deleted_linear_term_is_learned_by_what_is_left() -> None:
    network = seeded(lambda: Residual([nn.Linear(WIDTH, WIDTH) for _ in range(3)]))
    teacher = capture_vectors(network, WIDTH).module
    refitted = refit(teacher, stack_plan(3, [[[0]], [[2]]], "affine"), FIT, HELD_OUT)
    assert distance(refitted.module, teacher, JUDGE) < 1e-5


def _as_is_equals_refitted(teacher: fx.GraphModule, plan: Plan, fit: Samples, held_out: Samples) -> LevelRefit:
    """Refit a plan of one level, check that nothing was changed, and return the record."""
    as_is, _ = rewrite(teacher, plan)
    refitted = refit(teacher, plan, fit, held_out)
    for samples in (fit, held_out):
        assert torch.equal(outputs(refitted.module, samples), outputs(as_is, samples))
    assert parameter_count(refitted.module) == parameter_count(as_is)
    assert operator_counts(refitted.module) == operator_counts(as_is)
    (level,) = refitted.levels
    return level


class Clipped(nn.Module):
    """hardtanh(x) / 2: one half above 1, minus one half below -1."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
        nn.init.constant_(self.up.weight, 1.0)
        nn.init.constant_(self.down.weight, 0.5)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down(F.hardtanh(self.up(x)))
        return y


@pytest.mark.parametrize("strength", ["affine", "full"])
def test_what_helps_the_samples_of_the_fit_and_hurts_held_out_ones_is_not_applied(strength: Refit) -> None:
    """Side by side, the identity misses what Clipped adds: 0.5 above 1, where it is fitted, -0.5 where it is judged.

    The bias lets both the read-in and the read-out fit a constant, and only that.
    """
    identity = nn.Linear(1, 1)
    nn.init.constant_(identity.weight, 1.0)
    nn.init.constant_(identity.bias, 0.0)
    teacher = capture_vectors(Residual([Clipped(), identity]), 1).module
    plan = stack_plan(2, [[[0], [1]]], strength)
    above = Samples({"x": torch.linspace(1, 2, 50, dtype=torch.float64)[:, None]})
    below = Samples({"x": -above.arrays["x"]})
    level = _as_is_equals_refitted(teacher, plan, above, below)
    assert (level.strength, level.ridge, level.read_ins) == ("none", 0.0, ())
    assert level.before == level.after > 0
    helped = refit(teacher, plan, above, above)
    assert helped.levels[0].after < 1e-8
    assert distance(helped.module, teacher, above) < 1e-4


def test_a_level_that_is_exact_already_is_left_alone(program: Program) -> None:
    refitted = refit(program.module, stack_plan(4, [[[0]], [[1]], [[2], [3]]], "full"), FIT, HELD_OUT)
    assert refitted.levels[:2] == tuple(LevelRefit("terms", number, "none", 0.0, 0.0, 0.0) for number in (0, 1))
    assert refitted.levels[2].strength == "full"


@settings(deadline=None, max_examples=8)
@given(seed=st.integers(0, 1000), samples=st.integers(2, 40), strength=st.sampled_from(["affine", "full"]))
def test_no_level_gets_worse_on_held_out_samples_however_few_fitted_it(
    program: Program, seed: int, samples: int, strength: Refit
) -> None:
    plan = stack_plan(4, [[[0], [1]], [[2], [3]]], strength)
    for level in refit(program.module, plan, vectors(samples, WIDTH, seed), HELD_OUT).levels:
        assert level.after <= level.before
        assert (level.strength == "none" and not level.read_ins) == (level.after == level.before)
