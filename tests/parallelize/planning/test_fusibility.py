"""A group fuses where every branch of its levels is of one operation; where it does not, the first reason is kept."""

from __future__ import annotations

import pytest

from parallelize.models.program import Program
from parallelize.planning.forms import block, deletion, forms, gptj, main_form, other_forms, sublayer
from parallelize.planning.fusibility import Fusibility
from passes.stacks.find import find_stacks
from tests.parallelize.planning.cases import post_norm_blocks, stack_of, unlike
from tests.parallelize.small_models import vision


def of(program: Program) -> Fusibility:
    return Fusibility(program.module, (stack_of(program),))


def test_blocks_of_equal_structure_fuse_in_every_form() -> None:
    module = vision().module
    (stack,) = find_stacks(module).stacks
    fusibility = Fusibility(module, (stack,))
    for form in forms(stack, 0, 3):
        assert fusibility.why_not(0, form) is None, form.name
    assert fusibility.left == {}


def test_a_group_of_unlike_blocks_does_not_fuse_and_the_reason_is_kept() -> None:
    (stack,) = find_stacks(unlike().module).stacks
    fusibility = Fusibility(unlike().module, (stack,))
    assert fusibility.why_not(0, sublayer(stack, 0, 1)) is None
    reason = fusibility.why_not(0, sublayer(stack, 1, 2))
    assert reason is not None
    assert fusibility.why_not(0, sublayer(stack, 0, 3)) is not None
    assert fusibility.left == {0: reason}


def test_one_block_and_deletion_need_no_fusion() -> None:
    (stack,) = find_stacks(unlike().module).stacks
    fusibility = Fusibility(unlike().module, (stack,))
    assert fusibility.why_not(0, main_form(stack, 2, 2)) is None
    assert fusibility.why_not(0, deletion(stack, 1, 3, 1)) is None


def test_equal_blocks_are_tried_once_for_each_form(monkeypatch: pytest.MonkeyPatch) -> None:
    module = vision().module
    (stack,) = find_stacks(module).stacks
    fusibility = Fusibility(module, (stack,))
    tried: list[str] = []
    before = Fusibility._tried

    def tracked(self: Fusibility, number: int, form: object) -> str | None:
        tried.append(form.kind)  # type: ignore[attr-defined]
        return before(self, number, form)  # type: ignore[arg-type]

    monkeypatch.setattr(Fusibility, "_tried", tracked)
    for last in (1, 2, 3):
        fusibility.why_not(0, sublayer(stack, 0, last))
        fusibility.why_not(0, gptj(stack, 0, last, (last + 2) // 2))
    assert sorted(tried) == ["GPT-J", "sublayer"]


def test_the_halves_of_a_group_in_gptj_form_must_fuse_as_the_whole_does_in_sublayer_form() -> None:
    stack, fusibility = stack_of(vision()), of(vision())
    assert fusibility.why_not(0, gptj(stack, 0, 3, 2)) is None
    assert fusibility.why_not(0, block(stack, 0, 3)) is None
    assert {kind for kind, _ in fusibility._reasons} == {"GPT-J", "sublayer", "block"}


def test_post_norm_groups_fuse_under_a_shared_norm_and_under_norms_of_their_own_and_are_tried_apart() -> None:
    program = post_norm_blocks(3)
    stack, fusibility = stack_of(program), of(program)
    own = next(form for form in other_forms(stack, 0, 2, None) if form.name.endswith("each its norm"))
    assert fusibility.why_not(0, sublayer(stack, 0, 2)) is None
    assert fusibility.why_not(0, own) is None
    assert len(fusibility._reasons) == 2


def test_the_reason_names_the_branch_or_what_is_not_the_same() -> None:
    fusibility = of(unlike())
    stack = stack_of(unlike())
    widths, activations = (fusibility.why_not(0, sublayer(stack, first, first + 1)) for first in (1, 2))
    assert widths is not None
    assert activations is not None
    assert widths != activations
    assert fusibility.left == {0: widths}


def test_the_model_that_is_tried_on_stays_as_it_was() -> None:
    module = vision().module
    before = [node.name for node in module.graph.nodes]
    of(vision()).why_not(0, sublayer(stack_of(vision()), 0, 3))
    assert [node.name for node in module.graph.nodes] == before
