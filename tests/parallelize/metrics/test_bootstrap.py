"""Bootstrap: sums over drawn samples, seeded, independent of how many draws are held at a time."""

from __future__ import annotations

import math

import pytest
import torch

from parallelize.metrics import bootstrap
from parallelize.metrics.bootstrap import RESAMPLES, interval, resampled_sums


def _table(samples: int, columns: int = 2) -> torch.Tensor:
    return torch.randn(samples, columns, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def _interval_of_the_mean(table: torch.Tensor) -> tuple[float, float]:
    column = table[:, 0]
    return interval(column.mean(), resampled_sums(table)[:, 0] / len(column), column)


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
    low, high = _interval_of_the_mean(table)
    mean, error = float(table.mean()), float(table.std()) / math.sqrt(400)
    assert (low, high) == pytest.approx((mean - 1.96 * error, mean + 1.96 * error), abs=0.25 * error)


def test_the_interval_of_a_symmetric_number_is_the_middle_95_percent() -> None:
    value, draws = torch.tensor(500.0), torch.arange(1001, dtype=torch.float64)
    assert interval(value, draws, torch.tensor([-1.0, 1.0])) == pytest.approx((25, 975))
    assert interval(value, draws, torch.zeros(2)) == pytest.approx((25, 975))


@pytest.mark.parametrize(("value", "outlier"), [(400.0, 0.0), (500.0, 10.0)])
def test_the_interval_moves_up_where_few_samples_count_for_much_and_down_where_most_draws_are_above(
    value: float, outlier: float
) -> None:
    influences = torch.tensor([*[-1.0, 1.0] * 50, outlier])
    low, high = interval(torch.tensor(value), torch.arange(1001, dtype=torch.float64), influences)
    mirrored = interval(torch.tensor(1000 - value), torch.arange(1001, dtype=torch.float64), -influences)
    assert (low > 25) == (high > 975) == (outlier > 0)
    assert mirrored == pytest.approx((1000 - high, 1000 - low))


def test_the_upper_end_of_a_mean_with_a_heavy_tail_is_too_low_less_often_than_that_of_plain_percentiles() -> None:
    generator = torch.Generator().manual_seed(0)
    sets = torch.randn(200, 120, 1, generator=generator, dtype=torch.float64).mul(1.5).exp()
    true = math.exp(1.5**2 / 2)
    held = sum(_interval_of_the_mean(table)[1] >= true for table in sets)
    plain = sum(float(torch.quantile(resampled_sums(table)[:, 0] / 120, 0.975)) >= true for table in sets)
    assert held >= plain + 5


def test_one_sample_has_an_interval_without_width() -> None:
    assert _interval_of_the_mean(torch.tensor([[3.0]], dtype=torch.float64)) == (3, 3)


def test_not_a_number_stays_not_a_number() -> None:
    table = torch.tensor([[1.0], [torch.nan]], dtype=torch.float64)
    assert all(math.isnan(end) for end in _interval_of_the_mean(table))
