"""The progress of a build is that of its outermost phase."""

from __future__ import annotations

from typing import Any

import pytest

from parallelize.backends.tensorrt.monitor import make_monitor
from tests.parallelize.backends.tensorrt.double import make_double
from tests.parallelize.backends.tensorrt.strictness import Script

Told = list[tuple[str, float | None]]


@pytest.fixture
def told() -> Told:
    return []


@pytest.fixture
def monitor(told: Told) -> Any:
    return make_monitor(make_double(Script()), lambda what, share: told.append((what, share)))


def test_phases_inside_of_the_build_do_not_move_its_share(monitor: Any, told: Told) -> None:
    monitor.phase_start("build", None, 4)
    assert monitor.step_complete("build", 0)
    monitor.phase_start("tactics", "build", 100)
    for step in range(100):
        assert monitor.step_complete("tactics", step)
    monitor.phase_finish("tactics")
    assert monitor.step_complete("build", 1)
    monitor.phase_finish("build")
    assert [share for _, share in told] == [0, 0.25, 0.25, 0.5, 1.0]
    assert {what for what, _ in told} == {"building the engine"}


def test_a_second_build_begins_anew_and_one_without_steps_or_with_more_than_told_is_no_error(
    monitor: Any, told: Told
) -> None:
    for steps in (2, 0):
        monitor.phase_start("build", None, steps)
        monitor.step_complete("build", 2)
        monitor.phase_finish("build")
    assert [share for _, share in told] == [0, 1.0, 1.0] * 2
