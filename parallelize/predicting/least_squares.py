"""Least squares in a few positive parameters by Levenberg and Marquardt, with differences in place of derivatives.

    minimise  |w (log model(p) - log measured)|^2  +  prior^2 |log p - log p_0|^2

Parameters move as logarithms, so that they stay positive and a step is relative. The second part keeps a parameter that
the measurements do not tell near its start. The model may have kinks, as ceilings have; a step that does not help is
shortened until it does.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]

_STEP = 1e-3  # of a logarithm, for differences
_ENOUGH = 1e-7  # relative gain below which the search ends
_ROUNDS, _TRIES = 100, 10


def fit_logarithms(
    model: Callable[[Numbers], Numbers], start: Numbers, measured: Numbers, weights: Numbers, prior: float
) -> Numbers:
    """Positive parameters with which the model is nearest to what was measured.

    Args:
        model: (parameters,) to (measurements,), positive.
        start: (parameters,), positive.
        measured: (measurements,), positive.
        weights: (measurements,) of the logarithms' differences.
        prior: weight of a parameter's distance from its start.
    """
    origin = np.log(start)

    def residuals(logs: Numbers) -> Numbers:
        errors = weights * (np.log(model(np.exp(logs))) - np.log(measured))
        return np.concatenate([errors, prior * (logs - origin)])

    logs, damping = origin, 1e-2
    now = residuals(logs)
    for _ in range(_ROUNDS):
        slopes = np.stack([(residuals(logs + _STEP * unit) - now) / _STEP for unit in np.eye(len(logs))], axis=1)
        found = _shorter(residuals, logs, now, slopes, damping)
        if found is None:
            break
        step, damping = found
        before, logs = now, logs + step
        now = residuals(logs)
        if before @ before - now @ now < _ENOUGH * (before @ before):
            break
    result: Numbers = np.exp(logs)
    return result


def _shorter(
    residuals: Callable[[Numbers], Numbers], logs: Numbers, now: Numbers, slopes: Numbers, damping: float
) -> tuple[Numbers, float] | None:
    """A step that helps, and the damping to begin the next one with; None where none does."""
    curvature = slopes.T @ slopes
    for _ in range(_TRIES):
        damped = curvature + damping * np.diag(np.diag(curvature) + 1e-9)
        step = np.asarray(-np.linalg.solve(damped, slopes.T @ now), dtype=np.float64)
        after = residuals(logs + step)
        if after @ after < now @ now:
            return step, max(damping / 3, 1e-6)
        damping *= 4
    return None
