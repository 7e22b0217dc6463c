"""How to convert."""

from __future__ import annotations

from dataclasses import dataclass, field

from parallelize.conversion.engine_options import EngineOptions
from parallelize.healing.options import HealOptions
from parallelize.metrics import Budget, Metric
from passes.plan import Plan, Refit


@dataclass(frozen=True)
class ConvertOptions:
    """How to convert. Of `plan`, `depth` and `max_error` at most one is given.

    Attributes:
        plan: replay this plan.
        depth: the best schedule of at most so many blocks.
        max_error: the shallowest schedule within this error of `metric`: a number, or a percentage such as "1%".
        metric: what the search minimises and the budget limits, by its name or as `file.py:function`; None is KL for
            logits (samples, classes), relative L2 otherwise.
        refit: the strongest refit a level may get.
        seed: seeds the split of the data.
        threads: of ONNX Runtime when latency is measured.
        rounds: how often each network is timed.
        time_limit: seconds after which the search measures no more groups of blocks and no more neighbours.
        refine: neighbours of each depth's best schedule that are measured as whole networks, at most.
        heal: heal the rewrite by gradient steps; None does not.
        engine: backend, precision and how to build an engine.
    """

    plan: Plan | None = None
    depth: int | None = None
    max_error: Budget | float | str | None = None
    metric: Metric | str | None = None
    refit: Refit = "full"
    seed: int = 0
    threads: int = 1
    rounds: int = 200
    time_limit: float | None = None
    refine: int = 0
    heal: HealOptions | None = None
    engine: EngineOptions = field(default_factory=EngineOptions)
