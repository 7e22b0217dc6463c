"""Latencies by the formula, kernel by kernel, and what must hold whatever the numbers are."""

from __future__ import annotations

from math import sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parallelize.predicting.kernel import Kernel, Kernels, Precision
from parallelize.predicting.latency import Predictor, milliseconds
from parallelize.predicting.target import load_target
from passes.errors import ParallelizeError
from tests.parallelize.predicting.targets import KNOWN


def _us(*kernels: Kernel, precision: Precision = "bf16") -> float:
    return milliseconds(Kernels.of(kernels, precision), KNOWN) * 1e3 - KNOWN.graph_us


def test_a_call_without_kernels_takes_what_its_graph_takes() -> None:
    assert _us() == 0
    assert milliseconds(Kernels((), "bf16"), KNOWN) == pytest.approx(0.004)


def test_a_small_kernel_takes_what_its_kind_takes_and_a_large_one_its_bytes() -> None:
    assert _us(Kernel("norm", 0)) == pytest.approx(2.5)
    moved = 80_000_000
    ramp = sqrt(moved / (moved + 8e6))
    assert _us(Kernel("pointwise", moved)) == pytest.approx(1.5 + moved / (2e6 * ramp))


def test_a_product_of_one_tile_takes_a_step_for_each_inner_value() -> None:
    step = 1.5e-3 + 2 * 64 * 64 / 5000e3
    assert _us(Kernel("product", 0, 1, 64, 64, 256)) == pytest.approx(3 + 256 * step)


def test_as_many_tiles_as_there_are_sms_take_no_longer_than_one_and_one_more_takes_twice_as_long() -> None:
    one, all_of_them, more = (_us(Kernel("product", 0, batch, 64, 64, 128)) - 3 for batch in (1, 100, 101))
    assert all_of_them == pytest.approx(one)
    assert more == pytest.approx(2 * one)


def test_a_long_inner_dimension_is_split_among_sms_that_are_idle() -> None:
    whole = 65536 * (1.5e-3 + 2 * 64 * 64 / 5000e3)
    assert _us(Kernel("product", 0, 1, 64, 64, 65536)) == pytest.approx(3 + whole / 8 + 6)


def test_an_attention_takes_a_step_for_each_key_and_a_wave_for_as_many_heads_as_there_are_sms() -> None:
    step = 2.5e-3 + 2 * 2 * 128 * 64 / 1500e3
    assert _us(Kernel("attention", 0, 100, 128, 50, 64)) == pytest.approx(4 + 50 * step)
    assert _us(Kernel("attention", 0, 100, 129, 50, 64)) == pytest.approx(4 + 2 * 50 * step)


def test_products_of_another_precision_have_their_own_rates() -> None:
    product = Kernel("product", 0, 1, 512, 512, 512)
    assert _us(product, precision="fp32") > _us(product)
    with pytest.raises(ParallelizeError, match="no numbers for fp16"):
        _us(product, precision="fp16")


KERNELS = st.builds(
    Kernel,
    st.sampled_from(["product", "convolution", "attention", "norm", "pointwise", "copy"]),
    st.integers(1, 10**9),
    *[st.integers(1, 3000)] * 4,
)


@given(first=st.lists(KERNELS, max_size=4), second=st.lists(KERNELS, max_size=4))
def test_latency_is_the_sum_over_kernels_and_never_below_what_each_takes_at_least(
    first: list[Kernel], second: list[Kernel]
) -> None:
    both = _us(*first, *second)
    assert both == pytest.approx(_us(*first) + _us(*second), abs=1e-6)
    assert both >= sum(KNOWN.fixed_us[kernel.kind] for kernel in [*first, *second]) - 1e-6


@given(kernel=KERNELS, more=st.integers(1, 10**9))
def test_more_bytes_never_take_less_time(kernel: Kernel, more: int) -> None:
    larger = Kernel(kernel.kind, kernel.bytes + more, kernel.batch, kernel.rows, kernel.columns, kernel.inner)
    assert _us(larger) >= _us(kernel) - 1e-9


def test_many_networks_at_once_are_predicted_as_one_by_one() -> None:
    networks = [Kernels.of([Kernel("norm", 10**6)] * count, "fp32") for count in (0, 1, 5)]
    alone = [milliseconds(each, KNOWN) * 1e3 for each in networks]
    assert Predictor(networks, KNOWN.sms).microseconds(KNOWN).tolist() == pytest.approx(alone)


def test_on_the_shipped_target_a_block_of_a_vision_transformer_takes_what_was_measured() -> None:
    """ViT-Base at batch 1 on an H200: 772 us of 12 blocks, 281 of 3, so about 55 us for each."""
    linear = Kernel("product", 2 * (197 * 768 * 2 + 768 * 768), 1, 197, 768, 768)
    up = Kernel("product", 2 * (197 * 3840 + 768 * 3072), 1, 197, 3072, 768)
    down = Kernel("product", 2 * (197 * 3840 + 768 * 3072), 1, 197, 768, 3072)
    rest = [Kernel("norm", 605_184)] * 2 + [Kernel("pointwise", 907_776)] * 2 + [Kernel("pointwise", 2_420_736)]
    attention = Kernel("attention", 1_210_368, 12, 197, 197, 64)
    target = load_target("h200")
    block = milliseconds(Kernels.of([linear] * 4 + [up, down, attention, *rest], "bf16"), target) * 1e3
    assert block - target.graph_us == pytest.approx(55, rel=0.2)
