"""The numbers of a target from measured latencies, of whole networks or of chains of one kernel alike.

All numbers are fitted together, by the relative errors of the latencies. One that no measurement tells stays where it
started, because a start weighs as much as a few measurements.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from statistics import median

import numpy as np

from parallelize.predicting.kernel import KINDS, Kernels, Kind, Precision
from parallelize.predicting.latency import Predictor
from parallelize.predicting.least_squares import Numbers, fit_logarithms
from parallelize.predicting.target import Rate, Rates, Target

_SIMPLE = ("gb_per_s", "half_mb", "graph_us", "split_us")
_TILED = ("product", "convolution", "attention")
_DIGITS = 4  # of a fitted number
PRIOR = 0.2  # of the weight that all measurements have together, for all numbers together


@dataclass(frozen=True)
class Measured:
    """A latency.

    Attributes:
        kernels: of the network, or of the chain.
        microseconds: of one call, held in a CUDA graph.
        weight: of its relative error, beside those of others.
    """

    kernels: Kernels
    microseconds: float
    weight: float = 1.0


def fit(measured: Sequence[Measured], start: Target, held: Collection[str] = (), prior: float = PRIOR) -> Target:
    """The target with which predictions are nearest to measurements.

    Args:
        measured: latencies.
        start: where the search begins; its number of SMs holds.
        held: fields of `start` that are not fitted, because they were measured by themselves.
        prior: how much the start weighs.
    """
    predictor = Predictor([each.kernels for each in measured], start.sms)
    free = [place for place, name in enumerate(_names(start)) if name not in held]
    values = _values(start)

    def moved(numbers: Numbers) -> Target:
        every = values.copy()
        every[free] = numbers
        return _with_values(start, every)

    weights = np.array([each.weight for each in measured], dtype=np.float64)
    weight = prior * float(np.sqrt((weights**2).sum())) / len(free)
    times = np.array([each.microseconds for each in measured], dtype=np.float64)
    found = fit_logarithms(lambda p: predictor.microseconds(moved(p)), values[free], times, weights, weight)
    return moved(np.array([float(f"{number:.{_DIGITS}g}") for number in found]))


def errors(measured: Sequence[Measured], target: Target) -> list[float]:
    """Relative errors of the predicted latencies, with their signs."""
    predicted = Predictor([each.kernels for each in measured], target.sms).microseconds(target)
    return [float(time) / each.microseconds - 1 for time, each in zip(predicted, measured, strict=True)]


def median_error(measured: Sequence[Measured], target: Target) -> float:
    """The median of the errors without their signs."""
    return median(map(abs, errors(measured, target)))


def _names(target: Target) -> list[str]:
    """What is fitted, in the order of `_values`."""
    rates = [f"{kind}.{part}" for _ in target.rates for kind in _TILED for part in ("step_ns", "gflops")]
    return [*_SIMPLE, *(f"fixed_us.{kind}" for kind in KINDS), *rates]


def _values(target: Target) -> Numbers:
    rates = [getattr(each, kind) for each in target.rates.values() for kind in _TILED]
    parts = [number for rate in rates for number in (rate.step_ns, rate.gflops)]
    return np.array([*(getattr(target, n) for n in _SIMPLE), *(target.fixed_us[kind] for kind in KINDS), *parts])


def _with_values(target: Target, values: Numbers) -> Target:
    numbers = iter(map(float, values))
    simple = {name: next(numbers) for name in _SIMPLE}
    fixed = {kind: next(numbers) for kind in KINDS}
    rates = {name: Rates(*(Rate(next(numbers), next(numbers)) for _ in _TILED)) for name in target.rates}
    return replace(target, fixed_us=fixed, rates=rates, **simple)  # type: ignore[arg-type]


def started(gpu: str, compute_capability: str, sms: int, precisions: Sequence[Precision]) -> Target:
    """A target to begin a fit with: a GPU of no particular make, in the order of magnitude of all of them."""
    rates = Rates(product=Rate(1.0, 6000.0), convolution=Rate(5.0, 2000.0), attention=Rate(2.0, 3000.0))
    fixed: dict[Kind, float] = {
        "product": 2.0,
        "convolution": 20.0,
        "attention": 3.0,
        "norm": 2.0,
        "pointwise": 1.5,
        "copy": 1.5,
    }
    return Target(
        gpu=gpu,
        compute_capability=compute_capability,
        sms=sms,
        gb_per_s=1000.0,
        half_mb=2.0,
        graph_us=3.0,
        fixed_us=fixed,
        split_us=3.0,
        rates=dict.fromkeys(precisions, rates),
        error=0.0,
        error_of="nothing yet",
        measured_on={},
    )
