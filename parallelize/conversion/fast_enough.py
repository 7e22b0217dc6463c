"""A schedule that is fast enough, where it is going to run or on a target.

Latency falls with the depth, and depends on what runs, not on the weights. So

    1. drafts are timed beside the serial network: schedules of equal groups, fused, their weights untouched, nothing
       measured; bisection over the depths, that of the network as it is among them, finds the deepest that is fast
       enough;
    2. without a budget that depth is taken, because deeper schedules lose less: there groups are measured and refitted;
       what was chosen is fused and timed again. Where it is too slow after all, as its groups took forms of more
       operations or its refit made products wider, the next depth is searched;
    3. with a budget the shallowest schedule within it is taken, of the depths that are fast enough; where none is, or
       the one that is turns out too slow with its refit, goal and budget exclude each other.

A network that is fast enough as it is, its branches fused, is left as it is. Without data the draft is the schedule.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from parallelize.conversion.goal import Faster
from parallelize.conversion.job import Job
from parallelize.conversion.pace import Pace, Timed
from parallelize.metrics import Budget
from parallelize.models.program import Program
from parallelize.planning.planner import Planner
from parallelize.planning.search import Candidate, Search
from passes.errors import CheckError
from passes.plan import Plan
from passes.registry import FUSION
from passes.runner import run_passes
from passes.schedule.apply_plan import ApplyPlan

Time = Callable[[Program, int], Timed]  # a program, and how many blocks deep it is
_LESS = "Ask for less, or of another backend or target; `parallelize plan` shows what each depth gains."


@dataclass(frozen=True)
class Found:
    """What was found.

    Attributes:
        depth: in blocks, that of the network as it is where nothing is to be scheduled.
        pace: what was timed.
        search: None where nothing was searched.
    """

    depth: int
    pace: Pace
    search: Search | None = None


def drafted(
    job: Job, pace: Pace, depths: Sequence[int], draft: Callable[[int], Plan], time: Time, why: str | None = None
) -> Found:
    """The deepest draft that is fast enough.

    Args:
        job: what is converted.
        pace: how fast it is to be.
        depths: that there are, less than that of the network, in any order.
        draft: the schedule of a depth.
        time: times a program beside the serial one.
        why: there are no depths, as the rest of a sentence.

    Raises:
        CheckError: none is fast enough, the shallowest and the network as it is included.
    """
    teacher, serial = job.prepared.program, job.graph.serial_blocks
    timed: list[Timed] = []

    def is_fast(depth: int) -> bool:
        passes = FUSION if depth == serial else [ApplyPlan(draft(depth)), *FUSION]
        fused, _ = run_passes(teacher.module, passes)
        timed.append(time(replace(teacher, module=fused), depth))
        return pace.is_reached(timed[-1])

    depth = _deepest([*sorted(depths), serial], is_fast)
    if depth is None:
        fastest = max(timed, key=lambda each: each.speed_up)
        because = "" if why is None else f": {why}"
        raise CheckError(f"No schedule reaches {pace.asked}{because}; the fastest is {fastest}.", _LESS)
    return Found(depth, replace(pace, drafts=tuple(timed)))


def _deepest(depths: Sequence[int], is_fast: Callable[[int], bool]) -> int | None:
    """The last of the depths, the shallowest first, that is fast; None where the first one is not."""
    low, high = 0, len(depths)
    while low < high:
        middle = (low + high) // 2
        if is_fast(depths[middle]):
            low = middle + 1
        else:
            high = middle
    return depths[low - 1] if low else None


def searched(job: Job, goal: Faster, pace: Pace, planner: Planner, time: Time) -> Found:
    """The schedule of a search that reaches the goal, with its refit.

    Raises:
        CheckError: none is fast enough, or none of those that are is within the budget.
    """
    depths = [depth for depth in planner.depths if depth < planner.blocks]
    found = drafted(job, pace, depths, planner.draft, time)
    fast = [depth for depth in depths if depth <= found.depth]
    if goal.budget is not None and fast:
        return _within(goal.budget, found, planner, fast, time)
    if found.depth == planner.blocks:
        return found
    for depth in reversed(fast):
        search = planner.at_depth(depth)
        found = _taken(found, search, time)
        if found.pace.is_reached(found.pace.searched[-1]):
            return found
    raise CheckError(
        f"No schedule reaches {pace.asked} once it is refitted; the fastest is {found.pace.searched[-1]}.", _LESS
    )


def _within(budget: Budget, found: Found, planner: Planner, fast: Sequence[int], time: Time) -> Found:
    """The shallowest schedule within a budget, of depths that are fast enough."""
    chosen = planner.shallowest(budget, fast)
    if chosen is None and found.depth == planner.blocks:
        return found
    nearest = chosen or planner.measure(max(fast))
    taken = _taken(found, planner.search(nearest), time)
    reached = taken.pace.searched[-1]
    if chosen is not None and taken.pace.is_reached(reached):
        return taken
    error, upper = nearest.scores.error(planner.metric), nearest.scores.interval(planner.metric)[1]
    raise CheckError(
        f"No schedule reaches {found.pace.asked} within the {planner.metric} budget of {budget}; the nearest is"
        f" {reached} and has {planner.metric} {error:.3g} ({upper:.3g} at the upper end of its interval).",
        "Raise --max-error, ask for less speed, or give more calibration data with --inputs.",
    )


def _taken(found: Found, search: Search, time: Time) -> Found:
    """What a search chose, fused and timed."""
    chosen = search.chosen
    pace = replace(found.pace, searched=(*found.pace.searched, _timed(chosen, time)))
    return Found(chosen.depth_blocks, pace, search)


def _timed(candidate: Candidate, time: Time) -> Timed:
    fused, _ = run_passes(candidate.network.module, FUSION)
    return time(replace(candidate.network.program, module=fused), candidate.depth_blocks)
