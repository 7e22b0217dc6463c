"""Results of conversions, written by hand."""

from __future__ import annotations

from typing import Any

from parallelize.conversion.engine_result import BackendResult, Counts, EngineResult
from parallelize.conversion.result import (
    DataUsed,
    FoundStack,
    Healing,
    Intervals,
    MeasuredNetwork,
    MetricUsed,
    Result,
)
from parallelize.export.precision_result import PrecisionResult
from parallelize.healing.options import HealOptions
from parallelize.healing.progress import Evaluation
from parallelize.machine.latency import Latency
from parallelize.machine.measured_on import Machine
from parallelize.measuring.written import Comparison
from parallelize.metrics.scores import PlainScores
from parallelize.refitting.records import LevelRefit
from passes.plan import Plan, serial

FP32 = PrecisionResult("fp32", None, (), None, None, ())
BACKEND = BackendResult("onnxruntime", "it was asked for", FP32, 1e-6, None, None)
ENGINE = EngineResult(
    library="tensorrt-rtx 1.7",
    targets=("8.9",),
    precision="fp16",
    profiles=("x 1x8 / 1x8 / 32x8",),
    build_seconds=1.5,
    layers={"serial": Counts(50, 45, 1), "rewrite": Counts(30, 25, 1)},
    layers_from="builder's log",
    errors={},
    latency_ms={},
    not_run="model.engine runs on a GPU, and there is none here.",
)
HEALING = Healing(HealOptions(), 0.5, 0.25, 30, 40, 1.0, 900, 1e-3, "cpu", "finished", (Evaluation(30, 0.3, 0.25),))


def network(name: str, error: float = 0.0, blocks: int = 2, **changes: Any) -> MeasuredNetwork:
    """A network whose error is of KL."""
    values: dict[str, Any] = {
        "name": name,
        "depth_blocks": blocks,
        "depth_terms": 2 * blocks,
        "parameters": 12345,
        "critical_gemms": 6 * blocks,
        "scores": PlainScores(20, relative_l2=error, kl=error, agreement=0.75),
        "errors": {"kl": error, "disagreement": 0.25},
        "error_intervals": {"kl": (error / 2, 2 * error), "disagreement": (0.125, 0.5)},
        "values": {},
        "value_intervals": {},
        "onnxruntime_ms": Latency(0.25 * blocks, 0.5 * blocks, float(blocks), 200),
        "onnx_against_graph": Comparison(1e-6, 1e-3, 20),
    }
    return MeasuredNetwork(**{**values, **changes})


def result(**changes: Any) -> Result:
    """A network of four blocks that became two deep, and what it is compared with."""
    values: dict[str, Any] = {
        "model": "small",
        "measured_on": Machine("2026-01-01", "a <processor>", 4, 1, "Linux", "3.12", "0.1", "2.9", "1.19", "1.23"),
        "warnings": (),
        "data": DataUsed(random=False, fit=60, held_out=20, judge=20, batch=1),
        "device": "cuda, a <gpu>",
        "metric": MetricUsed("kl", "divergence from the teacher", None),
        "intervals": Intervals("BCa bootstrap over samples", 0.95, 1000),
        "refit_allowed": "full",
        "plan": Plan((serial(4),)),
        "unscheduled": None,
        "deletion_plan": None,
        "stacks": (FoundStack("layers", 8, 4, 4, "4 attention, 4 mlp", ()),),
        "refused": (),
        "networks": (network("serial", blocks=4), network("rewrite, as is", 0.25), network("deletion, as is", 0.5)),
        "refit": (LevelRefit("layers", 0, "full", 1e-3, 0.5, 0.25),),
        "healing": None,
        "passes": (),
        "search": (),
        "forward_passes": 0.0,
        "unfused_stacks": {},
        "backend": BACKEND,
    }
    return Result(**{**values, **changes})
