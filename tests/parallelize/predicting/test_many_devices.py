"""Networks on many GPUs."""

from __future__ import annotations

import pytest

from parallelize.predicting.all_reduce import H200, microseconds
from parallelize.predicting.many_devices import Layout, Step, Transformer, step
from parallelize.predicting.target import load_target

NETWORK = Transformer("decoder", blocks=32, width=4096, heads=32, kv_heads=8, hidden=14336)
TARGET = load_target("h200")


@pytest.mark.parametrize(
    ("layout", "counts"),
    [
        (Layout("serial", 1, 1), {}),
        (Layout("serial", 1, 8), {8: 64}),
        (Layout("sublayer", 2, 8), {8: 32}),
        (Layout("block", 2, 2), {2: 16}),
        (Layout("block", 2, 8), {8: 16, 4: 16}),
        (Layout("block", 32, 32), {32: 1}),
    ],
)
def test_all_reduces_are_counted_by_how_many_take_part(layout: Layout, counts: dict[int, int]) -> None:
    assert layout.fits(NETWORK)
    assert layout.all_reduces(NETWORK) == counts


@pytest.mark.parametrize(
    "layout", [Layout("serial", 1, 64), Layout("sublayer", 5, 8), Layout("block", 4, 6), Layout("block", 2, 128)]
)
def test_there_is_no_layout_with_less_than_a_head_to_a_gpu_or_blocks_left_over(layout: Layout) -> None:
    assert not layout.fits(NETWORK)


def _step(layout: Layout) -> Step:
    return step(NETWORK, layout, TARGET, H200)


def test_a_step_is_its_kernels_and_its_all_reduces() -> None:
    serial, pairs = (
        step(NETWORK, layout, TARGET, H200) for layout in (Layout("serial", 1, 8), Layout("sublayer", 2, 8))
    )
    assert serial.reducing == pytest.approx(64 * microseconds(H200, 8, 2 * 4096))
    assert pairs.reducing == pytest.approx(serial.reducing / 2)
    assert pairs.computing < serial.computing
    assert serial.total == serial.computing + serial.reducing


def test_a_branch_to_a_gpu_computes_each_block_as_one_gpu_does_and_runs_as_many_at_once_as_there_are() -> None:
    alone, spread = (_step(layout) for layout in (Layout("serial", 1, 1), Layout("block", 4, 4)))
    assert spread.computing == pytest.approx(alone.computing / 4, rel=0.02)
