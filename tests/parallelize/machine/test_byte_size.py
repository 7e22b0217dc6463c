"""Amounts of memory: every usual spelling is read, anything else is refused in a sentence."""

from __future__ import annotations

import pytest

from parallelize.machine.byte_size import read_size, spell_size
from passes.errors import ParallelizeError


@pytest.mark.parametrize(
    ("given", "size"),
    [
        ("2GiB", 2**31),
        ("512MiB", 2**29),
        ("1.5 GiB", 3 * 2**29),
        ("64k", 2**16),
        ("3GB", 3 * 10**9),
        ("2tib", 2**41),
        (" 100 B ", 100),
        ("4096", 4096),
        (4096, 4096),
    ],
)
def test_an_amount_is_read_however_it_is_spelled(given: int | str, size: int) -> None:
    assert read_size(given) == size


@pytest.mark.parametrize("given", ["", "much", "2 apples", "-1GiB", "1e9", "GiB", "nan", "2,5GiB", -5, True])
def test_what_is_no_amount_is_refused(given: int | str) -> None:
    with pytest.raises(ParallelizeError, match=f"'{given}' is no amount of memory") as caught:
        read_size(given)
    assert caught.value.hint == "Give it as in 2GiB or 512MiB."


@pytest.mark.parametrize("given", [0, "0GiB", "3MiB", "9" * 400])
def test_too_little_is_refused_with_the_least_there_is(given: int | str) -> None:
    with pytest.raises(ParallelizeError, match="memory to work with") as caught:
        read_size(given, 4 * 2**20)
    assert "4MiB" in caught.value.hint


@pytest.mark.parametrize("size", [1, 512, 2**10, 3 * 2**19, 2**31, 5 * 2**40])
def test_a_size_that_is_spelled_is_read_back(size: int) -> None:
    assert read_size(spell_size(size)) == size
