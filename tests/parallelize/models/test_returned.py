"""The container of a network's outputs is told by its graph, by metadata, or else by names."""

from __future__ import annotations

import pytest
import torch

from parallelize.models.returned import Returned
from tests.parallelize.conversion.loading.directories import KINDS, words


@pytest.mark.parametrize("kind", KINDS)
def test_a_graph_says_what_it_returns_and_metadata_says_it_again(kind: str) -> None:
    found = Returned.of(words(kind))  # type: ignore[arg-type]
    assert found.container == kind
    assert Returned.from_metadata(found.to_metadata(), ["a"] * len(found.names)) == found


NAMED = {
    ("logits",): "tensor",
    ("output_0", "output_1"): "tuple",
    ("logits", "hidden"): "dict",
    ("output", "h"): "dict",
}


@pytest.mark.parametrize("names", NAMED)
@pytest.mark.parametrize(
    "text", [None, "", "[", "3", '{"container":"list","names":["a"]}', '{"container":"dict","names":[]}']
)
def test_without_it_the_names_tell(names: tuple[str, ...], text: str | None) -> None:
    assert Returned.from_metadata(text, names) == Returned(NAMED[names], names)  # type: ignore[arg-type]


def test_outputs_are_packed_by_names_in_order() -> None:
    a, b = torch.zeros(1), torch.ones(1)
    assert Returned("tensor", ("a",)).packed([a]) is a
    assert Returned("tuple", ("a", "b")).packed([a, b]) == (a, b)
    assert list(Returned("dict", ("b", "a")).packed([b, a])) == ["b", "a"]
