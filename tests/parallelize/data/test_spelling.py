"""Shapes of inputs are read as they are spelled, and another spelling is refused."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from parallelize.data import DTYPES, InputSpec, parse_input, parse_inputs
from passes.errors import ParallelizeError


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("1x3x224x224", InputSpec(None, (1, 3, 224, 224), torch.float32)),
        ("name:batchx128@int64", InputSpec("name", ("batch", 128), torch.int64)),
        ("batchxtokens", InputSpec(None, ("batch", "tokens"), torch.float32)),
        ("pixel_values:1x3@bfloat16", InputSpec("pixel_values", (1, 3), torch.bfloat16)),
        ("7@bool", InputSpec(None, (7,), torch.bool)),
        ("codes:4*batchx50@int64", InputSpec("codes", ("4*batch", 50), torch.int64)),
    ],
)
def test_shapes_are_read_as_they_are_spelled(text: str, spec: InputSpec) -> None:
    assert parse_input(text) == spec


_WORDS = st.text("abwyz_019", max_size=5).map(lambda rest: f"w{rest}")


@given(
    st.none() | _WORDS,
    st.lists(st.integers(1, 999) | _WORDS, min_size=1, max_size=5),
    st.sampled_from(sorted(DTYPES)),
)
def test_every_spelled_spec_is_read_back(name: str | None, shape: list[int | str], dtype: str) -> None:
    text = (f"{name}:" if name else "") + "x".join(map(str, shape)) + f"@{dtype}"
    assert parse_input(text) == InputSpec(name, tuple(shape), DTYPES[dtype])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1x",
        "x",
        "1,3",
        "1x-3",
        "a:",
        ":1x2",
        "a b:1",
        "3dx4",
        "1x3@",
        "a:b:1",
        "1*3",
        "0*batch",
        "\u0663x3",
        "1x2 ",
    ],
)
def test_another_spelling_is_refused_with_the_pattern(text: str) -> None:
    with pytest.raises(ParallelizeError) as caught:
        parse_input(text)
    assert str(caught.value) == f"The input {text!r} is not a shape."
    assert caught.value.hint.startswith("Spell it as [name:]SIZExSIZE...[@dtype]")


def test_unknown_dtypes_and_sizes_of_zero_are_refused() -> None:
    with pytest.raises(ParallelizeError, match=r"The input '1x2@float8' has the unknown dtype 'float8'\."):
        parse_input("1x2@float8")
    with pytest.raises(ParallelizeError, match=r"The input '0x2' has a size of zero\."):
        parse_input("0x2")


def test_none_are_none_and_several_keep_their_order() -> None:
    assert parse_inputs(None) == ()
    assert [spec.shape for spec in parse_inputs(["2x3", "batch"])] == [(2, 3), ("batch",)]
