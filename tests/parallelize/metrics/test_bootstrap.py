"""Bootstrap: sums over drawn samples, seeded, independent of how many draws are held at a time."""

from __future__ import annotations

import math

import pytest
import torch

from parallelize.metrics import bootstrap
from parallelize.metrics.bootstrap import RESAMPLES, interval, resampled_sums


def _table(samples: int, columns: int = 2) -> torch.Tensor:
    return torch.randn(samples, columns, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_every_resample_draws_as_many_samples_as_there_are() -> None:
    sums = resampled_sums(torch.ones(17, 1, dtype=torch.float64))
    assert sums.shape == (RESAMPLES, 1)
    assert (sums == 17).all()


def test_columns_of_one_sample_are_drawn_together() -> None:
    table = _table(30, 1)
    sums = resampled_sums(torch.cat([table, 2 * table], 1))
    torch.testing.assert_close(sums[:, 1], 2 * sums[:, 0], rtol=1e-12, atol=1e-12)
    assert sums[:, 0].unique().numel() > RESAMPLES // 2


def test_draws_are_seeded_and_do_not_depend_on_what_is_held_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    table = _table(40)
    whole = resampled_sums(table)
    torch.manual_seed(7)
    assert torch.equal(resampled_sums(table), whole)
    monkeypatch.setattr(bootstrap, "_AT_ONCE", 130)
    torch.testing.assert_close(resampled_sums(table), whole, rtol=1e-12, atol=1e-12)


def test_the_interval_of_a_mean_is_about_two_standard_errors_wide_on_each_side() -> None:
    table = _table(400, 1)
    low, high = interval(resampled_sums(table)[:, 0] / 400)
    mean, error = float(table.mean()), float(table.std()) / math.sqrt(400)
    assert (low, high) == pytest.approx((mean - 1.96 * error, mean + 1.96 * error), abs=0.25 * error)


def test_the_interval_is_the_middle_95_percent() -> None:
    assert interval(torch.arange(1001, dtype=torch.float64)) == pytest.approx((25, 975))


def test_one_sample_has_an_interval_without_width() -> None:
    assert interval(resampled_sums(torch.tensor([[3.0]], dtype=torch.float64))[:, 0]) == (3, 3)


def test_not_a_number_stays_not_a_number() -> None:
    table = torch.tensor([[1.0], [torch.nan]], dtype=torch.float64)
    assert all(math.isnan(end) for end in interval(resampled_sums(table)[:, 0]))
