"""The page on scaling, from results that are made up."""

from __future__ import annotations

import pytest

from benchmarks.scaling_page import fitted, page

FOUND = {
    "measured_on": {"date": "2026-01-01", "processor": "one", "cores": 2, "torch": "2", "python": "3"},
    "load": 1.5,
    "size": 1000,
    "serial": 9.0,
    "levels": {"pairs": 4},
    "computed": {"pairs": {"1": 8.0, "2": 5.0}},
    "took": {"pairs": {"1": 8.0, "2": 14.0}},
    "reduced": {"2": {"1000": 2.0, "3000": 4.0}, "4": {"1000": 2.0, "3000": 4.0}},
}


def test_an_all_reduce_is_a_latency_and_bytes() -> None:
    assert fitted({"1000": 2.0, "3000": 4.0}) == pytest.approx((1.0, 0.001))
    assert fitted({"1000": 4.0, "3000": 2.0})[1] == 0.0


def test_a_prediction_is_what_the_busiest_rank_computes_and_an_all_reduce_for_each_level() -> None:
    text = page(FOUND)
    assert "| pairs | 1 | 0 | 8.00 | 8.00 | 8.00 | 1.00 |" in text
    assert "| pairs | 2 | 4 | 5.00 | 13.00 | 14.00 | 1.08 |" in text
    assert "2026-01-01: one, 2 cores, torch 2, Python 3" in text


def test_the_model_goes_to_thousands_of_gpus_and_leaves_out_what_cannot_be() -> None:
    rows = [line for line in page(FOUND).splitlines() if line.startswith("| 4,096 |")]
    assert len(rows) == 3
    assert rows[1].startswith("| 4,096 |  |")
