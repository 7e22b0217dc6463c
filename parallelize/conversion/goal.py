"""What a conversion is to reach: a plan to replay, a depth, or an error that is allowed."""

from __future__ import annotations

from dataclasses import dataclass

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


Goal = Replay | AtDepth | Within


def goal_of(options: ConvertOptions) -> Goal:
    """The goal that options name, before anything takes time.

    Raises:
        ParallelizeError: several of a plan, a depth and a budget, or a budget that is no number or has no meaning for
            the metric.
    """
    given = [name for name in ("plan", "depth", "max_error") if getattr(options, name) is not None]
    if len(given) > 1:
        raise ParallelizeError(
            "Only one of a plan, a depth and a maximal error can be asked for.", "Leave out the rest."
        )
    if options.plan is not None:
        return Replay(options.plan)
    if options.depth is not None:
        return AtDepth(options.depth)
    if options.max_error is None:
        return Within(is_default=True)
    budget = Budget.parse(options.max_error)
    if isinstance(options.metric, Metric):
        budget.check(options.metric)
    return Within(budget)
