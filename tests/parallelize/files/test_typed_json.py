"""Dataclasses are written and read by the types of their fields, and what is wrong is named by its place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from parallelize.files.typed_json import from_plain, to_plain
from passes.errors import ParallelizeError


@dataclass(frozen=True)
class Leaf:
    number: float
    word: Literal["left", "right"] = "left"


@dataclass(frozen=True)
class Tree:
    name: str | None
    leaves: tuple[Leaf, ...]
    pair: tuple[int, str]
    by_name: Mapping[str, Leaf]
    straight: bool = True


TREE = Tree(None, (Leaf(1.5, "right"), Leaf(2)), (1, "a"), {"x": Leaf(0.0)})
PLAIN = {
    "name": None,
    "leaves": [{"number": 1.5, "word": "right"}, {"number": 2, "word": "left"}],
    "pair": [1, "a"],
    "by_name": {"x": {"number": 0.0, "word": "left"}},
    "straight": True,
}


def test_fields_are_keys_in_their_order_and_are_read_back() -> None:
    assert to_plain(TREE) == PLAIN
    assert list(to_plain(TREE)) == list(PLAIN)
    assert from_plain(Tree, PLAIN, "tree") == TREE


def test_a_key_that_no_field_has_is_left_out_and_a_field_with_a_default_may_be_missing() -> None:
    plain = {key: value for key, value in PLAIN.items() if key != "straight"}
    assert from_plain(Tree, {**plain, "later": 3}, "tree") == TREE


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"leaves": [{"word": "left"}]}, r"tree\.leaves\[0\] has no 'number'"),
        ({"leaves": {}}, r"tree\.leaves is \{\}, not a list"),
        ({"leaves": [{"number": "x"}]}, r"tree\.leaves\[0\]\.number is \"x\", not a number"),
        ({"leaves": [{"number": True}]}, r"tree\.leaves\[0\]\.number is true, not a number"),
        ({"leaves": [{"number": 1, "word": "up"}]}, r"word is \"up\", not 'left' or 'right'"),
        ({"leaves": [3]}, r"tree\.leaves\[0\] is 3, not an object"),
        ({"pair": [1]}, r"tree\.pair is \[1\], not a list of 2"),
        ({"by_name": []}, r"tree\.by_name is \[\], not an object"),
        ({"by_name": {"x": {}}}, r"tree\.by_name\.x has no 'number'"),
        ({"name": 3}, r"tree\.name is 3, not a string"),
        ({"straight": 1}, r"tree\.straight is 1, not true or false"),
    ],
)
def test_what_is_wrong_is_named_by_its_place(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ParallelizeError, match=message):
        from_plain(Tree, {**PLAIN, **change}, "tree")
