"""Prefixes are asked for by numbers, by a string of them, or all."""

from __future__ import annotations

import pytest

from parallelize.conversion.options import ConvertOptions
from parallelize.conversion.prefix_options import asked_prefixes
from passes.errors import ParallelizeError


@pytest.mark.parametrize(
    ("asked", "outputs", "found"),
    [
        (None, False, None),
        (None, True, ()),
        ("all", False, ()),
        (" all ", True, ()),
        ("1,2,4", False, (1, 2, 4)),
        ("4, 2,2", False, (2, 4)),
        ((4, 1), False, (1, 4)),
        ([3], True, (3,)),
    ],
)
def test_what_is_asked_for_is_read(asked: object, outputs: bool, found: object) -> None:
    options = ConvertOptions(prefixes=asked, prefix_outputs=outputs)  # type: ignore[arg-type]
    assert asked_prefixes(options) == found


@pytest.mark.parametrize("asked", ["0", "abc", "1,,2", "1.5", "-1", "", (0,), (1.5,), ("x",)])
def test_anything_else_is_refused_with_what_can_be_given(asked: object) -> None:
    with pytest.raises(ParallelizeError, match="not numbers of branches from 1 on") as raised:
        asked_prefixes(ConvertOptions(prefixes=asked))  # type: ignore[arg-type]
    assert "1,2,4, or all" in raised.value.hint


def test_no_prefix_at_all_is_refused() -> None:
    with pytest.raises(ParallelizeError, match="No prefix is named"):
        asked_prefixes(ConvertOptions(prefixes=()))
