"""What stands most between a network and a stack is what is told."""

from __future__ import annotations

from parallelize.models.prepare import weightiest
from passes.stacks.find import Refusal


def test_the_reason_of_the_most_adds_is_quoted_whatever_their_names() -> None:
    odd = Refusal("add", "the term has no parameters")
    same = [Refusal(f"add_{i}", f"add_{i} reads mul_{i}, which is not the state") for i in (1, 2, 3)]
    assert weightiest([odd]) == "add: the term has no parameters"
    assert weightiest([odd, *same]) == "add_1 and 2 more: add_1 reads mul_1, which is not the state"
