"""Ridge regression: both forms of it give what the textbook gives on all rows at once."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st

from parallelize.refitting.moments import Moments
from parallelize.refitting.ridge import RIDGES, choose
from parallelize.refitting.rows import Rows
from tests.parallelize.refitting.regressions import FORMS, collected, data, given, moments_of, solved, textbook

Form = type[Moments] | type[Rows]
in_both_forms = pytest.mark.parametrize("form", FORMS)


@in_both_forms
def test_the_solution_tends_to_least_squares_as_the_ridge_tends_to_zero(form: Form) -> None:
    features, targets = data(200, 12, 3)
    expected = torch.linalg.lstsq(features, targets, driver="gelsd").solution
    made = collected(form, features, targets)
    distances = [float((features @ (solved(made, ridge) - expected)).norm()) for ridge in (1, 0.1, 1e-9)]
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < 1e-3 < distances[0]


@in_both_forms
@pytest.mark.parametrize("penalty", [1e-5, 1e-2, 1.0, 30.0])
def test_a_ridge_is_scaled_by_the_second_moment_of_each_feature(penalty: float, form: Form) -> None:
    features, targets = data(150, 10, 4)
    solution = solved(collected(form, features, targets), penalty)
    torch.testing.assert_close(solution, textbook(features, targets, penalty), rtol=1e-7, atol=1e-11)


@in_both_forms
def test_the_units_of_a_feature_do_not_change_the_predictions(form: Form) -> None:
    features, targets = data(100, 6, 2)
    scaled = features * torch.tensor([1e4, 1, 1e-4, 7, 1, 1], dtype=torch.float64)
    predictions = [f @ solved(collected(form, f, targets), 0.3) for f in (features, scaled)]
    torch.testing.assert_close(predictions[0], predictions[1], rtol=1e-8, atol=1e-8)


@in_both_forms
def test_the_number_of_rows_does_not_change_the_meaning_of_a_ridge(form: Form) -> None:
    features, targets = data(100, 6, 2)
    once = solved(collected(form, features, targets), 0.3)
    thrice = solved(collected(form, features.repeat(3, 1), targets.repeat(3, 1)), 0.3)
    torch.testing.assert_close(once, thrice, rtol=1e-9, atol=0)


@in_both_forms
def test_without_a_constant_the_last_column_is_penalised_like_the_others(form: Form) -> None:
    features, targets = data(80, 6, 2)
    solution = solved(collected(form, features, targets), 0.5, constant=False)
    torch.testing.assert_close(solution, textbook(features, targets, 0.5, constant=False), rtol=1e-9, atol=1e-12)


@in_both_forms
@pytest.mark.parametrize("penalty", RIDGES)
def test_the_constant_is_not_penalised(penalty: float, form: Form) -> None:
    features, targets = data(80, 6, 2)
    shifted = targets + torch.tensor([1e3, -5.0], dtype=torch.float64)
    before, after = (solved(collected(form, features, aim), penalty) for aim in (targets, shifted))
    torch.testing.assert_close(after[:-1], before[:-1], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(after[-1] - before[-1], shifted[0] - targets[0], rtol=1e-6, atol=1e-6)


@in_both_forms
def test_a_huge_ridge_leaves_the_mean_of_the_targets(form: Form) -> None:
    features, targets = data(80, 6, 2)
    solution = solved(collected(form, features, targets), 1e9)
    torch.testing.assert_close(features @ solution, targets.mean(0).expand(80, 2), rtol=0, atol=1e-5)


@in_both_forms
def test_features_that_are_always_zero_get_zero_coefficients_and_disturb_nothing(form: Form) -> None:
    features, targets = data(80, 6, 2)
    padded = torch.cat([torch.zeros(80, 2, dtype=torch.float64), features[:, :3], features[:, 3:] * 0], 1)
    padded[:, -1] = 1
    kept = padded[:, [2, 3, 4, 7]]
    for ridge in RIDGES:
        wide, narrow = (solved(collected(form, rows, targets), ridge) for rows in (padded, kept))
        assert wide.isfinite().all()
        assert wide[[0, 1, 5, 6]].abs().max() == 0
        torch.testing.assert_close(wide[[2, 3, 4, 7]], narrow, rtol=1e-9, atol=1e-12)


@in_both_forms
def test_equal_features_share_their_coefficient(form: Form) -> None:
    features, targets = data(80, 4, 1)
    doubled = torch.cat([features[:, :1], features], 1)
    for ridge in RIDGES:
        solution = solved(collected(form, doubled, targets), ridge)
        assert solution.isfinite().all()
        torch.testing.assert_close(solution[0], solution[1], rtol=1e-4, atol=1e-9)


@in_both_forms
def test_the_error_is_the_sum_of_squared_residuals(form: Form) -> None:
    features, targets = data(90, 8, 3)
    solution = torch.randn(8, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    direct = float((features @ solution - targets).square().sum())
    assert collected(form, features, targets, 20).lack(given(solution)) == pytest.approx(direct, rel=1e-10)


@in_both_forms
def test_the_error_of_an_exact_solution_is_never_negative(form: Form) -> None:
    features, _ = data(90, 8, 3)
    weight = torch.randn(8, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 1e5
    error = collected(form, features, features @ weight).lack(given(weight))
    assert 0 <= error < 1e-6 * float((features @ weight).square().sum())


@settings(deadline=None, max_examples=25)
@drawn(seed=st.integers(0, 10_000), rows=st.integers(8, 40), noise=st.floats(0, 3), form=st.sampled_from(FORMS))
def test_the_chosen_ridge_is_better_on_held_out_rows_than_the_middle_one_and_those_beside_it(
    seed: int, rows: int, noise: float, form: Form
) -> None:
    features, targets = data(rows + 50, 7, 2, seed)
    targets = targets + noise * data(rows + 50, 7, 2, seed + 1)[1]
    fit, held_out = (collected(form, features[part], targets[part]) for part in (slice(rows), slice(rows, None)))
    errors = {}
    for penalty in RIDGES:
        residual = features[rows:] @ textbook(features[:rows], targets[:rows], penalty) - targets[rows:]
        errors[penalty] = float(residual.square().sum() / targets[rows:].square().sum())
    choice = choose(fit, held_out)
    place = RIDGES.index(choice.ridge)
    beside = {*RIDGES[max(0, place - 1) : place + 2], RIDGES[len(RIDGES) // 2]}
    assert choice.error == pytest.approx(errors[choice.ridge], rel=1e-5)
    assert errors[choice.ridge] == pytest.approx(min(errors[penalty] for penalty in beside), rel=1e-5)


@in_both_forms
def test_noise_asks_for_a_stronger_ridge_than_clean_data(form: Form) -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.cat([torch.randn(60, 20, generator=generator), torch.ones(60, 1)], 1).double()
    clean = features @ torch.randn(21, 1, generator=generator, dtype=torch.float64)
    noise = torch.randn(60, 1, generator=generator, dtype=torch.float64)
    chosen = [
        choose(collected(form, features[:30], aim[:30]), collected(form, features[30:], aim[30:])).ridge
        for aim in (clean, noise)
    ]
    assert chosen[0] == min(RIDGES)
    assert chosen[1] == max(RIDGES)


def test_nothing_to_correct_is_chosen_without_an_error() -> None:
    features, targets = data(40, 5, 2)
    moments = moments_of(features, targets * 0)
    assert choose(moments, moments).error == 0
