"""What was measured survives a stop, and is used for the same search only."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from parallelize.data import Samples
from parallelize.data.fingerprint import run_identity
from parallelize.metrics import Metric
from parallelize.metrics.own import find_metric, own_metric
from parallelize.planning.forms import GroupForm
from parallelize.planning.memory import FORMAT, Memory, open_memory
from parallelize.planning.options import PlannerOptions
from parallelize.planning.planner import Planner
from passes.errors import EnvironmentLackError, ParallelizeError
from passes.plan import Plan
from tests.parallelize.planning.cases import VECTORS, mlps, partitions, quick
from tests.parallelize.small_models import Residual, capture_vectors, mlp, vectors

# ------------------------------------------------------------------------------------------------ searches


def test_a_second_search_measures_no_group_again(tmp_path: Path, calls: list[str]) -> None:
    path = tmp_path / "memory.json"
    first = quick(memory=path)
    plans = _proposals(first)
    assert len(calls) == len(first.costs.known) > 6
    calls.clear()
    second = quick(memory=path)
    assert _proposals(second) == plans
    assert partitions(second) == partitions(first)
    assert calls == []


def _proposals(planner: Planner) -> list[Plan]:
    return [planner.proposal(depth) for depth in (1, 2, 3)]


@pytest.mark.parametrize("what", ["groups, 2 so far", "forms of groups, round 1"])
def test_a_search_that_was_stopped_goes_on_where_it_was(
    what: str, tmp_path: Path, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("parallelize.planning.memory.SECONDS", -1.0)
    path = tmp_path / "memory.json"

    def stop(stage: str, number: int, total: int) -> None:
        if stage == f"measuring {what}":
            raise KeyboardInterrupt

    stopped = quick(memory=path)
    stopped.progress = stop
    with pytest.raises(KeyboardInterrupt):
        stopped.proposal(2)
    assert len(calls) > 1
    again = quick(memory=path)
    again.proposal(2)
    assert len(calls) == len(set(calls)) == len(again.costs.known)
    monkeypatch.undo()
    free = quick()
    free.proposal(2)
    assert again.costs.known == free.costs.known


def test_a_search_whose_time_is_over_still_uses_what_is_known(tmp_path: Path, calls: list[str]) -> None:
    path = tmp_path / "memory.json"
    whole = quick(memory=path)
    plans = _proposals(whole)
    calls.clear()
    late = quick(memory=path, time_limit=0)
    assert _proposals(late) == plans
    assert partitions(late) == partitions(whole)
    assert calls == []


def test_a_search_whose_time_is_over_uses_a_known_form_that_comes_after_an_unknown_one(calls: list[str]) -> None:
    whole, late = quick(), quick(time_limit=0)
    partitions(whole)
    calls.clear()
    late.costs.known.update(whole.costs.known, **{"0 0-3 deletion of all but 3": 0.0})
    (part,) = late.proposal(1).stacks
    assert part.deleted == (0, 1, 2)
    assert partitions(late)[1][0] == 0.0
    assert calls == []


def test_what_was_measured_just_before_the_time_was_over_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "memory.json"
    planner = quick(memory=path, time_limit=1e9)

    def measure(number: int, form: GroupForm) -> float:
        if form.name.startswith("deletion"):
            planner.deadline.end = 0.0
        return 1.0

    planner.costs._measure = measure  # type: ignore[method-assign]
    planner.proposal(1)
    assert "0 0-3 deletion of all but 0" in planner.costs.known
    assert json.loads(path.read_text())["groups"] == planner.costs.known


def test_an_infinite_cost_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "memory.json"
    Memory({"0 0-1 sublayer": inf}, path, "id").keep(now=True)
    assert open_memory(path, "id").groups == {"0 0-1 sublayer": inf}


def test_without_a_file_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    partitions(quick())
    assert list(tmp_path.iterdir()) == []


def test_writes_are_some_seconds_apart_but_for_the_last(tmp_path: Path) -> None:
    path = tmp_path / "memory.json"
    memory = Memory({}, path, "id")
    memory.keep(now=True)
    memory.groups["a"] = 1.0
    memory.keep()
    assert open_memory(path, "id").groups == {}
    memory.keep(now=True)
    assert open_memory(path, "id").groups == {"a": 1.0}


# ------------------------------------------------------------------------------------------------ another search


def _other_weights() -> Planner:
    torch.manual_seed(1)
    program = capture_vectors(Residual([mlp(6, 12) for _ in range(4)], nn.Linear(6, 5)), 6)
    return Planner(program, *VECTORS, "kl", PlannerOptions(refit="affine"))


def _same_weights_other_graph() -> Planner:
    torch.manual_seed(0)
    network = Residual([mlp(6, 12) for _ in range(4)], nn.Linear(6, 5))
    for term in network.terms:
        term[2] = nn.Tanh()
    return Planner(capture_vectors(network, 6), *VECTORS, "kl", PlannerOptions(refit="affine"))


def _on(fit: Samples, held_out: Samples) -> Planner:
    return Planner(mlps(), fit, held_out, "kl", PlannerOptions(refit="affine"))


OTHERS = {
    "weights": _other_weights,
    "graph": _same_weights_other_graph,
    "fit": lambda: _on(vectors(100, 6, 5), VECTORS[1]),
    "held out": lambda: _on(VECTORS[0], vectors(50, 6, 5)),
    "fewer samples": lambda: _on(VECTORS[0], VECTORS[1].head(49)),
    "labels": lambda: _on(VECTORS[0], replace(VECTORS[1], labels=torch.zeros(50, dtype=torch.int64))),
    "metric": lambda: quick("relative-l2"),
    "refit": lambda: quick(refit="full"),
    "seed": lambda: quick(seed=1),
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_a_search_with_another_model_data_or_option_is_another_search(other: object, tmp_path: Path) -> None:
    assert callable(other)
    path = tmp_path / "memory.json"
    planner: Planner = other()
    Memory({}, path, _identity(planner)).keep(now=True)
    with pytest.raises(ParallelizeError, match="another model, other data or options") as caught:
        quick(memory=path)
    assert "delete the file" in caught.value.hint


def _identity(planner: Planner) -> str:
    planner.options = replace(planner.options, memory=Path("anywhere"))
    return planner._identity()


def test_the_same_search_has_the_same_identity_after_another_capture(tmp_path: Path) -> None:
    torch.manual_seed(0)
    again = capture_vectors(Residual([mlp(6, 12) for _ in range(4)], nn.Linear(6, 5)), 6).module
    assert run_identity(again, VECTORS, "x") == run_identity(mlps().module, VECTORS, "x")


def test_options_that_change_no_cost_leave_it_the_same_search(tmp_path: Path, calls: list[str]) -> None:
    path = tmp_path / "memory.json"
    partitions(quick(memory=path, longest_group=2))
    before = list(calls)
    partitions(quick(memory=path, time_limit=1e9))
    assert set(before) < set(calls)
    assert len(calls) == len(set(calls))


# ------------------------------------------------------------------------------------------------ files


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "3",
        "{}",
        json.dumps({"format": FORMAT, "identity": "id"}),
        json.dumps({"format": FORMAT, "groups": {}}),
        json.dumps({"format": FORMAT, "identity": "id", "groups": []}),
        json.dumps({"format": FORMAT, "identity": "id", "groups": {"a": None}}),
        json.dumps({"format": FORMAT, "identity": "id", "groups": {"a": "much"}}),
        "\udcff",
    ],
)
def test_a_damaged_file_is_refused_and_left_alone(content: str, tmp_path: Path) -> None:
    path = tmp_path / "memory.json"
    path.write_bytes(content.encode(errors="surrogateescape"))
    before = path.read_bytes()
    with pytest.raises(ParallelizeError, match="is no record of a search") as caught:
        open_memory(path, "id")
    assert caught.value.hint == "Delete the file to start anew."
    assert path.read_bytes() == before


def test_a_directory_is_no_record_of_a_search(tmp_path: Path) -> None:
    with pytest.raises(ParallelizeError, match="is no record of a search"):
        open_memory(tmp_path, "id")


def test_another_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "memory.json"
    path.write_text(json.dumps({"format": "parallelize-search/0", "identity": "id", "groups": {}}))
    with pytest.raises(ParallelizeError, match="another model"):
        open_memory(path, "id")


@pytest.mark.parametrize("method", ["write_text", "replace"])
def test_a_write_that_fails_leaves_the_old_file_whole_and_no_scratch(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "memory.json"
    memory = Memory({"a": 1.0}, path, "id")
    memory.keep(now=True)
    before = path.read_text()
    memory.groups["b"] = 2.0
    monkeypatch.setattr(Path, method, _no_room(getattr(Path, method), half=method == "write_text"))
    with pytest.raises(EnvironmentLackError, match=r"cannot be kept in .*memory\.json: No space left") as caught:
        memory.keep(now=True)
    assert caught.value.exit_code == 3
    assert path.read_text() == before
    assert list(tmp_path.iterdir()) == [path]


def _no_room(method: Any, *, half: bool) -> Any:
    def fail(self: Path, content: Any) -> None:
        if half:
            method(self, content[: len(content) // 2])
        raise OSError(28, "No space left on device")

    return fail


@pytest.mark.parametrize("place", ["absent/memory.json", "file/memory.json"])
def test_a_place_that_cannot_be_written_is_refused_at_the_first_group(
    place: str, tmp_path: Path, calls: list[str]
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentLackError, match="The search cannot be kept in"):
        partitions(quick(memory=tmp_path / place))
    assert calls == []


def test_an_own_metric_is_part_of_the_options_by_its_name(tmp_path: Path) -> None:
    def scores(metric: str) -> Metric:
        return own_metric(metric, lambda ours, teacher, batch: -(ours[0] - teacher[0]).square().mean(1))

    path = tmp_path / "memory.json"
    partitions(quick(scores("one"), memory=path))
    quick(scores("one"), memory=path)
    with pytest.raises(ParallelizeError, match="another model, other data or options"):
        quick(scores("two"), memory=path)


_SCORES = """
def scores(outputs, teacher, batch):
    return -(outputs[0] - teacher[0]).{name}().mean(1)
"""


def test_an_own_metric_whose_file_was_changed_is_another_metric(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, code = tmp_path / "memory.json", tmp_path / "own_scores.py"
    for name, is_known in (("square", False), ("square", True), ("abs", False)):
        code.write_text(_SCORES.format(name=name))
        monkeypatch.delitem(sys.modules, "own_scores", raising=False)
        planner = quick(find_metric(f"{code}:scores"), resume=path)
        assert bool(planner.memory.groups) == is_known
        planner.partition(3)
