"""The smallest squared error of logarithms, where it is known."""

from __future__ import annotations

import numpy as np
import pytest

from parallelize.predicting.least_squares import Numbers, fit_logarithms

AT = np.linspace(1, 20, 30)


def _model(parameters: Numbers) -> Numbers:
    fixed, slope = parameters[:2]
    return np.asarray(np.maximum(fixed, slope * AT), dtype=np.float64)


def test_parameters_of_a_model_with_a_kink_are_found_again() -> None:
    measured = _model(np.array([7.0, 0.9]))
    found = fit_logarithms(_model, np.array([2.0, 2.0]), measured, np.ones(len(AT)), 1e-6)
    assert found.tolist() == pytest.approx([7.0, 0.9], rel=1e-3)


def test_a_parameter_that_the_measurements_do_not_tell_stays_where_it_started() -> None:
    measured = _model(np.array([7.0, 0.9]))
    found = fit_logarithms(_model, np.array([2.0, 2.0, 5.0]), measured, np.ones(len(AT)), 1e-3)
    assert found[2] == pytest.approx(5.0)


def test_a_measurement_without_weight_does_not_count() -> None:
    measured = _model(np.array([7.0, 0.9]))
    measured[-1] = 1e6
    weights = np.ones(len(AT))
    weights[-1] = 0
    found = fit_logarithms(_model, np.array([2.0, 2.0]), measured, weights, 1e-6)
    assert found.tolist() == pytest.approx([7.0, 0.9], rel=1e-3)


def test_a_start_that_is_best_is_kept() -> None:
    start = np.array([7.0, 0.9])
    assert fit_logarithms(_model, start, _model(start), np.ones(len(AT)), 1.0).tolist() == pytest.approx(start.tolist())
