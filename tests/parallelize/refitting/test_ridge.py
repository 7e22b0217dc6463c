"""Ridge regression: streamed normal equations give what the textbook gives on all rows at once."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from parallelize.refitting import ridge
from parallelize.refitting.ridge import RIDGES, Moments, choose, solve

CPU = torch.device("cpu")


def _data(rows: int, columns: int, targets: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Features of very different sizes with a constant last, and targets that depend on them with noise."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    features = features * torch.logspace(-3, 3, columns, dtype=torch.float64)
    features[:, -1] = 1
    weight = torch.randn(columns, targets, generator=generator, dtype=torch.float64)
    weight = weight / torch.logspace(-3, 3, columns, dtype=torch.float64)[:, None]
    return features, features @ weight + torch.randn(rows, targets, generator=generator, dtype=torch.float64)


def _moments(features: Tensor, targets: Tensor) -> Moments:
    moments = Moments.none(features.shape[1], targets.shape[1], CPU)
    moments.add(features, targets)
    return moments


def _textbook(features: Tensor, targets: Tensor, penalty: float) -> Tensor:
    """(F'F + lambda diag(s))^-1 F'R with s_j the sum of squares of column j and 0 for the constant."""
    sizes = features.square().sum(0)
    sizes[-1] = 0
    return torch.linalg.solve(features.T @ features + penalty * torch.diag(sizes), features.T @ targets)


def _same_predictions(features: Tensor, first: Tensor, second: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(features @ first, features @ second, rtol=0, atol=tolerance)


def test_without_a_ridge_the_solution_is_least_squares() -> None:
    features, targets = _data(200, 12, 3)
    (solution,) = solve(_moments(features, targets), [0.0])
    expected = torch.linalg.lstsq(features, targets, driver="gelsd").solution
    torch.testing.assert_close(solution, expected, rtol=1e-7, atol=0)


def test_the_solution_tends_to_least_squares_as_the_ridge_tends_to_zero() -> None:
    features, targets = _data(200, 12, 3)
    expected = torch.linalg.lstsq(features, targets, driver="gelsd").solution
    distances = [
        float((features @ (solution - expected)).norm()) for solution in solve(_moments(features, targets), [1, 0.1, 0])
    ]
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < 1e-6 < distances[0]


@pytest.mark.parametrize("penalty", [1e-5, 1e-2, 1.0, 30.0])
def test_a_ridge_is_scaled_by_the_second_moment_of_each_feature(penalty: float) -> None:
    features, targets = _data(150, 10, 4)
    (solution,) = solve(_moments(features, targets), [penalty])
    torch.testing.assert_close(solution, _textbook(features, targets, penalty), rtol=1e-7, atol=1e-12)


def test_the_units_of_a_feature_do_not_change_the_predictions() -> None:
    features, targets = _data(100, 6, 2)
    scaled = features * torch.tensor([1e4, 1, 1e-4, 7, 1, 1], dtype=torch.float64)
    predictions = [(f @ solve(_moments(f, targets), [0.3])[0]) for f in (features, scaled)]
    torch.testing.assert_close(predictions[0], predictions[1], rtol=1e-8, atol=1e-8)


def test_the_number_of_rows_does_not_change_the_meaning_of_a_ridge() -> None:
    features, targets = _data(100, 6, 2)
    once = solve(_moments(features, targets), [0.3])[0]
    thrice = solve(_moments(features.repeat(3, 1), targets.repeat(3, 1)), [0.3])[0]
    torch.testing.assert_close(once, thrice, rtol=1e-9, atol=0)


@settings(deadline=None, max_examples=30)
@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=6), columns=st.integers(1, 9), targets=st.integers(1, 3))
def test_rows_in_batches_give_the_moments_of_all_rows_at_once(sizes: list[int], columns: int, targets: int) -> None:
    features, aims = _data(sum(sizes), columns, targets, seed=columns)
    streamed = Moments.none(columns, targets, CPU)
    for part, aim in zip(features.split(sizes), aims.split(sizes), strict=True):
        streamed.add(part, aim)
    assert streamed.rows == sum(sizes)
    assert streamed.target == pytest.approx(float(aims.square().sum()))
    torch.testing.assert_close(streamed.symmetric(), features.T @ features)
    torch.testing.assert_close(streamed.cross, features.T @ aims)


@pytest.mark.parametrize("columns", [511, 512, 513, 1100])
def test_second_moments_of_more_columns_than_a_block_are_symmetric_and_whole(columns: int) -> None:
    features = torch.randn(7, columns, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    gram = _moments(features, features[:, :1]).symmetric()
    assert torch.equal(gram, gram.T)
    torch.testing.assert_close(gram, features.T @ features)


def test_the_size_of_a_block_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    features, targets = _data(60, 23, 2)
    whole = _moments(features, targets)
    monkeypatch.setattr(ridge, "_BLOCK", 5)
    blocks = _moments(features, targets)
    torch.testing.assert_close(blocks.symmetric(), whole.symmetric())
    _same_predictions(features, solve(blocks, [1e-3])[0], solve(whole, [1e-3])[0], 1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_products_of_a_batch_are_of_the_rows_precision_and_summed_in_float64(dtype: torch.dtype) -> None:
    features, targets = (value.to(dtype) for value in _data(1000, 6, 2))
    moments = Moments.none(6, 2, CPU)
    squares, cross = torch.zeros(6, 6, dtype=torch.float64), torch.zeros(6, 2, dtype=torch.float64)
    for rows, aims in zip(features.split(10), targets.split(10), strict=True):
        moments.add(rows, aims)
        squares += (rows.T @ rows).double()
        cross += (rows.T @ aims).double()
    assert moments.features.dtype == moments.cross.dtype == torch.float64
    torch.testing.assert_close(moments.symmetric().triu(), squares.triu(), rtol=1e-14, atol=0)
    torch.testing.assert_close(moments.cross, cross, rtol=1e-14, atol=0)
    assert moments.target == pytest.approx(float(targets.double().square().sum()), rel=1e-14)


def test_many_batches_of_single_precision_add_up_without_losing_the_small_ones() -> None:
    """A sum in float32 would stop at 2^24: adding 1 to it changes nothing there."""
    moments = Moments.none(1, 1, CPU)
    moments.add(torch.full((1, 1), 2.0**12), torch.ones(1, 1))
    for _ in range(100):
        moments.add(torch.ones(1, 1), torch.ones(1, 1))
    assert float(moments.symmetric()) == 2.0**24 + 100


def test_rows_of_half_precision_are_multiplied_in_single_precision() -> None:
    features = torch.full((100, 1), 300.0, dtype=torch.float16)
    moments = _moments(features, features)
    assert float(moments.symmetric()) == float(moments.cross) == 100 * 300.0**2


def test_without_a_constant_the_last_column_is_penalised_like_the_others() -> None:
    features, targets = _data(80, 6, 2)
    (solution,) = solve(_moments(features, targets), [0.5], constant=False)
    sizes = features.square().sum(0)
    expected = torch.linalg.solve(features.T @ features + 0.5 * torch.diag(sizes), features.T @ targets)
    torch.testing.assert_close(solution, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("penalty", RIDGES)
def test_the_constant_is_not_penalised(penalty: float) -> None:
    features, targets = _data(80, 6, 2)
    shifted = targets + torch.tensor([1e3, -5.0], dtype=torch.float64)
    (before,), (after,) = (solve(_moments(features, aim), [penalty]) for aim in (targets, shifted))
    torch.testing.assert_close(after[:-1], before[:-1], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(after[-1] - before[-1], shifted[0] - targets[0], rtol=1e-6, atol=1e-6)


def test_a_huge_ridge_leaves_the_mean_of_the_targets_and_no_ridge_is_forgotten() -> None:
    features, targets = _data(80, 6, 2)
    solutions = solve(_moments(features, targets), [1e9, 1e-3])
    assert len(solutions) == 2
    torch.testing.assert_close(features @ solutions[0], targets.mean(0).expand(80, 2), rtol=0, atol=1e-5)
    torch.testing.assert_close(solutions[1], _textbook(features, targets, 1e-3), rtol=1e-7, atol=1e-12)


def test_features_that_are_always_zero_get_zero_coefficients_and_disturb_nothing() -> None:
    features, targets = _data(80, 6, 2)
    padded = torch.cat([torch.zeros(80, 2, dtype=torch.float64), features[:, :3], features[:, 3:] * 0], 1)
    padded[:, -1] = 1
    kept = padded[:, [2, 3, 4, 7]]
    for wide, narrow in zip(solve(_moments(padded, targets)), solve(_moments(kept, targets)), strict=True):
        assert wide.isfinite().all()
        assert wide[[0, 1, 5, 6]].abs().max() == 0
        torch.testing.assert_close(wide[[2, 3, 4, 7]], narrow, rtol=1e-9, atol=0)


def test_equal_features_share_their_coefficient() -> None:
    features, targets = _data(80, 4, 1)
    doubled = torch.cat([features[:, :1], features], 1)
    for solution in solve(_moments(doubled, targets)):
        assert solution.isfinite().all()
        torch.testing.assert_close(solution[0], solution[1], rtol=1e-4, atol=1e-9)


def test_the_error_is_the_sum_of_squared_residuals() -> None:
    features, targets = _data(90, 8, 3)
    solution = torch.randn(8, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    direct = float((features @ solution - targets).square().sum())
    assert _moments(features, targets).error(solution) == pytest.approx(direct, rel=1e-10)


def test_the_error_of_an_exact_solution_is_never_negative() -> None:
    features, _ = _data(90, 8, 3)
    weight = torch.randn(8, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 1e5
    error = _moments(features, features @ weight).error(weight)
    assert 0 <= error < 1e-6 * float((features @ weight).square().sum())


@pytest.mark.parametrize("chosen", [slice(-3, None), slice(0, 4), slice(2, 5)])
def test_the_moments_of_some_columns_are_those_of_these_features(chosen: slice) -> None:
    features, targets = _data(70, 6, 2)
    part, alone = _moments(features, targets).columns(chosen), _moments(features[:, chosen], targets)
    torch.testing.assert_close(part.symmetric(), alone.symmetric())
    torch.testing.assert_close(part.cross, alone.cross)
    assert (part.rows, part.target) == (alone.rows, pytest.approx(alone.target))


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10_000), rows=st.integers(8, 40), noise=st.floats(0, 3))
def test_the_chosen_ridge_is_the_best_on_held_out_rows_of_all_that_were_offered(
    seed: int, rows: int, noise: float
) -> None:
    features, targets = _data(rows + 50, 7, 2, seed)
    targets = targets + noise * _data(rows + 50, 7, 2, seed + 1)[1]
    fit, held_out = (_moments(features[part], targets[part]) for part in (slice(rows), slice(rows, None)))
    errors = {}
    for penalty in RIDGES:
        solution = _textbook(features[:rows], targets[:rows], penalty)
        residual = features[rows:] @ solution - targets[rows:]
        errors[penalty] = float(residual.square().sum() / targets[rows:].square().sum())
    choice = choose(fit, held_out)
    assert choice.error == pytest.approx(min(errors.values()), rel=1e-5)
    assert errors[choice.ridge] == pytest.approx(min(errors.values()), rel=1e-5)


def test_noise_asks_for_a_stronger_ridge_than_clean_data() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.cat([torch.randn(60, 20, generator=generator), torch.ones(60, 1)], 1).double()
    clean = features @ torch.randn(21, 1, generator=generator, dtype=torch.float64)
    noise = torch.randn(60, 1, generator=generator, dtype=torch.float64)
    chosen = [
        choose(_moments(features[:30], aim[:30]), _moments(features[30:], aim[30:])).ridge for aim in (clean, noise)
    ]
    assert chosen[0] == min(RIDGES)
    assert chosen[1] == max(RIDGES)


def test_nothing_to_correct_is_chosen_without_an_error() -> None:
    features, targets = _data(40, 5, 2)
    moments = _moments(features, targets * 0)
    assert choose(moments, moments).error == 0
