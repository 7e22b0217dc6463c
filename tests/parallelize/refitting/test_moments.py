"""Second moments: streamed batch by batch and block by block they are those of all rows at once."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from parallelize.data.buffer import Buffer
from parallelize.refitting import blocks, moments
from parallelize.refitting.moments import FromMoments, Moments
from tests.parallelize.refitting.regressions import CPU, cross, data, gram, moments_of, solved


@settings(deadline=None, max_examples=30)
@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=6), columns=st.integers(1, 9), targets=st.integers(1, 3))
def test_rows_in_batches_give_the_moments_of_all_rows_at_once(sizes: list[int], columns: int, targets: int) -> None:
    features, aims = data(sum(sizes), columns, targets, seed=columns)
    streamed = Moments(columns, targets, CPU)
    for part, aim in zip(features.split(sizes), aims.split(sizes), strict=True):
        streamed.add(part, aim)
    assert streamed.rows == sum(sizes)
    assert streamed.target == pytest.approx(float(aims.square().sum()))
    torch.testing.assert_close(gram(streamed), features.T @ features)
    torch.testing.assert_close(cross(streamed), features.T @ aims)


@pytest.mark.parametrize("columns", [511, 512, 513, 1100])
def test_second_moments_of_more_columns_than_a_block_are_symmetric_and_whole(columns: int) -> None:
    features = torch.randn(7, columns, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = gram(moments_of(features, features[:, :1]))
    assert torch.equal(found, found.T)
    torch.testing.assert_close(found, features.T @ features)


@pytest.mark.parametrize("bound", [0, 2**31], ids=["file", "memory"])
@pytest.mark.parametrize(("block", "tile"), [(5, 2048), (512, 4), (3, 7), (2, 23)])
def test_the_size_of_blocks_does_not_matter(block: int, tile: int, bound: int, monkeypatch: pytest.MonkeyPatch) -> None:
    features, targets = data(60, 23, 2)
    whole = moments_of(features, targets)
    expected = features @ solved(whole, 1e-3)
    monkeypatch.setattr(moments, "_BLOCK", block)
    monkeypatch.setattr(blocks, "TILE", tile)
    cut = Moments(23, 2, CPU, Buffer(bound))
    cut.add(features, targets)
    torch.testing.assert_close(gram(cut), gram(whole))
    torch.testing.assert_close(cut.squares, whole.squares)
    torch.testing.assert_close(features @ solved(cut, 1e-3), expected, rtol=0, atol=1e-8)
    lack = float((expected - targets).square().sum())
    assert cut.lack(FromMoments(cut, constant=True)(1e-3)) == pytest.approx(lack, rel=1e-8)
    for chosen in (slice(-5, None), slice(0, 4), slice(6, 20)):
        part, alone = cut.columns(chosen), moments_of(features[:, chosen], targets)
        torch.testing.assert_close(gram(part), gram(alone))
        torch.testing.assert_close(cross(part), cross(alone))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_products_of_a_batch_are_of_the_rows_precision_and_summed_in_float64(dtype: torch.dtype) -> None:
    features, targets = (value.to(dtype) for value in data(1000, 6, 2))
    found = Moments(6, 2, CPU)
    squares, products = torch.zeros(6, 6, dtype=torch.float64), torch.zeros(6, 2, dtype=torch.float64)
    for rows, aims in zip(features.split(10), targets.split(10), strict=True):
        found.add(rows, aims)
        squares += (rows.T @ rows).double()
        products += (rows.T @ aims).double()
    assert gram(found).dtype == cross(found).dtype == torch.float64
    torch.testing.assert_close(gram(found).triu(), squares.triu(), rtol=1e-14, atol=0)
    torch.testing.assert_close(cross(found), products, rtol=1e-14, atol=0)
    assert found.target == pytest.approx(float(targets.double().square().sum()), rel=1e-6)


def test_many_batches_of_single_precision_add_up_without_losing_the_small_ones() -> None:
    """A sum in float32 would stop at 2^24: adding 1 to it changes nothing there."""
    found = Moments(1, 1, CPU)
    found.add(torch.full((1, 1), 2.0**12), torch.ones(1, 1))
    for _ in range(100):
        found.add(torch.ones(1, 1), torch.ones(1, 1))
    assert float(gram(found)) == 2.0**24 + 100


def test_rows_of_half_precision_are_multiplied_in_single_precision() -> None:
    features = torch.full((100, 1), 300.0, dtype=torch.float16)
    found = moments_of(features, features)
    assert float(gram(found)) == float(cross(found)) == 100 * 300.0**2


@pytest.mark.parametrize("chosen", [slice(-3, None), slice(0, 4), slice(2, 5), slice(None)])
def test_the_moments_of_some_columns_are_those_of_these_features(chosen: slice) -> None:
    features, targets = data(70, 6, 2)
    part, alone = moments_of(features, targets).columns(chosen), moments_of(features[:, chosen], targets)
    torch.testing.assert_close(gram(part), gram(alone))
    torch.testing.assert_close(cross(part), cross(alone))
    assert (part.rows, part.target) == (alone.rows, pytest.approx(alone.target))


def test_without_a_ridge_the_solution_is_least_squares() -> None:
    features, targets = data(200, 12, 3)
    expected = torch.linalg.lstsq(features, targets, driver="gelsd").solution
    torch.testing.assert_close(solved(moments_of(features, targets), 0.0), expected, rtol=1e-7, atol=0)


def test_what_is_not_finite_stays_so_and_raises_nothing() -> None:
    features, targets = data(50, 6, 2)
    features[3, 2] = torch.nan
    assert solved(moments_of(features, targets), 1e-3).isnan().any()
