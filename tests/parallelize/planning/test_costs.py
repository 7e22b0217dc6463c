"""What a group costs: the error of the network with that group alone side by side, on a few samples."""

from __future__ import annotations

from math import inf

import pytest
import torch
from torch import Tensor, nn

from parallelize.data import Samples
from parallelize.metrics import Judge, predict, score
from parallelize.models.capture import capture
from parallelize.models.states import batch_size, start_batches
from parallelize.planning.costs import GroupCosts
from parallelize.planning.forms import GroupForm, main_form, other_forms, sublayer
from parallelize.refitting.walk import StackWalk
from passes.graph.editing import finish, restore_order
from passes.plan import Level, Plan, Refit, StackPlan, serial
from passes.schedule.apply_plan import rewrite
from passes.stacks.find import Stack, find_stacks
from tests.parallelize.planning.cases import (
    HELD_OUT,
    VECTORS,
    mlps,
    needs_its_first_block,
    of_vision,
    post_norm_blocks,
)
from tests.parallelize.small_models import Residual, TwoStacks, capture_vectors, language, mlp, text, vision


def _plan(stack: Stack, form: GroupForm, strength: Refit) -> tuple[StackPlan, int]:
    """The serial stack with one group in a form, and how many levels come before those of the group."""
    ahead = [Level(((term,),)) for block in stack.blocks[: form.first] for term in block]
    after = [Level(((term,),)) for block in stack.blocks[form.last + 1 :] for term in block]
    return StackPlan(len(stack.terms), (*ahead, *form.levels, *after), strength), len(ahead)


def _refit_group_only(form: GroupForm, fit: Samples) -> list[Tensor]:
    """Outputs when all levels up to the group are walked from the start and everything after it is untouched."""
    teacher = vision().module
    (stack,) = find_stacks(teacher).stacks
    part, ahead = _plan(stack, form, "affine")
    module, (site,) = rewrite(teacher, Plan((part,)))
    parts = tuple(start_batches(teacher, stack.entry, samples) for samples in (fit, HELD_OUT))
    walk = StackWalk(teacher, stack, module, site, part, (parts[0], parts[1]))
    for level in range(ahead + len(form.levels)):
        walk.refit_level(level)
    restore_order(module)
    return predict(finish(module), HELD_OUT)


@pytest.mark.parametrize("span", [(1, 2), *(pytest.param(span, marks=pytest.mark.slow) for span in ((0, 1), (2, 3)))])
def test_a_group_costs_the_error_of_the_network_with_that_group_alone_in_its_form(span: tuple[int, int]) -> None:
    planner = of_vision()
    (stack,) = planner.stacks
    expected = predict(vision().module, HELD_OUT)
    first = stack.blocks[span[0]][0]
    for form in (main_form(stack, *span), *other_forms(stack, *span, main_form(stack, *span).cut)):
        if form.levels[0].terms[0] > first > 0:
            continue  # a whole walk lets the level ahead of a group do the work of terms deleted at its start
        error = score(_refit_group_only(form, planner.costs.fit), expected).error("kl")
        assert planner.costs.cost(0, form) == pytest.approx(error, rel=1e-3)


@pytest.mark.slow
def test_without_a_refit_a_group_costs_the_error_of_the_plain_rewrite() -> None:
    teacher = post_norm_blocks(3).module
    stacks = find_stacks(teacher).stacks
    costs = GroupCosts(teacher, stacks, VECTORS[0], Judge(teacher, VECTORS[1]), "none")
    expected = predict(teacher, VECTORS[1])
    for first, last in ((0, 1), (1, 2), (0, 2)):
        for form in (
            main_form(stacks[0], first, last),
            *other_forms(stacks[0], first, last, main_form(stacks[0], first, last).cut),
        ):
            module, _ = rewrite(teacher, Plan((_plan(stacks[0], form, "none")[0],)))
            error = score(predict(module, VECTORS[1]), expected).error("relative-l2")
            assert costs.cost(0, form) == pytest.approx(error, rel=1e-6)


def test_groups_of_the_second_stack_are_measured_with_the_first_one_serial() -> None:
    torch.manual_seed(0)
    teacher = capture_vectors(TwoStacks(), 6).module
    stacks = find_stacks(teacher).stacks
    costs = GroupCosts(teacher, stacks, VECTORS[0], Judge(teacher, VECTORS[1]), "none")
    form = sublayer(stacks[1], 1, 3)
    module, _ = rewrite(teacher, Plan((serial(3), _plan(stacks[1], form, "none")[0])))
    error = score(predict(module, VECTORS[1]), predict(teacher, VECTORS[1])).error("relative-l2")
    assert costs.cost(1, form) == pytest.approx(error, rel=1e-6)
    assert costs.cost(0, sublayer(stacks[0], 1, 2)) != costs.cost(1, sublayer(stacks[1], 1, 2))


