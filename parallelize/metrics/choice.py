"""Which metric judges where none was asked for: the first of the catalogue whose default suits the outputs."""

from __future__ import annotations

from parallelize.data import Samples
from parallelize.metrics.catalogue import known_metrics
from parallelize.metrics.metric import Metric
from parallelize.metrics.own import find_metric
from parallelize.models.prepare import PROBE
from parallelize.models.program import Program
from passes.graph.outputs import flat_outputs


def choose_metric(wanted: Metric | str | None, program: Program, judge: Samples) -> Metric:
    """The metric that was asked for, or the one for these outputs."""
    if wanted is not None:
        return find_metric(wanted)
    outputs = flat_outputs(program.module, judge.batch(PROBE))
    return next(m for m in known_metrics().values() if m.default is not None and m.default.suits(outputs))
