"""What a command keeps beside its output without being asked is gone on from, and is never in the way."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from parallelize.planning.memory import FORMAT, open_memory, remove_memory, resumed_memory
from parallelize.planning.options import PlannerOptions
from parallelize.planning.planner import Planner
from parallelize.terminal.progress import Told
from tests.parallelize.planning.cases import VECTORS, mlps, quick


def test_what_nobody_asked_to_keep_is_gone_on_from_as_well(tmp_path: Path, calls: list[str]) -> None:
    path = tmp_path / "out.search.resume"
    plans = [quick(resume=path).proposal(depth) for depth in (1, 2)]
    calls.clear()
    assert [quick(resume=path).proposal(depth) for depth in (1, 2)] == plans
    assert calls == []


def test_a_named_file_is_the_only_one(tmp_path: Path) -> None:
    quick(resume=tmp_path / "out.search.resume", memory=tmp_path / "memory.json").proposal(3)
    assert [path.name for path in tmp_path.iterdir()] == ["memory.json"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            json.dumps({"format": FORMAT, "identity": "other", "groups": {"a": 1.0}}),
            "is the record of a search",
        ),
        ("{", "is no record of a search"),
    ],
)
def test_what_another_run_left_stops_no_search_that_was_not_asked_to_keep_anything(
    content: str, said: str, tmp_path: Path, calls: list[str]
) -> None:
    path, told = tmp_path / "out.search.resume", list[str]()
    path.write_text(content)
    planner = Planner(
        mlps(), *VECTORS, "kl", PlannerOptions(refit="affine", resume=path), lambda what, *_: told.append(what)
    )
    assert path.read_text() == content  # as long as nothing is measured
    (line,) = told
    assert isinstance(line, Told)
    assert said in line
    assert line.endswith("Nothing is taken from it.")
    planner.proposal(3)
    assert open_memory(path, planner.memory.identity).groups == planner.costs.known
    assert len(calls) == len(planner.costs.known)


def test_a_directory_in_the_place_of_the_file_is_told_and_left_alone(tmp_path: Path) -> None:
    told: list[str] = []
    memory = resumed_memory(tmp_path, "id", told.append)
    memory.keep(now=True)
    remove_memory(tmp_path)
    assert len(told) == 1
    assert tmp_path.is_dir()


_KILLED = """
import os, signal, sys
from pathlib import Path
from parallelize.planning import memory
from tests.parallelize.planning.cases import quick

memory.SECONDS = -1.0

def killed(what, done, total):
    if done == 2:
        os.kill(os.getpid(), signal.SIGKILL)

planner = quick(resume=Path(sys.argv[1]))
planner.progress = killed
planner.proposal(2)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no such signal here")
def test_a_process_that_was_killed_has_left_what_it_measured(tmp_path: Path, calls: list[str]) -> None:
    path = tmp_path / "out.search.resume"
    run = subprocess.run([sys.executable, "-c", _KILLED, str(path)], cwd=Path(__file__).parents[3], check=False)
    assert run.returncode == -signal.SIGKILL
    planner = quick(resume=path)
    kept = set(planner.memory.groups)
    assert len(kept) == 2
    planner.proposal(2)
    assert kept.isdisjoint(calls)
    assert {*kept, *calls} == set(planner.costs.known)
