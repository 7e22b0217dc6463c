"""How the cost model is judged: ranks by Kendall's tau-b, and a page that says which aims were missed."""

from __future__ import annotations

import pytest

from benchmarks.cost_model import tau
from benchmarks.gpu.cost_model_page import Family, page
from parallelize.predicting.target import load_target


@pytest.mark.parametrize(
    ("left", "right", "wanted"),
    [
        ([1, 2, 3], [10, 20, 30], 1),
        ([1, 2, 3], [30, 20, 10], -1),
        ([1, 2, 3, 4], [1, 2, 4, 3], 4 / 6),
        ([1, 1, 2], [1, 2, 3], 2 / (2 * 3) ** 0.5),
    ],
)
def test_tau_counts_pairs_in_order_less_pairs_out_of_order(
    left: list[float], right: list[float], wanted: float
) -> None:
    assert tau(left, right) == pytest.approx(wanted)


def _family(name: str, rank: float, error: float) -> Family:
    return Family(name, 10, rank, {1: rank, 2: 1.0}, error, -0.3, "depth 1, batch 1")


def test_the_page_names_what_was_missed_and_by_how_much() -> None:
    families = [_family("good", 0.95, 0.05), _family("unordered", 0.85, 0.05), _family("wrong", 0.95, 0.2)]
    text = page(load_target("h200"), families, 0.04, [-0.05, 0.1], "2026-01-02", "torch 2")
    assert "Both aims are met by 1 of 3 models; missed: unordered (tau 0.850, 5.0%), wrong (tau 0.950, 20.0%)." in text
    assert "| good | 10 | 0.950 | 0.95 .. 1.00 | 5.0% | -30% (depth 1, batch 1) |" in text
    assert "30 latencies" in text
    assert "Against the 2 networks that torch.compile" in text
    assert "predictions are -5% to +10% off." in text
