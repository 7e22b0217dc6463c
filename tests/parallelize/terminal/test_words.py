"""Numbers and names as sentences need them."""

from __future__ import annotations

import pytest

from parallelize.terminal.words import counted, listed


@pytest.mark.parametrize(("number", "told"), [(0, "0 blocks"), (1, "1 block"), (2, "2 blocks"), (-1, "-1 blocks")])
def test_a_noun_has_its_plural_where_there_is_not_one(number: int, told: str) -> None:
    assert counted(number, "block") == told


def test_names_are_listed_with_a_word_before_the_last() -> None:
    assert listed(["a"]) == "a"
    assert listed(["a", "b"]) == "a or b"
    assert listed(("a", "b", "c"), "and") == "a, b and c"