def test_stacks_beside_each_other_are_measured_through_all_outputs() -> None:
    class Beside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left = Residual([mlp(6, 12) for _ in range(3)])
            self.right = Residual([mlp(6, 12) for _ in range(2)], scale=2.0)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return torch.cat([self.left(x), self.right(x)], 1), x

    torch.manual_seed(0)
    teacher = capture_vectors(Beside(), 6).module
    stacks = find_stacks(teacher).stacks
    costs = GroupCosts(teacher, stacks, VECTORS[0], Judge(teacher, VECTORS[1]), "none")
    for number, stack in enumerate(stacks):
        form = sublayer(stack, 0, 1)
        parts = [serial(len(other.terms)) for other in stacks]
        parts[number] = _plan(stack, form, "none")[0]
        outputs = predict(rewrite(teacher, Plan(tuple(parts)))[0], VECTORS[1])
        error = score(outputs, predict(teacher, VECTORS[1])).error("relative-l2")
        assert costs.cost(number, form) == pytest.approx(error, rel=1e-6)


def test_a_single_block_costs_nothing_and_is_not_measured() -> None:
    teacher = mlps().module
    stacks = find_stacks(teacher).stacks
    costs = GroupCosts(teacher, stacks, VECTORS[0], Judge(teacher, VECTORS[1]), "none")
    form = main_form(stacks[0], 2, 2)
    assert costs.is_known(0, form)
    assert costs.cost(0, form) == 0.0
    assert costs.known == {}


def test_a_cost_is_measured_once_and_taken_from_what_is_known() -> None:
    teacher = mlps().module
    stacks = find_stacks(teacher).stacks
    judge = Judge(teacher, VECTORS[1])
    form = main_form(stacks[0], 0, 1)
    costs = GroupCosts(teacher, stacks, VECTORS[0], judge, "none")
    assert not costs.is_known(0, form)
    cost = costs.cost(0, form)
    assert costs.is_known(0, form)
    assert costs.known == {"0 0-1 sublayer": cost}
    assert GroupCosts(teacher, stacks, VECTORS[0], judge, "none", {"0 0-1 sublayer": 7.0}).cost(0, form) == 7.0


def test_the_order_in_which_groups_are_measured_does_not_matter() -> None:
    teacher = mlps().module
    stacks = find_stacks(teacher).stacks
    forms = [main_form(stacks[0], *span) for span in ((0, 1), (0, 2), (1, 2), (2, 3))]
    found = []
    for order in (forms, forms[::-1], [forms[0], forms[0], *forms]):
        costs = GroupCosts(teacher, stacks, VECTORS[0], Judge(teacher, VECTORS[1]), "affine")
        measured = {form: costs.cost(0, form) for form in order}
        found.append([measured[form] for form in forms])
    assert found[0] == found[1] == found[2]


def test_a_group_that_makes_the_outputs_nan_costs_infinitely_much() -> None:
    teacher = needs_its_first_block().module
    stacks = find_stacks(teacher).stacks
    costs = GroupCosts(teacher, stacks, VECTORS[0], Judge(teacher, VECTORS[1], "kl"), "none")
    assert costs.cost(0, main_form(stacks[0], 0, 1)) == inf
    assert 0 < costs.cost(0, main_form(stacks[0], 1, 2)) < inf


def test_padding_does_not_change_a_cost() -> None:
    teacher = language().module
    stacks = find_stacks(teacher).stacks
    fit, held_out = text(60, 0), text(30, 1)
    costs = GroupCosts(teacher, stacks, fit, Judge(teacher, held_out, "perplexity"), "affine")
    form = main_form(stacks[0], 1, 2)
    cost = costs.cost(0, form)
    for samples in (fit, held_out):
        padding = samples.arrays["attention_mask"] == 0
        assert padding.any()
        samples.arrays["input_ids"][padding] = 7
    again = GroupCosts(teacher, stacks, fit, Judge(teacher, held_out, "perplexity"), "affine")
    assert again.cost(0, form) == pytest.approx(cost, rel=1e-4)


def test_a_batch_is_smaller_where_tensors_are_large() -> None:
    assert batch_size(mlps().module) == 100
    wide = capture(Residual([mlp(4, 2**18) for _ in range(2)]).eval(), (torch.zeros(2, 4),), origin="wide")
    assert batch_size(wide.module) == 100
    assert batch_size(wide.module, most=1000) == 2**25 // 2**18
