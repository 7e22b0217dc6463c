"""What a search may spend: an error that must be kept with its interval, a time, a longest group."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from parallelize.metrics import Budget
from parallelize.metrics.own import own_metric
from parallelize.planning.costs import GroupCosts
from parallelize.planning.options import PlannerOptions
from parallelize.planning.planner import Planner
from passes.errors import CheckError, ParallelizeError
from tests.parallelize.planning.cases import (
    FIT,
    HELD_OUT,
    levels,
    mlps,
    needs_its_first_block,
    on_vectors,
    partitions,
    quick,
)
from tests.parallelize.small_models import vision


@functools.cache
def _groups() -> dict[str, float]:
    """What the groups of `quick` cost, measured once."""
    planner = quick()
    for depth in partitions(planner):
        planner.proposal(depth)
    return planner.costs.known


def _planner() -> Planner:
    """`quick` with its groups measured, and no network."""
    planner = quick()
    planner.costs.known.update(_groups())
    return planner


@functools.cache
def _measured() -> dict[int, tuple[float, float]]:
    """Error and upper end of its interval for each depth of rewrites."""
    planner = _planner()
    scores = {depth: planner.measure(depth).scores for depth in (1, 2, 3)}
    found = {depth: (score.error("kl"), score.interval("kl")[1]) for depth, score in scores.items()}
    assert found[1][1] > found[2][1] > found[3][1] > 0
    assert all(upper > error for error, upper in found.values())
    return found


# ------------------------------------------------------------------------------------------------ errors


def test_the_shallowest_schedule_whose_interval_is_within_a_budget_is_found() -> None:
    for depth, (_, upper) in _measured().items():
        for budget in (upper, 1.01 * upper):
            found = _planner().within(budget).chosen
            assert found.depth_blocks == depth
            assert found.scores.interval("kl")[1] == upper


def test_a_budget_may_be_text_or_parsed_already() -> None:
    planner, upper = _planner(), _measured()[2][1]
    assert planner.within(str(upper)).chosen is planner.within(Budget(upper)).chosen is planner.measure(2)


def test_an_error_within_the_budget_whose_interval_is_not_does_not_keep_it() -> None:
    error, upper = _measured()[2]
    between = (error + max(error, _measured()[3][1], upper / 1.001)) / 2
    assert max(error, _measured()[3][1]) < between < upper
    assert _planner().within(between).chosen.depth_blocks == 3


def test_a_budget_above_all_errors_runs_all_blocks_side_by_side() -> None:
    assert levels(_planner().within(1e9).chosen.plan) == [(0, 1, 2, 3)]


def test_bisection_measures_no_more_networks_than_it_must() -> None:
    assert [candidate.depth_blocks for candidate in _planner().within(1e9).measured] == [2, 1]


def test_an_impossible_budget_is_refused_with_the_nearest_error_and_exit_code_1() -> None:
    error, upper = _measured()[3]
    with pytest.raises(CheckError) as caught:
        _planner().within(error / 2)
    assert str(caught.value) == (
        f"No rewrite is within the kl budget of {error / 2:g}; the nearest, 3 blocks deep, has {error:.3g}"
        f" ({upper:.3g} at the upper end of its interval)."
    )
    assert "--max-error" in caught.value.hint
    assert caught.value.exit_code == 1


def test_the_serial_network_is_no_rewrite_even_where_it_was_measured_before() -> None:
    planner = _planner()
    planner.at_depth(4)
    with pytest.raises(CheckError, match="No rewrite is within the kl budget"):
        planner.within(0.0)


def test_outputs_of_nan_are_within_no_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("parallelize.planning.known_forms.other_forms", lambda *group: iter(()))
    monkeypatch.setattr("parallelize.planning.fusibility.Fusibility.why_not", lambda *group: None)  # no products
    planner = on_vectors(needs_its_first_block(), refit="none")
    assert not planner.measure(1).scores.error("kl") <= 1e9
    assert planner.within(1e9).chosen.depth_blocks == 2


@pytest.mark.slow
def test_a_budget_is_measured_with_the_metric_that_was_asked_for() -> None:
    found = quick("disagreement").within(0.5).chosen
    assert found.scores.interval("disagreement")[1] <= 0.5
    assert found.scores.error("relative-l2") > 0
    with pytest.raises(CheckError, match="relative-l2 budget"):
        quick("relative-l2").within(1e-6)


def test_a_percentage_of_a_share_is_that_share() -> None:
    planner = quick("relative-l2")
    upper = planner.measure(2).scores.interval("relative-l2")[1]
    assert (
        planner.within(f"{101 * upper}%").chosen.depth_blocks == planner.within(1.01 * upper).chosen.depth_blocks <= 2
    )


def test_a_percentage_of_a_value_is_one_of_the_serial_networks() -> None:
    metric = own_metric("of-two", lambda ours, teacher, batch: 2 - (ours[0] - teacher[0]).abs().mean(1))
    planner = quick(metric)
    upper = {depth: planner.measure(depth).scores.interval(metric)[1] for depth in (1, 2)}
    assert upper[1] > 1.01 * upper[2]
    assert planner.judge.serial.value(metric) == 2
    found = planner.within(f"{100 * 1.005 * upper[2] / 2}%").chosen
    assert found.depth_blocks == 2
    assert found.scores.interval(metric)[1] > 1.005 * upper[2] / 2


def test_a_percentage_of_nothing_is_refused_before_anything_is_measured() -> None:
    planner = quick("kl")
    with pytest.raises(ParallelizeError, match="5% has no meaning for kl"):
        planner.within("5%")
    assert planner.costs.known == {}


@pytest.mark.parametrize("budget", ["", "much", -1, "nan%", float("inf")])
def test_what_is_no_budget_is_refused_before_anything_is_measured(budget: float | str) -> None:
    planner = quick()
    with pytest.raises(ParallelizeError, match="is not a number of zero or more"):
        planner.within(budget)
    assert planner.costs.known == {}


def test_a_budget_for_a_model_without_two_blocks_alike_is_refused() -> None:
    planner = Planner(vision(depth=1), FIT, HELD_OUT, "kl", PlannerOptions(refit="none"))
    with pytest.raises(ParallelizeError, match="No two neighbouring blocks"):
        planner.within(0.1)


# ------------------------------------------------------------------------------------------------ time


def _measured_names(planner: Planner) -> list[str]:
    partitions(planner)
    return list(planner.costs.known)


def test_once_the_time_is_over_nothing_is_measured_and_groups_of_any_depth_are_as_equal_as_can_be() -> None:
    planner = quick(time_limit=0)
    assert planner.depths == [1, 2, 3, 4]
    assert levels(planner.at_depth(2).chosen.plan) == [(0, 1), (2, 3)]
    assert planner.within(1e9).chosen.depth_blocks == 1
    assert planner.costs.known == {}


def test_when_time_ends_among_groups_what_was_measured_counts() -> None:
    planner = quick(time_limit=1e9)

    def measure(number: int, form: Any) -> float:
        planner.deadline.end = 0.0
        return 5.0

    planner.costs._measure = measure  # type: ignore[method-assign]
    assert levels(planner.proposal(2).stacks and planner.proposal(2)) != [(0, 1), (2, 3)]
    assert len(planner.costs.known) == 1


def test_when_time_ends_among_other_forms_those_that_were_measured_count(monkeypatch: pytest.MonkeyPatch) -> None:
    planner = quick(time_limit=1e9)

    def measure(number: int, form: Any) -> float:
        if form.name.startswith("deletion"):
            planner.deadline.end = 0.0
            return 0.25
        return 1.0

    monkeypatch.setattr(planner.costs, "_measure", measure)
    (part,) = planner.proposal(1).stacks
    assert [name for name in planner.costs.known if "deletion" in name] == ["0 0-3 deletion of all but 0"]
    assert part.deleted == (1, 2, 3)
    assert partitions(planner)[1][0] == 0.25


@pytest.mark.slow
def test_with_enough_time_the_search_is_the_one_without_a_limit() -> None:
    limited, free = quick(time_limit=1e9), quick()
    for depth in (1, 2, 3, 4):
        assert limited.proposal(depth) == free.proposal(depth)
    assert partitions(limited) == partitions(free)
    assert limited.costs.known == free.costs.known


# ------------------------------------------------------------------------------------------------ groups


def test_groups_are_no_longer_than_asked_for() -> None:
    planner = quick(longest_group=2)
    assert planner.depths == [2, 3, 4]
    partitions(planner)
    spans = {name.split()[1] for name in planner.costs.known}
    assert spans == {"0-1", "1-2", "2-3"}
    with pytest.raises(ParallelizeError, match="the shallowest has 2"):
        planner.at_depth(1)


@pytest.mark.parametrize(("blocks", "longest"), [(16, 16), (17, 4)])
def test_groups_of_a_long_stack_are_limited(blocks: int, longest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GroupCosts, "_measure", lambda self, number, form: 1.0)
    planner = on_vectors(mlps(blocks))
    assert planner.blocks == blocks
    lengths = {last - first + 1 for name in _measured_names(planner) for first, last in [_span(name)]}
    assert max(lengths) == longest
    assert min(planner.depths) == -(-blocks // longest)


def _span(name: str) -> tuple[int, int]:
    first, last = name.split()[1].split("-")
    return int(first), int(last)


def test_a_longest_group_that_is_asked_for_counts_for_a_long_stack_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GroupCosts, "_measure", lambda self, number, form: 1.0)
    assert min(on_vectors(mlps(17), longest_group=17).depths) == 1


def test_groups_of_one_block_leave_only_the_serial_network() -> None:
    planner = quick(longest_group=1)
    assert partitions(planner).keys() == {4}
    assert planner.costs.known == {}
