"""What a search for the frontier is asked for.

Imports no torch, because the command line makes its options of the fields.
"""

from __future__ import annotations

from dataclasses import dataclass

from parallelize.measuring.options import MeasureOptions
from parallelize.planning.options import DeviceOptions, PlannerOptions
from parallelize.predicting.options import TargetOptions
from parallelize.terminal.option_field import Spelling, option, options_of
from passes.errors import ParallelizeError


def _depths(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ParallelizeError(f"The depths {text!r} are no numbers.", "Give them as in --depths 2,3,6.") from None


@dataclass(frozen=True)
class PlanOptions(TargetOptions, MeasureOptions, DeviceOptions):
    """What to look for.

    Attributes:
        depths: depths in blocks to measure; None spreads them over all that there are.
        planner: how to search.
        heatmap: whether to measure and draw the sensitivity.
        latency: whether to time the schedules on ONNX Runtime at batch 1.
    """

    depths: tuple[int, ...] | None = option(
        None,
        "Depths in blocks to measure, such as 2,3,6 (default: up to ten, spread over all).",
        metavar="N,N,...",
        spelling=Spelling(str | None, read=_depths),
    )
    planner: PlannerOptions = options_of(PlannerOptions)
    heatmap: bool = option(False, "Measure and draw what each term needs of the earlier ones.")
    latency: bool = option(True, "Time the schedules on ONNX Runtime at batch 1.")
