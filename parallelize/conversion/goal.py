"""What a conversion is to reach: a plan to replay, a depth, an error that is allowed, or how fast to be."""

from __future__ import annotations

import math
from dataclasses import dataclass

from parallelize.conversion.options import ConvertOptions
from parallelize.machine.duration import milliseconds
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
    """The deepest schedule that is fast enough, because deeper ones lose less; of a budget the shallowest.

    Attributes:
        speedup: the serial network's median over that of the rewrite, at least; None where none was asked for.
        latency: median milliseconds, at most; None where none was asked for.
        budget: the largest error that is allowed; None allows any.
    """

    speedup: float | None = None
    latency: float | None = None
    budget: Budget | None = None


Goal = Replay | AtDepth | Within | Faster
_ALONE = ("plan", "depth")
_TOGETHER = ("max_error", "min_speedup", "max_latency")


def goal_of(options: ConvertOptions) -> Goal:
    """The goal that options name, before anything takes time.

    Raises:
        ParallelizeError: a plan or a depth beside anything else, a number that is none, a budget that has no meaning
            for the metric, or a speed-up that every network has.
    """
    alone, together = ([name for name in names if getattr(options, name) is not None] for names in (_ALONE, _TOGETHER))
    if len(alone) > 1 or (alone and together):
        raise ParallelizeError(
            "Only one of a plan, a depth and a maximal error, speed-up or latency can be asked for.",
            "Leave out the rest; an error, a speed-up and a latency go together.",
        )
    if options.plan is not None:
        return Replay(options.plan)
    if options.depth is not None:
        return AtDepth(options.depth)
    if not together:
        return Within(is_default=True)
    budget = None if options.max_error is None else Budget.parse(options.max_error)
    if budget is not None and isinstance(options.metric, Metric):
        budget.check(options.metric)
    if budget is not None and together == ["max_error"]:
        return Within(budget)
    speedup = None if options.min_speedup is None else _speedup(options.min_speedup)
    latency = None if options.max_latency is None else milliseconds(options.max_latency, "latency")
    return Faster(speedup, latency, budget)


def asked_budget(goal: Goal) -> Budget | None:
    """The largest error that was asked for, None where none was."""
    if isinstance(goal, Faster):
        return goal.budget
    return goal.budget if isinstance(goal, Within) and not goal.is_default else None


def _speedup(value: float | str) -> float:
    """Read 2, "2" or "2x"."""
    text = str(value).strip()
    try:
        number = float(text.removesuffix("x"))
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise ParallelizeError(
            f"The speed-up {text!r} is not a number above 1.", "Give one such as 2, for half the time of serial."
        )
    if number <= 1:
        raise ParallelizeError(
            f"Nothing is to be done for a speed-up of {number:g}: the serial network has it.",
            "Give a number above 1, such as 2 for half the time of serial.",
        )
    return number
