"""A speed-up on a target: the deepest schedule that is predicted to reach it, or a sentence on how near one comes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from parallelize.conversion.goal import Faster
from parallelize.conversion.options import ConvertOptions
from parallelize.conversion.scheduling import chosen_schedule
from parallelize.conversion.speed_goal import fast_enough
from parallelize.data.split import split
from parallelize.metrics import Budget
from parallelize.models.source import Source
from parallelize.planning.options import PlannerOptions
from parallelize.planning.planner import Planner
from parallelize.predicting.asked_for import AskedFor
from passes.errors import CheckError, ParallelizeError
from passes.registry import FUSION
from passes.runner import run_passes
from tests.parallelize.conversion.jobs import begun
from tests.parallelize.predicting.targets import KNOWN
from tests.parallelize.small_models import images, vision

ASKED_FOR = AskedFor(KNOWN, "bf16")


@pytest.fixture(scope="module")
def planner() -> Planner:
    data = split(images(40, 1), None, 0)
    return Planner(vision(3), data.fit, data.held_out, "kl", PlannerOptions(refit="none"))


@pytest.fixture(scope="module")
def reached(planner: Planner) -> dict[int, float]:
    """The speed-up of each depth."""
    serial = ASKED_FOR.milliseconds(planner.program, planner.held_out)
    found = {}
    for depth in planner.depths:
        module, _ = run_passes(planner.measure(depth).network.module, FUSION)
        network = replace(planner.program, module=module)
        found[depth] = serial / ASKED_FOR.milliseconds(network, planner.held_out)
    return found


def test_the_deepest_schedule_that_is_fast_enough_is_taken(planner: Planner, reached: dict[int, float]) -> None:
    assert sorted(reached, key=reached.__getitem__) == [3, 2, 1]
    for depth in (1, 2):
        search = fast_enough(planner, Faster(reached[depth] - 0.01), ASKED_FOR)
        assert search.chosen.depth_blocks == depth


def test_a_speed_up_that_no_schedule_reaches_says_how_near_the_shallowest_comes(
    planner: Planner, reached: dict[int, float]
) -> None:
    with pytest.raises(CheckError) as caught:
        fast_enough(planner, Faster(50), ASKED_FOR)
    assert str(caught.value) == (
        "No rewrite is predicted to be 50 times as fast on NVIDIA Known: the shallowest, 1 block deep, is"
        f" {reached[1]:.2f} times as fast."
    )
    assert caught.value.hint == "Lower --min-speedup."


def test_within_a_budget_the_shallowest_is_taken(planner: Planner, reached: dict[int, float]) -> None:
    search = fast_enough(planner, Faster(reached[2], Budget(1e6)), ASKED_FOR)
    assert search.chosen.depth_blocks == 1


def test_a_speed_up_and_a_budget_that_contradict_are_told_apart(planner: Planner, reached: dict[int, float]) -> None:
    least = min(planner.measure(depth).scores.interval("kl")[1] for depth in (1, 2))
    goal = Faster(50, Budget(least))
    with pytest.raises(
        CheckError, match=r"No rewrite within the kl budget of .* is predicted to be 50 times"
    ) as caught:
        fast_enough(planner, goal, ASKED_FOR)
    assert caught.value.hint == "Lower --min-speedup, or raise --max-error."
    with pytest.raises(CheckError, match="No rewrite is within the kl budget of 0"):
        fast_enough(planner, Faster(1, Budget(0)), ASKED_FOR)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "images.npz"
    np.savez(path, images=images(40, 1).arrays["images"].numpy())
    return path


def test_a_conversion_by_a_speed_up_takes_the_schedule_that_reaches_it(data: Path) -> None:
    options = ConvertOptions(rounds=1, refit="none", min_speedup=1.1, target="h200")
    job = begun(Source(vision(2), data), Faster(1.1), options)
    schedule = chosen_schedule(job, lambda what, share: None)
    assert schedule.search is not None
    assert (schedule.search.chosen.depth_blocks, schedule.budget) == (1, None)


def test_what_cannot_be_made_faster_and_what_has_no_data_is_refused(data: Path) -> None:
    options = ConvertOptions(rounds=1, min_speedup=2, target="h200")
    with pytest.raises(CheckError, match="Nothing can be made faster: the network is one block deep"):
        chosen_schedule(begun(Source(vision(1), data), Faster(2), options), lambda what, share: None)
    with pytest.raises(ParallelizeError, match="Which schedule of a speed-up is best is measured on data"):
        begun(Source(vision(2)), Faster(2), options)


def test_a_target_that_is_not_there_is_refused_before_the_model_is_looked_at() -> None:
    with pytest.raises(ParallelizeError, match="There is no target 'h300'"):
        begun(Source("no such model"), Faster(2), ConvertOptions(min_speedup=2, target="h300"))
