"""Forms of groups: which terms run on which level, under whose norm."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from parallelize.metrics import predict
from parallelize.models.program import Program
from parallelize.planning.forms import GroupForm, alike, gptj, main_form, other_forms, sublayer
from passes.plan import Level, Plan, StackPlan
from passes.schedule.apply_plan import rewrite
from passes.stacks.find import Stack
from tests.parallelize.planning.cases import VECTORS, mlps, post_norm, post_norm_blocks, stack_of, three_terms
from tests.parallelize.small_models import PostNorm, capture_vectors, vision
from tests.sampled import sampled

PROGRAMS = {
    "one term": mlps,
    "two terms": vision,
    "three terms": three_terms,
    "post-norm, one term": lambda: post_norm(4),
    "post-norm, two terms": lambda: post_norm_blocks(3),
    "post-norm but for the last add": lambda: post_norm_blocks(3, (5,)),
    "every other add post-norm": lambda: post_norm_blocks(3, (1, 3, 5)),
}


def _all_forms(stack: Stack, first: int, last: int) -> list[GroupForm]:
    main = main_form(stack, first, last)
    return [main, *other_forms(stack, first, last, main.cut)]


def _chains(stack: Stack, first: int, last: int) -> dict[str, list[list[list[int]]]]:
    """The chains of all forms by name."""
    forms = _all_forms(stack, first, last)
    return {form.name: [[list(chain) for chain in level.chains] for level in form.levels] for form in forms}


def test_two_terms_are_run_in_gptj_form_in_sublayer_form_in_block_form_or_deleted() -> None:
    stack = stack_of(vision())
    assert main_form(stack, 1, 3).name == "GPT-J, cut at 3"
    assert _chains(stack, 1, 3) == {
        "GPT-J, cut at 3": [[[2], [3], [4], [5]], [[6], [7]]],
        "GPT-J, cut at 2": [[[2], [3]], [[4], [5], [6], [7]]],
        "sublayer": [[[2], [4], [6]], [[3], [5], [7]]],
        "block": [[[2, 3], [4, 5], [6, 7]]],
        "deletion of all but 1": [[[2]], [[3]]],
        "deletion of all but 3": [[[6]], [[7]]],
    }
    assert not any(level.shared for form in _all_forms(stack, 1, 3) for level in form.levels)


@pytest.mark.parametrize(("cheapest", "beside"), [(1, [2]), (2, [1, 3]), (3, [2])])
def test_the_cuts_beside_the_cheapest_one_are_tried_where_both_halves_have_a_block(
    cheapest: int, beside: list[int]
) -> None:
    stack = stack_of(vision())
    forms = list(other_forms(stack, 0, 3, cheapest))
    assert [form.cut for form in forms if form.cut is not None] == beside
    assert [form for form in forms if form.cut is not None] == [gptj(stack, 0, 3, cut) for cut in beside]
    assert "sublayer" in {form.name for form in forms}


def test_the_main_form_of_two_blocks_of_two_terms_is_gptj_between_them() -> None:
    assert _chains(stack_of(vision()), 0, 1)["GPT-J, cut at 1"] == [[[0], [1]], [[2], [3]]]
    assert main_form(stack_of(vision()), 0, 1).name == "GPT-J, cut at 1"


def test_one_term_is_run_on_one_level_or_deleted() -> None:
    stack = stack_of(mlps())
    assert main_form(stack, 0, 2).name == "sublayer"
    assert _chains(stack, 0, 2) == {
        "sublayer": [[[0], [1], [2]]],
        "deletion of all but 0": [[[0]]],
        "deletion of all but 2": [[[2]]],
    }


def test_three_terms_are_run_in_sublayer_form_in_block_form_or_deleted() -> None:
    stack = stack_of(three_terms())
    assert stack.period == 3
    assert main_form(stack, 1, 2).name == "sublayer"
    assert _chains(stack, 1, 2) == {
        "sublayer": [[[3], [6]], [[4], [7]], [[5], [8]]],
        "block": [[[3, 4, 5], [6, 7, 8]]],
        "deletion of all but 1": [[[3]], [[4]], [[5]]],
        "deletion of all but 2": [[[6]], [[7]], [[8]]],
    }


def test_post_norm_terms_share_a_norm_on_each_level_or_keep_their_own() -> None:
    one = {form.name: form.levels for form in _all_forms(stack_of(post_norm(4)), 1, 2)}
    assert one["sublayer"] == (Level(((1,), (2,)), shared=True),)
    assert one["sublayer, each its norm"] == (Level(((1,), (2,))),)
    two = {form.name: form.levels for form in _all_forms(stack_of(post_norm_blocks(3)), 0, 1)}
    assert two["GPT-J, cut at 1"] == (Level(((0,), (1,)), shared=True), Level(((2,), (3,)), shared=True))
    assert two["sublayer"] == (Level(((0,), (2,)), shared=True), Level(((1,), (3,)), shared=True))
    assert two["sublayer, each its norm"] == (Level(((0,), (2,))), Level(((1,), (3,))))
    assert two["block"] == (Level(((0, 1), (2, 3)), shared=True),)
    assert two["deletion of all but 1"] == (Level(((2,),)), Level(((3,),)))


def test_a_level_one_of_whose_terms_has_no_norm_shares_none() -> None:
    stack = stack_of(post_norm_blocks(3, (5,)))
    assert alike(stack, 4, 5), "kinds do not tell norms"
    assert sublayer(stack, 3, 4).levels[0].shared
    assert not sublayer(stack, 4, 5).levels[0].shared
    assert "sublayer, each its norm" not in _chains(stack, 4, 5)


def test_where_only_the_first_terms_have_norms_only_their_level_shares_one() -> None:
    stack = stack_of(post_norm_blocks(3, (1, 3, 5)))
    assert [level.shared for level in sublayer(stack, 0, 2).levels] == [True, False]
    assert [level.shared for level in gptj(stack, 0, 2, 1).levels] == [False, False]
    assert "sublayer, each its norm" in _chains(stack, 0, 2)


@pytest.mark.parametrize("program", sampled(PROGRAMS, 3))
def test_every_form_of_every_group_fits_the_model_and_is_as_deep_as_one_block(program: object) -> None:
    assert callable(program)
    captured: Program = program()
    stack = stack_of(captured)
    count = len(stack.blocks)
    for first in range(count):
        for last in range(first, count):
            forms = _all_forms(stack, first, last)
            assert len({form.name for form in forms}) == len({form.levels for form in forms}) == len(forms)
            for form in forms:
                assert form.span == (first, last)
                assert sum(level.depth for level in form.levels) == stack.period
                rewrite(captured.module, _plan(stack, form))
                wanted = {term for block in stack.blocks[first : last + 1] for term in block}
                ran = {term for level in form.levels for term in level.terms}
                kept = [set(stack.blocks[block]) for block in (first, last)]
                assert ran in kept if form.name.startswith("deletion") else ran == wanted


def _plan(stack: Stack, form: GroupForm) -> Plan:
    """The serial network with one group in a form."""
    before, after = stack.blocks[: form.first], stack.blocks[form.last + 1 :]
    serial = [[Level(((term,),)) for block in part for term in block] for part in (before, after)]
    return Plan((StackPlan(len(stack.terms), (*serial[0], *form.levels, *serial[1])),))


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_one_block_is_serial_and_has_no_other_form(program: object) -> None:
    assert callable(program)
    stack = stack_of(program())
    for block in range(len(stack.blocks)):
        (form,) = _all_forms(stack, block, block)
        assert form.name == "serial"
        assert form.levels == tuple(Level(((term,),)) for term in stack.blocks[block])


def test_forms_of_post_norm_terms_compute_what_their_formulas_say() -> None:
    torch.manual_seed(0)
    network = PostNorm(3)
    program = capture_vectors(network, 6)
    stack = stack_of(program)
    x = VECTORS[0].arrays["x"]
    f, norms = network.terms, network.norms
    first, second = (norm(x + term(x)) for term, norm in zip(f[:2], norms[:2], strict=True))
    states = {
        "sublayer": norms[1](x + f[0](x) + f[1](x)),
        "sublayer, each its norm": first + second - x,
        "deletion of all but 0": first,
        "deletion of all but 1": second,
    }
    forms = _all_forms(stack, 0, 1)
    assert states.keys() == {form.name for form in forms}
    for form in forms:
        state = states[form.name]
        (found,) = predict(rewrite(program.module, _plan(stack, form))[0], VECTORS[0])
        assert torch.allclose(found, norms[2](state + f[2](state)), atol=1e-10)


def test_groups_of_different_kinds_are_not_alike() -> None:
    block = stack_of(vision(depth=1))
    assert block.blocks == ((0, 1),)
    stack = replace(block, terms=(*block.terms, block.terms[1]))
    assert len(stack.blocks) == 3
    assert not alike(stack, 0, 1)
    assert alike(stack, 1, 2)
