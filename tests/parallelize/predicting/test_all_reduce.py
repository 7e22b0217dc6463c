"""All-reduces among many GPUs."""

from __future__ import annotations

import numpy as np
import pytest

from parallelize.predicting.all_reduce import H200, Fabric, Protocol, microseconds, simulated

RANKS = [2, 4, 8, 16, 64, 512, 4096]


def _alone(shape: str) -> Fabric:
    return Fabric("links", 8, 450.0, 400.0, (Protocol("one", shape, 6.0, 0.5, 3.0, 1.0),))  # type: ignore[arg-type]


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("shape", ["ring", "tree"])
def test_messages_one_by_one_take_what_the_formula_says(shape: str, ranks: int) -> None:
    """But for the two steps of a ring that the formula leaves out, which are never those between nodes."""
    fabric = _alone(shape)
    left_out = 2 * (3.0 - 0.5) if shape == "ring" and ranks > 8 else 0.0
    for size in (2, 1 << 14, 1 << 24):
        last = simulated(fabric, size, np.zeros(ranks)).max()
        assert last == pytest.approx(microseconds(fabric, ranks, size) + left_out, rel=1e-9)


def test_two_ranks_of_a_node_send_each_other_a_half_and_back() -> None:
    fabric = _alone("ring")
    assert microseconds(fabric, 2, 900_000) == pytest.approx(6.0 + 2 * 0.5 + 2 * 450_000 / 450e3)


def test_a_rank_alone_sends_nothing() -> None:
    assert microseconds(H200, 1, 1 << 20) == 0
    assert simulated(H200, 1 << 20, [3.0]).tolist() == [3.0]


def test_all_wait_for_the_rank_that_comes_last() -> None:
    ready = np.zeros(16)
    ready[5] = 1000.0
    late, early = simulated(H200, 1 << 14, ready), simulated(H200, 1 << 14, np.zeros(16))
    assert late.min() > 1000
    assert late.max() <= 1000 + early.max() + 1e-9


def test_more_ranks_and_more_bytes_take_longer_and_many_ranks_take_a_tree() -> None:
    for sizes in ((1 << 14,), (1 << 26,)):
        times = [microseconds(H200, ranks, sizes[0]) for ranks in RANKS]
        assert times == sorted(times)
    assert microseconds(H200, 4096, 1 << 14) < 2 * 4095 * 0.6
