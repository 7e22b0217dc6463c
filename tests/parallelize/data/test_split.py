"""The split of calibration data: what fits or chooses never judges."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from parallelize.data import Samples
from parallelize.data.split import MINIMUM, Split, split
from passes.errors import ParallelizeError


def _numbered(count: int, first: int = 0) -> Samples:
    """Samples that know their number, in two inputs and the label."""
    numbers = torch.arange(first, first + count)
    return Samples({"x": numbers[:, None].float(), "ids": -numbers}, numbers)


def _numbers(samples: Samples) -> list[int]:
    return samples.arrays["x"][:, 0].int().tolist()


def _parts(data: Split) -> list[list[int]]:
    return [_numbers(part) for part in (data.fit, data.held_out, data.judge)]


@settings(deadline=None)
@given(count=st.integers(MINIMUM, 300), seed=st.integers(0, 2**31))
def test_the_three_parts_are_disjoint_and_hold_every_sample_once(count: int, seed: int) -> None:
    parts = _parts(split(_numbered(count), None, seed))
    assert sorted(sum(parts, [])) == list(range(count))  # noqa: RUF017  (three short lists)
    assert [len(part) for part in parts] == [count - 2 * (count // 5), count // 5, count // 5]


@settings(deadline=None)
@given(count=st.integers(MINIMUM, 300), seed=st.integers(0, 2**31))
def test_with_data_to_judge_on_all_samples_fit_or_choose(count: int, seed: int) -> None:
    judge = _numbered(7, first=1000)
    data = split(_numbered(count), judge, seed)
    assert data.judge is judge
    fit, held_out, _ = _parts(data)
    assert sorted(fit + held_out) == list(range(count))
    assert len(held_out) == count // 5


def test_a_seed_repeats_a_split_and_another_seed_does_not() -> None:
    samples = _numbered(100)
    assert _parts(split(samples, None, 5)) == _parts(split(samples, None, 5))
    assert _parts(split(samples, None, 5)) != _parts(split(samples, None, 6))


def test_the_global_random_state_neither_matters_nor_changes() -> None:
    torch.manual_seed(1)
    first = _parts(split(_numbered(50), None, 0))
    torch.manual_seed(2)
    before = torch.get_rng_state()
    assert _parts(split(_numbered(50), None, 0)) == first
    assert torch.equal(torch.get_rng_state(), before)


def test_parts_are_drawn_from_all_over_the_samples() -> None:
    for part in _parts(split(_numbered(1000), None, 0)):
        assert sum(part) / len(part) == pytest.approx(500, abs=60)
        assert part != sorted(part)


def test_inputs_and_labels_of_a_sample_stay_together() -> None:
    data = split(_numbered(50), None, 0)
    for part in (data.fit, data.held_out, data.judge):
        assert part.labels is not None
        assert part.labels.tolist() == _numbers(part)
        assert (-part.arrays["ids"]).tolist() == _numbers(part)
        assert list(part.arrays) == ["x", "ids"]


@pytest.mark.parametrize("judge", [None, _numbered(50)])
def test_too_few_samples_are_refused_with_their_number(judge: Samples | None) -> None:
    with pytest.raises(ParallelizeError, match=r"^The inputs hold 9 samples; a split .* needs 10\.$") as caught:
        split(_numbered(9), judge, 0)
    assert "--inputs" in caught.value.hint
    assert len(split(_numbered(10), judge, 0).fit) > 0
