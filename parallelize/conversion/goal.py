"""What a conversion is to reach: a plan to replay, a depth, an error that is allowed, or a speed-up on a target."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from parallelize.conversion.options import ConvertOptions
from parallelize.metrics import Budget, Metric
from passes.errors import ParallelizeError
from passes.plan import Plan

DEFAULT_BUDGET = Budget(0.02)


@dataclass(frozen=True)
class Replay:
    """This plan."""

    plan: Plan


@dataclass(frozen=True)
class AtDepth:
    """The best schedule of at most so many blocks."""

    blocks: int


@dataclass(frozen=True)
class Within:
    """The shallowest schedule within a budget.

    Attributes:
        is_default: whether nothing was asked for.
    """

    budget: Budget = DEFAULT_BUDGET
    is_default: bool = False


@dataclass(frozen=True)
class Faster:
    """The best schedule that is predicted to be so many times as fast on a target; of a budget the shallowest."""

    min_speedup: float
    budget: Budget | None = None


Goal = Replay | AtDepth | Within | Faster


def goal_of(options: ConvertOptions) -> Goal:
    """The goal that options name, before anything takes time.

    Raises:
        ParallelizeError: several of a plan, a depth and a budget, a speed-up beside a plan or a depth or of no target,
            or a budget that is no number or has no meaning for the metric.
    """
    given = [name for name in ("plan", "depth", "max_error") if getattr(options, name) is not None]
    if len(given) > 1:
        raise ParallelizeError(
            "Only one of a plan, a depth and a maximal error can be asked for.", "Leave out the rest."
        )
    if options.min_speedup is not None:
        return _faster(options, options.min_speedup)
    if options.plan is not None:
        return Replay(options.plan)
    if options.depth is not None:
        return AtDepth(options.depth)
    if options.max_error is None:
        return Within(is_default=True)
    return Within(_budget(options.max_error, options))


def _faster(options: ConvertOptions, least: float) -> Faster:
    """The speed-up, held against what else was given."""
    if options.target is None:
        raise ParallelizeError(
            f"A speed-up of {least:g} is asked of a target, and none is named.", "Name the GPU, as in --target h200."
        )
    if options.plan is not None or options.depth is not None:
        raise ParallelizeError(
            "A plan or a depth leaves nothing to choose by a speed-up.", "Leave out --min-speedup, or the other one."
        )
    if not 1 <= least < inf:
        raise ParallelizeError(f"The speed-up {least} is not a number of one or more.", "Ask for 2, say.")
    return Faster(least, None if options.max_error is None else _budget(options.max_error, options))


def _budget(given: Budget | float | str, options: ConvertOptions) -> Budget:
    budget = Budget.parse(given)
    if isinstance(options.metric, Metric):
        budget.check(options.metric)
    return budget
