"""Samples make batches: of any size or a fixed one, of some of them, with what has no samples whole in each."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from parallelize.data import Feed, Samples
from tests.parallelize.other_device import other_device


def test_batches_cover_every_sample_once() -> None:
    samples = Samples({"x": torch.arange(7)})
    assert torch.cat([x for (x,) in samples.batches(3)]).tolist() == list(range(7))


def test_the_mask_follows_the_samples_and_tells_where_tokens_are_real() -> None:
    mask = torch.tensor([[1, 0], [1, 1], [0, 1]])
    samples = Samples({"x": torch.zeros(3, 2), "mask": mask}, mask="mask")
    assert [real.tolist() for real in samples.real(2) if real is not None] == [
        [[True, False], [True, True]],
        [[False, True]],
    ]
    taken, first = samples.take([2, 0]), samples.head(1)
    assert (taken.mask, first.mask) == ("mask", "mask")
    assert [real.tolist() for real in taken.real(5) if real is not None] == [[[False, True], [True, False]]]
    assert list(Samples({"x": torch.zeros(3, 2)}).real(2)) == [None, None]


def test_a_part_of_the_samples_keeps_the_fixed_batch_and_the_mask_is_filled_up_too() -> None:
    mask = torch.tensor([[1, 0], [1, 1], [0, 1], [0, 0]])
    samples = Samples({"mask": mask}, mask="mask", fixed=3).take([3, 1, 2, 0])
    assert [real.int().tolist() for real in samples.real(9) if real is not None] == [
        [[0, 0], [1, 1], [0, 1]],
        [[1, 0], [1, 0], [1, 0]],
    ]
    assert samples.every_real() is not None
    assert len(samples.head(2)) == 2


def test_a_split_shares_the_stored_arrays() -> None:
    samples = Samples({"x": torch.zeros(6, 2)})
    assert samples.take([1, 4]).stored["x"] is samples.stored["x"]


def test_large_inputs_are_fed_few_at_a_time_unless_a_number_is_asked_for() -> None:
    samples = Samples({"x": torch.zeros(9, 1, dtype=torch.uint8).expand(9, 2**21)})
    assert list(samples.counts(100)) == [4, 4, 1]
    assert len(samples.batch(9)[0]) == 9


def sevenfold(**changes: object) -> Samples:
    """Seven samples of an input x, of two rows of codes each, and a table for all."""
    stored = {"x": torch.arange(7), "codes": torch.arange(14), "table": torch.ones(3)}
    feeds = {"x": Feed(dtype=torch.float32), "codes": Feed(rows=2), "table": Feed(rows=0)}
    return Samples(stored, feeds=feeds, **changes)  # type: ignore[arg-type]


def lists(batch: tuple[Tensor, ...]) -> list[list[float]]:
    return [value.tolist() for value in batch]


def test_rows_of_a_sample_go_together_and_what_has_no_samples_is_in_every_batch() -> None:
    samples = sevenfold()
    assert (len(samples), samples.whole) == (7, ("table",))
    batches = list(samples.batches(3))
    assert list(samples.counts(3)) == [3, 3, 1]
    assert lists(batches[2]) == [[6], [12, 13], [1, 1, 1]]
    assert [value.dtype for value in batches[0]] == [torch.float32, torch.int64, torch.float32]
    assert lists(samples.take([5, 0]).batch(9)) == [[5, 0], [10, 11, 0, 1], [1, 1, 1]]
    assert lists(samples.take([5, 0]).take([1]).batch(9))[0] == [0]


@pytest.mark.parametrize(("fixed", "last"), [(3, [6, 6, 6]), (4, [4, 5, 6, 4])])
def test_the_last_of_fixed_batches_is_filled_up_and_cut_again(fixed: int, last: list[int]) -> None:
    samples = sevenfold(fixed=fixed)
    batches, counts = list(samples.batches(100)), list(samples.counts(100))
    assert batches[-1][0].tolist() == last
    for place, name in enumerate(("x", "codes")):
        kept = [samples.cut(batch[place], count) for batch, count in zip(batches, counts, strict=True)]
        assert torch.equal(torch.cat(kept), samples.arrays[name])
    assert len(samples.head(2).batch(1)[0]) == fixed
    odd = torch.zeros(fixed + 1)
    assert samples.cut(odd, 1) is odd  # has no axis of samples


def test_a_program_of_one_bare_sample_gets_it_without_an_axis_of_samples() -> None:
    samples = Samples({"t": torch.arange(3)}, feeds={"t": Feed(is_bare=True)}, fixed=1)
    assert [(value.ndim, value.item()) for (value,) in samples.batches(9)] == [(0, 0), (0, 1), (0, 2)]


def test_labels_follow_the_samples() -> None:
    samples = Samples({"x": torch.arange(4)}, labels=torch.tensor([5, 6, 7, 8]))
    taken = samples.take([3, 1]).head(5)
    assert taken.labels is not None
    assert (taken.arrays["x"].tolist(), taken.labels.tolist()) == ([3, 1], [8, 6])


def test_where_all_samples_are_real_is_told_in_their_order() -> None:
    mask = torch.tensor([[2, 0], [1, 1], [0, 1]])
    every = Samples({"mask": mask}, mask="mask").take([2, 0]).every_real()
    assert every is not None
    assert every.tolist() == [[False, True], [True, False]]
    assert Samples({"mask": mask}).every_real() is None


def test_the_elements_of_one_sample_bound_a_batch_and_those_of_tables_do_not() -> None:
    large = torch.zeros(1, dtype=torch.uint8)
    rows = Samples({"codes": large.expand(18, 2**20)}, feeds={"codes": Feed(rows=2)})
    assert list(rows.counts(100)) == [4, 4, 1]
    stored = {"x": torch.zeros(9, 2), "table": large.expand(2**12, 2**12)}
    assert list(Samples(stored, feeds={"table": Feed(rows=0)}).counts(100)) == [9]
    assert list(Samples({"x": large.expand(3, 2**24)}).counts(100)) == [1, 1, 1]


def test_data_stays_on_the_host_and_batches_and_masks_are_handed_out_on_the_device() -> None:
    stored = {"x": torch.arange(6.0).reshape(3, 2), "mask": torch.tensor([[1, 0], [1, 1], [0, 1]])}
    with other_device() as device:
        samples = Samples(stored, mask="mask").on(device).take([2, 0])
        (batch,) = samples.batches(5)
        every, (real,) = samples.every_real(), samples.real(5)
        assert every is not None
        assert real is not None
        assert {value.device for value in (*batch, every, real)} == {device}
        assert {array.device.type for array in samples.arrays.values()} == {"cpu"}
        assert batch[0].tolist() == [[4.0, 5.0], [0.0, 1.0]]
