"""Processes that measure together: values come in order, and nobody waits for one that is gone."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from parallelize.machine import joined_ranks, pulse
from parallelize.machine.joined_ranks import joined
from parallelize.machine.launch import launched
from parallelize.machine.ranks import Ranks
from passes.errors import CheckError, ParallelizeError
from tests.parallelize.rank_processes import ranks

GONE = "Rank {} of {} is gone without a word, so the others have ended too."


def _say(what: object) -> None:
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


@contextlib.contextmanager
def _together() -> Iterator[Ranks]:
    """The ranks; an error is printed and ends the process, as on the command line."""
    joined_ranks.FIRST_WORD = 1.0
    launch = launched()
    assert launch is not None
    try:
        with joined(launch) as those:
            yield those
    except ParallelizeError as error:
        _say(f"error: {error} hint: {error.hint}")
        sys.exit(error.exit_code)


def _measuring(measure: Callable[[int, int], int], count: int = 6) -> None:
    """Let all ranks measure; an item is measured with the rank that does so."""
    with _together() as those:
        measured = those.spread("numbers", lambda item: measure(those.rank, item))
        if those.rank:
            those.serve()
        else:
            _say(list(measured(range(count))))
            those.dismiss()
            _say(f"{list(measured(range(2)))} {those.rank}")


def _ten_times(rank: int, item: int) -> int:
    time.sleep(0.02)
    _say(f"measured {item}")
    return 10 * item


def test_every_item_is_measured_once_by_some_rank_and_the_first_by_rank_0(tmp_path: Path) -> None:
    first, *others = ranks(3, tmp_path, _measuring, _ten_times)
    assert [end.code for end in (first, *others)] == [0, 0, 0]
    said = [line for line in first.said.splitlines() if not line.startswith("measured")]
    assert said == ["[0, 10, 20, 30, 40, 50]", "[0, 10] 0"]
    assert first.said.startswith("measured 0\n")
    shared = first.said.partition("[0, 10, 20")[0] + "".join(end.said for end in others)
    assert sorted(shared.split("\n")) == ["", *(f"measured {item}" for item in range(6))]


def _dying(rank: int, item: int, who: int) -> int:
    if rank == who:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(1.0)
    return item


def _first_dies(rank: int, item: int) -> int:
    return _dying(rank, item, 0)


def _second_dies(rank: int, item: int) -> int:
    return _dying(rank, item, 1)


def test_when_a_rank_is_killed_all_others_end_and_rank_0_says_so(tmp_path: Path) -> None:
    ends = ranks(3, tmp_path, _measuring, _second_dies)
    assert [end.code for end in ends] == [3, -9, 3]
    assert ends[0].said.startswith(f"error: {GONE.format(1, 3)} hint: Look whether it was killed")
    assert ends[2].said == ""


def test_when_rank_0_is_killed_rank_1_says_so(tmp_path: Path) -> None:
    ends = ranks(3, tmp_path, _measuring, _first_dies)
    assert [end.code for end in ends] == [-9, 3, 3]
    assert f"error: {GONE.format(0, 3)}" in ends[1].said
    assert "error:" not in ends[2].said


def _end_all_as_a_launcher_does(processes: list[BaseProcess]) -> None:
    """Send SIGTERM to the others as soon as one has ended."""
    processes[1].join()
    processes[0].terminate()


def test_the_signal_of_a_launcher_does_not_hide_why_it_was_sent(tmp_path: Path) -> None:
    ends = ranks(2, tmp_path, _measuring, _second_dies, then=_end_all_as_a_launcher_does)
    assert [end.code for end in ends] == [3, -9]
    assert ends[0].said.count("error:") == 1
    assert GONE.format(1, 2) in ends[0].said


def _stopping(rank: int, item: int) -> int:
    if rank == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(0.2)
    return item


def _impatient(measure: Callable[[int, int], int]) -> None:
    pulse.LIMIT, joined_ranks.UNWIND = 2.0, 1.0
    _measuring(measure)


def _kill_once_the_first_has_ended(processes: list[BaseProcess]) -> None:
    processes[0].join()
    processes[1].kill()


def test_a_rank_that_sends_no_sign_of_life_counts_as_gone(tmp_path: Path) -> None:
    ends = ranks(2, tmp_path, _impatient, _stopping, then=_kill_once_the_first_has_ended)
    assert ends[0].code == 3
    assert GONE.format(1, 2) in ends[0].said


def _deaf(rank: int, item: int) -> int:
    """Rank 0 is where no signal is heard, in C code."""
    if rank == 1:
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGKILL)
    remaining = 60
    while remaining:
        remaining = ctypes.CDLL(None).sleep(remaining)
    return item


def test_a_rank_that_hears_nothing_is_ended_all_the_same(tmp_path: Path) -> None:
    ends = ranks(2, tmp_path, _impatient, _deaf)
    assert [end.code for end in ends] == [3, -9]
    assert GONE.format(1, 2) in ends[0].said


def _second_fails(rank: int, item: int) -> int:
    if rank == 1:
        raise CheckError("It differs.", "Look.")
    time.sleep(1.0)
    return item


def _second_has_a_bug(rank: int, item: int) -> int:
    if rank == 1:
        raise ValueError("oops")
    time.sleep(1.0)
    return item


@pytest.mark.parametrize(
    ("measure", "code", "said"),
    [
        (_second_fails, 1, "error: Rank 1 of 3 failed: It differs. hint: Look."),
        (_second_has_a_bug, 4, "error: Rank 1 of 3 failed: ValueError: oops hint: This is a bug"),
    ],
)
def test_what_another_rank_raises_ends_all_with_its_exit_code(
    measure: Callable[[int, int], int], code: int, said: str, tmp_path: Path
) -> None:
    ends = ranks(3, tmp_path, _measuring, measure)
    assert ends[0].code == ends[2].code == code
    assert ends[0].said.startswith(said)
    assert ends[1].code != 0


def _all_find_the_same() -> None:
    with _together() as those:
        time.sleep(0.0 if those.rank else 0.5)
        raise ParallelizeError("There is no model.", "Name one.")


def test_what_all_ranks_find_wrong_rank_0_says_in_its_own_words(tmp_path: Path) -> None:
    ends = ranks(2, tmp_path, _all_find_the_same)
    assert [end.code for end in ends] == [2, 2]
    assert ends[0].said == "error: There is no model. hint: Name one.\n"


def _first_fails() -> None:
    with _together() as those:
        those.spread("numbers", abs)
        those.serve() if those.rank else _raise()


def _raise() -> None:
    raise CheckError("None is within the budget.", "Raise it.")


def test_when_rank_0_raises_the_others_end_silently_with_its_exit_code(tmp_path: Path) -> None:
    ends = ranks(3, tmp_path, _first_fails)
    assert [end.code for end in ends] == [1, 1, 1]
    assert [end.said for end in ends] == ["error: None is within the budget. hint: Raise it.\n", "", ""]


def _compared() -> None:
    with _together() as those:
        those.require_same(lambda: f"model of rank {those.rank}")
        those.serve()


def test_another_model_than_that_of_rank_0_is_refused(tmp_path: Path) -> None:
    ends = ranks(2, tmp_path, _compared)
    assert "Rank 1 has another model, other data or options than rank 0." in "".join(end.said for end in ends)


def _hurried() -> None:
    joined_ranks.JOIN = 1.0
    with _together():
        raise AssertionError


def test_ranks_that_do_not_come_are_not_waited_for_forever(tmp_path: Path) -> None:
    (end,) = ranks(2, tmp_path, _hurried, missing=1)
    assert end.code == 3
    assert "error: Rank 0 waited in vain for all 2 ranks at 127.0.0.1:" in end.said
