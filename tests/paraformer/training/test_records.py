"""The scores of an epoch."""

from __future__ import annotations

from paraformer.training.records import EpochRecord

FULL = EpochRecord(2, 0.5, 0.75, 1.5, (0.25, 0.75), 0.625, 0.5)
BARE = EpochRecord(1, 0.5, 0.75, 1.5)


def test_a_record_is_plain_values_and_back() -> None:
    for record in (FULL, BARE):
        assert EpochRecord.from_dict(record.to_dict()) == record
    assert FULL.to_dict()["prefixes"] == [0.25, 0.75]


def test_curves_have_a_name_for_every_prefix() -> None:
    assert FULL.curves() == {
        "test/top1": 0.75,
        "test/top1_of_1": 0.25,
        "test/top1_of_2": 0.75,
        "held_out/loss": 0.625,
        "held_out/top1": 0.5,
    }
    assert BARE.curves() == {"test/top1": 0.75, "held_out/loss": None, "held_out/top1": None}


def test_the_better_epoch_is_right_more_often_and_of_equal_ones_of_less_loss() -> None:
    rows = [
        EpochRecord(epoch, 0, 0, 0, (), loss, top1)
        for epoch, loss, top1 in ((1, 0.1, 0.5), (2, 0.9, 0.6), (3, 0.8, 0.6))
    ]
    assert max(rows, key=EpochRecord.rank).epoch == 3
