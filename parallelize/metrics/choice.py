"""Which metric judges where none was asked for."""

from __future__ import annotations

from parallelize.data import Samples
from parallelize.metrics.catalogue import Metric
from parallelize.metrics.columns import logit_axes
from parallelize.metrics.own import find_metric
from parallelize.models.prepare import PROBE
from parallelize.models.program import Program
from passes.graph.agreement import is_code
from passes.graph.outputs import flat_outputs


def choose_metric(wanted: Metric | str | None, program: Program, judge: Samples) -> Metric:
    """The metric that was asked for, or the one for these outputs.

    Hidden states (samples, tokens, features) have the shape of a language model's logits, so KL is the default for
    logits (samples, classes) only. Outputs that are all integers or bools differ or do not.
    """
    if wanted is None:
        outputs = flat_outputs(program.module, judge.batch(PROBE))
        codes = all(is_code(output) for output in outputs)
        wanted = "kl" if logit_axes(outputs) == 2 else "differing" if codes else "relative-l2"
    return find_metric(wanted)
