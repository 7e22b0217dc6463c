"""The deepest schedule that is fast enough is found with few timings and searched alone; what cannot be is told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import parallelize.conversion.scheduling
from parallelize.conversion.fast_enough import Found, drafted, searched
from parallelize.conversion.goal import Faster
from parallelize.conversion.job import Job
from parallelize.conversion.options import ConvertOptions
from parallelize.conversion.pace import Pace, Timed
from parallelize.conversion.scheduling import Schedule, chosen_schedule
from parallelize.healing.options import HealOptions
from parallelize.metrics import Budget
from parallelize.models.program import Program
from parallelize.models.source import Source
from parallelize.planning.options import PlannerOptions
from parallelize.planning.planner import Planner
from passes.errors import CheckError, ParallelizeError
from passes.plan import Plan
from tests.parallelize.conversion.conversions import three_mlps
from tests.parallelize.conversion.jobs import begun
from tests.parallelize.small_models import vision

SERIAL_MS = 8.0
BY_DEPTH = {1: 1.0, 2: 2.0, 3: 7.0}  # milliseconds


class Watch:
    """Milliseconds by depth, others once a depth is timed again; the depths in the order in which they were timed."""

    def __init__(self, by_depth: Mapping[int, float] = BY_DEPTH, later: Mapping[int, float] | None = None) -> None:
        self.by_depth, self.later = by_depth, later
        self.timed: list[int] = []

    def __call__(self, program: Program, depth: int) -> Timed:
        assert isinstance(program, Program)
        again = self.later is not None and (depth in self.timed or depth not in self.by_depth)
        self.timed.append(depth)
        return Timed(depth, SERIAL_MS, (self.later or {})[depth] if again else self.by_depth[depth])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "x.npz"
    np.savez(path, x=np.random.default_rng(0).standard_normal((60, 6)).astype("f4"))
    return path


@pytest.fixture(scope="module")
def job(data: Path) -> Job:
    return begun(Source(three_mlps(), data), Faster(2.0), ConvertOptions(rounds=1, refit="none"))


def planner(job: Job) -> Planner:
    split = job.prepared.data
    return Planner(job.prepared.program, split.fit, split.held_out, "kl", PlannerOptions(refit="none"))


def pace(goal: Faster) -> Pace:
    return Pace("a clock", False, goal.speedup, goal.latency)


def found(job: Job, goal: Faster, watch: Watch) -> Found:
    return searched(job, goal, pace(goal), planner(job), watch)


# -------------------------------------------------------------------------------------------------- drafts


class _Deep:
    def __init__(self, blocks: int) -> None:
        self.serial_blocks = blocks


@pytest.mark.parametrize("deepest", [1, 2, 3, 5, 7, 8, 9])
def test_the_deepest_draft_that_is_fast_enough_is_found_by_bisection(deepest: int, job: Job) -> None:
    watch = Watch({depth: 1.0 if depth <= deepest else 7.0 for depth in range(1, 10)})
    nine: Any = replace(job, graph=_Deep(9))  # type: ignore[arg-type]
    draft: Callable[[int], Plan] = lambda _depth: job.graph.serial_plan  # noqa: E731  # any plan will do
    made = drafted(nine, pace(Faster(2.0)), range(1, 9), draft, watch)
    assert made.depth == deepest
    assert len(watch.timed) == len(made.pace.drafts) <= 4


def test_a_speed_that_no_draft_has_is_told_with_the_fastest_and_measures_no_group(job: Job) -> None:
    searching, goal = planner(job), Faster(9.0, 0.5)
    with pytest.raises(CheckError) as caught:
        searched(job, goal, pace(goal), searching, Watch())
    assert str(caught.value) == (
        "No schedule reaches a speed-up of 9 and 0.5 ms on a clock; the fastest is 1 block deep, 1 ms, serial 8 ms"
        " (8.00x)."
    )
    assert caught.value.hint.startswith("Ask for less")
    assert searching.costs.known == {}


# ------------------------------------------------------------------------------------------------ searches


@pytest.mark.parametrize(
    ("goal", "depth"), [(Faster(8.0), 1), (Faster(2.0), 2), (Faster(latency=2.0), 2), (Faster(2.0, 1.5), 1)]
)
def test_groups_are_measured_at_the_deepest_depth_that_is_fast_enough_alone(goal: Faster, depth: int, job: Job) -> None:
    made = found(job, goal, Watch())
    assert made.search is not None
    assert {candidate.depth_blocks for candidate in made.search.measured} == {made.depth} == {depth}
    assert made.pace.searched == (Timed(depth, SERIAL_MS, BY_DEPTH[depth]),)
    assert made.pace.chosen == made.pace.searched[-1]


def test_where_a_network_is_too_slow_with_its_refit_the_next_depth_is_taken(job: Job) -> None:
    made = found(job, Faster(2.0), Watch({2: 2.0, 3: 7.0}, later={1: 3.0, 2: 5.0}))
    assert (made.depth, [timed.depth_blocks for timed in made.pace.searched]) == (1, [2, 1])
    with pytest.raises(CheckError, match=r"once it is refitted; the fastest is 1 block deep, 4\.1 ms"):
        found(job, Faster(2.0), Watch({2: 2.0, 3: 7.0}, later={1: 4.1, 2: 5.0}))


def test_a_network_that_is_fast_enough_as_it_is_is_not_searched(job: Job) -> None:
    made = found(job, Faster(latency=7.0), Watch())
    assert (made.depth, made.search, made.pace.searched) == (3, None, ())
    assert made.pace.chosen == Timed(3, SERIAL_MS, 7.0)


def test_within_a_budget_the_shallowest_is_taken_of_what_is_fast_enough(job: Job) -> None:
    made = found(job, Faster(2.0, budget=Budget(1e6)), Watch())
    assert made.depth == 1
    assert made.search is not None
    assert {candidate.depth_blocks for candidate in made.search.measured} <= {1, 2}


def test_a_goal_and_a_budget_that_exclude_each_other_are_told_with_the_nearest_and_both_its_figures(job: Job) -> None:
    with pytest.raises(CheckError) as caught:
        found(job, Faster(2.0, budget=Budget(0.0)), Watch())
    told = str(caught.value)
    assert told.startswith(
        "No schedule reaches a speed-up of 2 on a clock within the kl budget of 0; the nearest is 2 blocks deep, 2 ms,"
        " serial 8 ms (4.00x) and has kl "
    )
    assert told.endswith("at the upper end of its interval).")
    assert caught.value.hint.startswith("Raise --max-error, ask for less speed")
    with pytest.raises(CheckError, match=r"the nearest is 1 block deep, 5 ms, serial 8 ms \(1\.60x\) and has kl"):
        found(job, Faster(2.0, budget=Budget(1e6)), Watch({2: 2.0, 3: 7.0}, later={1: 5.0, 2: 5.0}))


def test_a_budget_that_no_rewrite_keeps_leaves_a_network_that_is_fast_enough_as_it_is(job: Job) -> None:
    made = found(job, Faster(latency=7.0, budget=Budget(0.0)), Watch())
    assert (made.depth, made.search) == (3, None)


# ----------------------------------------------------------------------------------------------- schedules


def scheduled(monkeypatch: pytest.MonkeyPatch, source: Source, goal: Faster, **options: Any) -> Schedule:
    monkeypatch.setattr(parallelize.conversion.scheduling, "Stopwatch", lambda *_: Watch())
    made = begun(source, goal, ConvertOptions(rounds=1, refit="none", **options))
    return chosen_schedule(made, lambda what, share: None)


def test_without_data_the_deepest_draft_is_the_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    schedule = scheduled(monkeypatch, Source(three_mlps()), Faster(2.0))
    assert schedule.search is schedule.unscheduled is None
    assert schedule.plan.stacks[0].depth == 2


def test_a_network_that_is_fast_enough_as_it_is_says_so_and_is_not_healed(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule = scheduled(monkeypatch, Source(three_mlps(), data), Faster(latency=7.0))
    assert schedule.unscheduled == "with its branches fused, the network reaches 7 ms on onnxruntime as it is"
    assert schedule.plan.is_serial
    with pytest.raises(ParallelizeError, match="There is nothing to heal: with its branches fused"):
        scheduled(monkeypatch, Source(three_mlps(), data), Faster(latency=7.0), heal=HealOptions())


def test_what_cannot_be_scheduled_and_is_not_fast_enough_is_told_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(CheckError, match="reaches a speed-up of 9 on onnxruntime: the network is one block deep; the"):
        scheduled(monkeypatch, Source(vision(1)), Faster(9.0))


def test_a_target_is_asked_in_the_place_of_a_clock(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallelize.conversion.scheduling, "Stopwatch", None)
    options = ConvertOptions(rounds=1, refit="none", target="h200")
    schedule = chosen_schedule(begun(Source(three_mlps(), data), Faster(2.0), options), lambda what, share: None)
    assert schedule.search is not None
    assert schedule.search.chosen.depth_blocks == 1
    assert schedule.pace is not None
    assert (schedule.pace.where, schedule.pace.predicted) == ("NVIDIA H200", True)
    with pytest.raises(CheckError, match=r"a speed-up of 50 on NVIDIA H200 \(predicted\); the fastest is 1 block deep"):
        chosen_schedule(begun(Source(three_mlps(), data), Faster(50.0), options), lambda what, share: None)


def test_a_target_that_is_not_there_is_refused_before_the_model_is_looked_at() -> None:
    with pytest.raises(ParallelizeError, match="There is no target 'h300'"):
        begun(Source("no such model"), Faster(2.0), ConvertOptions(min_speedup=2, target="h300"))
