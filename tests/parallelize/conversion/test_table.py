"""The table has the columns that the numbers have, each cell as its column writes it."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from parallelize.conversion.result import DataUsed, MetricUsed, Result
from parallelize.conversion.table import table
from parallelize.machine.latency import Latency
from parallelize.metrics.scores import PlainScores
from tests.parallelize.conversion.small_result import network, result


def printed(made: Result) -> list[str]:
    stream = io.StringIO()
    Console(width=100, file=stream).print(table(made))
    return stream.getvalue().splitlines()


def row(made: Result, name: str) -> list[str]:
    line = next(line for line in printed(made) if line.startswith(f" {name} "))
    return line.removeprefix(f" {name}").split()


def test_a_row_tells_depth_error_with_its_interval_and_latency_against_serial() -> None:
    assert row(result(), "rewrite, as is") == [
        *("2", "12.3k", "12", "0.2500", "0.1250..0.5000", "75.0%", "0.5", "1.00", "2.00x")
    ]


def test_accuracy_comes_first_and_takes_the_place_of_agreement() -> None:
    labelled = {"values": {"top1-drop": 0.9}, "value_intervals": {"top1-drop": (0.85, 0.95)}}
    made = result(networks=(network("serial", 0.5, blocks=4, **labelled),))
    assert row(made, "serial")[3:7] == ["90.00%", "85.0..95.0%", "0.5000", "0.2500..1.0000"]
    assert not any("agree" in line for line in printed(made))


def test_a_score_of_ones_own_stands_in_the_table_with_its_interval() -> None:
    own = {"values": {"mine.py:f": 12.25}, "value_intervals": {"mine.py:f": (11.5, 13.0)}}
    made = result(networks=(network("serial", **own),), metric=MetricUsed("mine.py:f", "", None))
    assert "own" in printed(made)[2]
    assert row(made, "serial")[3:5] == ["12.25", "11.5..13"]


def test_random_samples_have_no_intervals_and_judge_nothing() -> None:
    made = result(data=DataUsed(random=True, fit=60, held_out=20, judge=20, batch=1))
    assert str(table(made).title) == "small: scheduled by structure, run on random inputs, which judge nothing"
    assert row(made, "rewrite, as is")[3:5] == ["0.2500", "75.0%"]
    unscheduled = result(data=made.data, unscheduled="it is parallel")
    assert "nothing scheduled" in str(table(unscheduled).title)


@pytest.mark.parametrize(("count", "title"), [(1, "1 sample judges"), (20, "20 samples judge")])
def test_the_title_counts_the_samples(count: int, title: str) -> None:
    assert title in str(table(result(data=DataUsed(False, 60, 20, count, 1))).title)


def test_a_number_that_is_too_wide_for_its_column_is_written_with_four_digits() -> None:
    made = result(
        networks=(network("serial", 123456.0, parameters=1_500_000, onnxruntime_ms=Latency(0.004, 0.2, 1, 9)),)
    )
    assert row(made, "serial")[1:4] == ["1.5M", "12", "1.235e+05"]
    assert row(made, "serial")[-3:] == ["0.004", "0.2", "1.00x"]


def test_hidden_states_have_no_agreement() -> None:
    scores = PlainScores(20, relative_l2=0.5)
    error = {"errors": {"relative-l2": 0.5}, "error_intervals": {"relative-l2": (0.25, 1.0)}}
    made = result(networks=(network("serial", scores=scores, **error),), metric=MetricUsed("relative-l2", "", None))
    assert not any("agree" in line for line in printed(made))


def test_unfused_networks_are_explained_where_there_are_any() -> None:
    assert not any("unfused:" in line for line in printed(result()))
    assert any(
        "unfused:" in line for line in printed(result(networks=(network("serial"), network("rewrite, unfused"))))
    )
