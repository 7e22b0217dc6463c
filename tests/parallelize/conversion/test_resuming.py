"""A conversion that was stopped goes on with its search where it was, and leaves nothing beside its output."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import parallelize.conversion.making
from parallelize.conversion.convert import convert
from parallelize.conversion.options import ConvertOptions
from parallelize.exploring.explore import explore
from parallelize.exploring.options import PlanOptions
from parallelize.models.source import Source
from parallelize.planning.memory import FORMAT
from parallelize.planning.options import PlannerOptions
from parallelize.planning.planner import Planner
from parallelize.terminal.progress import Told
from tests.parallelize.conversion.conversions import SeenError, three_mlps

OPTIONS = ConvertOptions(depth=2, refit="affine", rounds=1)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "x.npz"
    np.savez(path, x=np.random.default_rng(0).standard_normal((60, 6)).astype("f4"))
    return path


@pytest.fixture(autouse=True)
def _kept_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is measured is written each time."""
    monkeypatch.setattr("parallelize.planning.memory.SECONDS", -1.0)


def _stop(stage: str, error: type[BaseException]) -> object:
    def report(what: str, _share: float | None) -> None:
        if what == stage:
            raise error

    return report


def test_a_conversion_measures_each_group_once_however_often_it_is_stopped(
    data: Path, tmp_path: Path, calls: list[str]
) -> None:
    output = tmp_path / "out"
    for stage in ("measuring forms of groups, round 1", "judging"):
        before = len(calls)
        with pytest.raises(KeyboardInterrupt):
            convert(three_mlps(), output, inputs=data, options=OPTIONS, report=_stop(stage, KeyboardInterrupt))  # type: ignore[arg-type]
        assert len(calls) > before
        assert [path.name for path in tmp_path.iterdir()] == ["out.search.resume"]
    assert len(calls) == len(set(calls)) > 3
    calls.clear()
    whole = convert(three_mlps(), output, inputs=data, options=OPTIONS)
    assert calls == []
    assert whole.report.search
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_file_of_another_search_is_told_and_begun_anew(
    data: Path, tmp_path: Path, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise SeenError

    monkeypatch.setattr(parallelize.conversion.making, "each_network", stop)
    path, told = tmp_path / "out.search.resume", list[str]()
    path.write_text(json.dumps({"format": FORMAT, "identity": "other", "groups": {"0 0-1 sublayer": 1.0}}))
    with pytest.raises(SeenError):
        convert(
            three_mlps(), tmp_path / "out", inputs=data, options=OPTIONS, report=lambda what, _share: told.append(what)
        )
    (line,) = (what for what in told if isinstance(what, Told))
    assert line.startswith(f"{path} is the record of a search with another model, other data or options.")
    assert set(json.loads(path.read_text())["groups"]) == set(calls)


def test_a_plan_goes_on_from_what_was_measured_for_the_same_output(
    data: Path, tmp_path: Path, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = PlanOptions(depths=(2,), planner=PlannerOptions(refit="affine"), rounds=1, latency=False)
    source, measure = Source(three_mlps(), data), Planner.measure

    def stop(self: Planner, depth: int) -> None:
        self.proposal(depth)
        raise KeyboardInterrupt

    monkeypatch.setattr(Planner, "measure", stop)
    with pytest.raises(KeyboardInterrupt):
        explore(source, tmp_path / "out", options)
    assert [path.name for path in tmp_path.iterdir()] == ["out.search.resume"]
    assert calls
    calls.clear()
    monkeypatch.setattr(Planner, "measure", measure)
    explore(source, tmp_path / "out", options)
    assert calls == []
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
