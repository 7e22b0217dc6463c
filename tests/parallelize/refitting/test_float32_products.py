"""Products in float32 whose sums are in float64: how far they are from float64, and that no choice depends on it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from parallelize.planning.options import PlannerOptions
from parallelize.planning.planner import Planner
from parallelize.refitting.moments import CHUNK, Moments
from parallelize.refitting.ridge import RIDGES, choose
from tests.parallelize.refitting.regressions import gram
from tests.parallelize.refitting.regressions import moments_of as _moments
from tests.parallelize.small_models import images, vision


def _rows(count: int, columns: int) -> Tensor:
    """Features whose mean is far from zero, so that all products add up, and a constant."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(count, columns, generator=generator) * torch.logspace(-3, 3, columns) + torch.logspace(
        -2, 4, columns
    )
    rows[:, -1] = 1
    return rows


def _error(rows: Tensor) -> float:
    """The largest error of F'F as the ridge sees it: relative to the features' own sizes."""
    ours, exact = (gram(_moments(given, given[:, :1])) for given in (rows, rows.double()))
    size = exact.diagonal().sqrt()
    return float(((ours - exact) / (size[:, None] * size)).abs().max())


def test_many_rows_cost_no_more_than_a_chunk_of_them() -> None:
    assert _error(_rows(CHUNK, 24)) < 2e-6
    assert _error(_rows(4 * CHUNK + 17, 24)) < 2e-6


def test_a_device_that_adds_products_up_row_by_row_stays_below_the_least_ridge(monkeypatch: pytest.MonkeyPatch) -> None:
    def add(moments: Moments, wide: Tensor, aim: Tensor) -> None:
        total = torch.zeros(wide.shape[1], wide.shape[1], dtype=wide.dtype)
        for row in wide:
            total.addr_(row, row)
        moments.features[0, 0] = moments.features[0, 0] + total
        moments.cross[0] = moments.cross[0] + wide.T @ aim

    monkeypatch.setattr(Moments, "_add", add)
    assert 1e-7 < _error(_rows(CHUNK, 4)) < RIDGES[0] / 2


def test_the_ridge_that_is_chosen_is_that_of_float64() -> None:
    every = _rows(3 * CHUNK, 24)
    generator = torch.Generator().manual_seed(1)
    targets = every[:, :-1] @ torch.randn(23, 2, generator=generator) / 1e3 + torch.randn(
        len(every), 2, generator=generator
    )
    for few in (40, 400, len(every) // 2):
        parts = [(every[:few], targets[:few]), (every[-few:], targets[-few:])]
        ours, exact = (
            choose(*(_moments(rows.to(dtype), aims.to(dtype)) for rows, aims in parts))
            for dtype in (torch.float32, torch.float64)
        )
        assert ours.ridge == exact.ridge
        assert ours.error == pytest.approx(exact.error, rel=1e-3)


def test_the_plan_and_its_ridges_are_those_of_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    def found() -> tuple[str, list[float]]:
        planner = Planner(vision(2), images(40, 0), images(20, 1), "kl", PlannerOptions())
        chosen = planner.at_depth(1).chosen
        assert chosen.refitted is not None
        return chosen.plan.to_json(), [level.ridge for level in chosen.refitted.levels]

    plan = found()
    add = Moments.add
    monkeypatch.setattr(Moments, "add", lambda moments, rows, aims: add(moments, rows.double(), aims.double()))
    assert found() == plan
