"""Plans: what a schedule is, how it is written down, and what no network can run."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from passes.errors import ParallelizeError
from passes.plan import FORMAT, REFITS, Level, Plan, StackPlan, grouped, serial
from tests.passes.models import Levels, stack_plan
from tests.passes.schedules import stack_plans

PAIR = [[(0, 1), (2, 3)]]


def _levels(plan: StackPlan) -> list[list[list[int]]]:
    return [[list(chain) for chain in level.chains] for level in plan.levels]


def _refusal(text: str) -> ParallelizeError:
    with pytest.raises(ParallelizeError) as caught:
        Plan.from_json(text)
    return caught.value


def _json(levels: object, **parts: object) -> str:
    stack = {"terms": 4, "refit": "none", "levels": levels, **parts}
    return json.dumps({"format": FORMAT, "seed": 0, "stacks": [stack]})


def test_a_serial_schedule_has_one_chain_of_one_term_on_each_level() -> None:
    plan = serial(3)
    assert _levels(plan) == [[[0]], [[1]], [[2]]]
    assert plan.is_serial
    assert plan.depth == 3
    assert plan.deleted == ()


def test_a_plan_that_is_not_serial_says_so() -> None:
    assert not stack_plan(3, [[[0]], [[1], [2]]]).is_serial
    assert not stack_plan(3, [[[0]], [[1]]]).is_serial
    assert not stack_plan(2, [[[0, 1]]]).is_serial


def test_sublayer_form_puts_the_same_place_of_all_blocks_of_a_group_on_one_level() -> None:
    plan = grouped(4, PAIR)
    assert _levels(plan) == [[[0], [2]], [[1], [3]]]
    assert plan.depth == 2


def test_block_form_puts_the_blocks_of_a_group_as_chains_on_one_level() -> None:
    plan = grouped(4, PAIR, form="block")
    assert _levels(plan) == [[[0, 1], [2, 3]]]
    assert plan.depth == 2


@pytest.mark.parametrize("form", ["sublayer", "block"])
def test_groups_of_one_block_are_serial_in_both_forms(form: str) -> None:
    assert grouped(4, [[(0, 1)], [(2, 3)]], form=form).is_serial  # type: ignore[arg-type]


def test_groups_may_be_unequal() -> None:
    plan = grouped(8, [[(0, 1)], [(2, 3), (4, 5), (6, 7)]])
    assert _levels(plan) == [[[0]], [[1]], [[2], [4], [6]], [[3], [5], [7]]]
    assert plan.depth == 4


def test_a_shorter_block_of_a_group_leaves_the_later_levels_to_the_longer_ones() -> None:
    assert _levels(grouped(5, [[(0, 1, 2), (3, 4)]])) == [[[0], [3]], [[1], [4]], [[2]]]


def test_blocks_of_unequal_length_stay_whole_in_block_form() -> None:
    plan = grouped(5, [[(0, 1, 2), (3, 4)]], form="block")
    assert _levels(plan) == [[[0, 1, 2], [3, 4]]]
    assert plan.depth == 3


def test_grouped_keeps_the_strength_of_the_refit() -> None:
    assert grouped(4, PAIR, refit="affine").refit == "affine"


def test_grouped_refuses_a_term_that_the_stack_does_not_have() -> None:
    with pytest.raises(ParallelizeError, match=r"^The plan names term 4, the stack has 4 terms\.$"):
        grouped(4, [[(0, 1), (2, 4)]])


def test_terms_on_no_level_are_deleted() -> None:
    plan = stack_plan(6, [[[0], [3]], [[5]]])
    plan.check()
    assert plan.deleted == (1, 2, 4)
    assert plan.depth == 2


def test_a_schedule_of_nothing_deletes_every_term() -> None:
    plan = stack_plan(2, [])
    plan.check()
    assert plan.deleted == (0, 1)
    assert plan.depth == 0


@pytest.mark.parametrize(
    ("levels", "depth"),
    [([[[0, 1], [2]], [[3]]], 3), ([[[0], [1], [2], [3]]], 1), ([[[0, 1, 2, 3]]], 4), ([[[0], [1, 2]], [[3]]], 3)],
)
def test_depth_is_the_sum_of_the_longest_chains(levels: Levels, depth: int) -> None:
    assert stack_plan(4, levels).depth == depth


def test_a_plan_is_serial_where_every_stack_is() -> None:
    assert Plan((serial(3), serial(4))).is_serial
    assert not Plan((serial(3), grouped(4, PAIR))).is_serial


def test_a_level_lists_its_terms_in_serial_order() -> None:
    assert Level(((2, 4), (1,), (3,))).terms == (1, 2, 3, 4)


def test_another_strength_of_refit_leaves_schedule_and_seed_alone() -> None:
    plan = Plan((grouped(4, PAIR), serial(2)), seed=7)
    changed = plan.with_refit("full")
    assert [stack.refit for stack in changed.stacks] == ["full", "full"]
    assert [stack.levels for stack in changed.stacks] == [stack.levels for stack in plan.stacks]
    assert changed.seed == 7


@pytest.mark.parametrize(
    ("levels", "sentence"),
    [
        ([[[0]], []], "Level 1 of the plan has an empty chain."),
        ([[[0], []]], "Level 0 of the plan has an empty chain."),
        ([[[0]], [[4]]], "The plan names term 4, the stack has 4 terms."),
        ([[[-1]]], "The plan names term -1, the stack has 4 terms."),
        ([[[0]], [[1], [1]]], "The plan runs term 1 twice."),
        ([[[0]], [[0]]], "The plan runs term 0 twice."),
        ([[[0]], [[2, 1]]], "A chain of level 1 of the plan is not in serial order."),
        ([[[1]], [[0]]], "Level 1 of the plan begins before the level ahead of it."),
        ([[[0]], [[2]], [[1], [3]]], "Level 2 of the plan begins before the level ahead of it."),
    ],
)
def test_a_schedule_that_no_network_can_run_is_refused_with_the_level_or_term(levels: Levels, sentence: str) -> None:
    with pytest.raises(ParallelizeError) as caught:
        stack_plan(4, levels).check()
    assert str(caught.value) == sentence
    assert caught.value.hint.startswith("Each level lists chains, each chain lists term numbers from 0;")
    assert str(_refusal(_json(levels))) == sentence


def test_an_unknown_strength_of_refit_is_refused_with_the_known_ones() -> None:
    error = _refusal(_json([[[0]]], refit="strong"))
    assert str(error) == "The plan asks for the refit 'strong'."
    assert error.hint == "It is one of none, affine, full."


def test_a_later_level_may_hold_earlier_terms_than_the_last_of_the_level_ahead() -> None:
    stack_plan(4, [[[0], [2]], [[1], [3]]]).check()


@given(st.lists(stack_plans(), max_size=3), st.integers(0, 2**32), st.lists(st.sampled_from(REFITS), min_size=3))
def test_every_schedule_comes_back_from_json_as_it_was(stacks: list[StackPlan], seed: int, refits: list[str]) -> None:
    for stack in stacks:
        stack.check()
    named = tuple(StackPlan(s.terms, s.levels, r) for s, r in zip(stacks, refits, strict=False))  # type: ignore[arg-type]
    plan = Plan(named, seed)
    assert Plan.from_json(plan.to_json()) == plan


@given(stack_plans())
def test_terms_are_either_on_a_level_or_deleted(plan: StackPlan) -> None:
    placed = [term for level in plan.levels for term in level.terms]
    assert sorted([*placed, *plan.deleted]) == list(range(plan.terms))


@given(stack_plans())
def test_no_schedule_is_deeper_than_the_terms_that_it_runs(plan: StackPlan) -> None:
    assert plan.depth <= plan.terms - len(plan.deleted)


def test_json_holds_one_level_a_line_so_that_it_can_be_edited() -> None:
    lines = Plan((grouped(4, PAIR, refit="full"),), seed=3).to_json().splitlines()
    assert [line.strip() for line in lines] == [
        "{",
        '"format": "parallelize-plan/1",',
        '"seed": 3,',
        '"stacks": [',
        "{",
        '"terms": 4,',
        '"refit": "full",',
        '"levels": [',
        "[[0], [2]],",
        "[[1], [3]]",
        "]",
        "}",
        "]",
        "}",
    ]


def test_refit_and_seed_may_be_left_out_of_the_json() -> None:
    text = json.dumps({"format": FORMAT, "stacks": [{"terms": 2, "levels": [[[0], [1]]]}]})
    assert Plan.from_json(text) == Plan((stack_plan(2, [[[0], [1]]]),), 0)


def test_another_format_is_refused_with_its_name() -> None:
    error = _refusal('{"format": "other/2", "stacks": []}')
    assert str(error) == "The plan has the format 'other/2', not 'parallelize-plan/1'."
    assert "plan.json" in error.hint


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{}", "The plan cannot be read: KeyError 'format'."),
        ('{"format": "parallelize-plan/1"}', "The plan cannot be read: KeyError 'stacks'."),
        (
            '{"format": "parallelize-plan/1", "stacks": [{"levels": []}]}',
            "The plan cannot be read: KeyError 'terms'.",
        ),
        ("[]", "The plan cannot be read: TypeError list indices must be integers or slices, not str."),
        ("plan", "The plan cannot be read: JSONDecodeError Expecting value: line 1 column 1 (char 0)."),
        (_json([[["one"]]]), "The plan cannot be read: ValueError invalid literal for int() with base 10: 'one'."),
        (_json([[0]]), "The plan cannot be read: TypeError 'int' object is not iterable."),
        (
            '{"format": "parallelize-plan/1", "seed": Infinity, "stacks": []}',
            "The plan cannot be read: OverflowError cannot convert float infinity to integer.",
        ),
    ],
)
def test_a_text_that_is_no_plan_is_refused_with_the_cause(text: str, sentence: str) -> None:
    error = _refusal(text)
    assert str(error) == sentence
    assert error.exit_code == 2


def test_a_shared_norm_survives_json_and_stands_beside_the_chains() -> None:
    plan = Plan((StackPlan(4, (Level(((0,), (2,)), shared=True), Level(((1,), (3,))))),))
    assert '{"chains": [[0], [2]], "norm": "shared"},\n        [[1], [3]]' in plan.to_json()
    assert Plan.from_json(plan.to_json()) == plan


def test_a_norm_that_is_neither_shared_nor_each_terms_own_is_refused() -> None:
    refusal = _refusal(_json([{"chains": [[0], [1]], "norm": "both"}]))
    assert "a level has the norm 'both', not 'each' or 'shared'" in str(refusal)
