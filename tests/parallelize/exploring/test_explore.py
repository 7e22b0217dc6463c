"""The frontier of a model: every point is measured, written whole or not at all, and ready to convert."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from parallelize.data import load_samples
from parallelize.data.split import split
from parallelize.exploring.explore import explore, table
from parallelize.exploring.options import PlanOptions
from parallelize.metrics import Judge
from parallelize.models.source import Source
from parallelize.planning.options import PlannerOptions
from parallelize.refitting.refit import refit
from passes.errors import ParallelizeError
from passes.plan import Plan
from passes.schedule.apply_plan import check_fits
from passes.stacks.find import find_stacks
from tests.parallelize.small_models import images, vision

PLANNER = PlannerOptions(refit="affine")
OPTIONS = PlanOptions(planner=PLANNER, rounds=1, heatmap=True, target="h200")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "fit.npz"
    np.savez(path, images=images(80, 1).arrays["images"].numpy())
    return path


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("out") / "frontier"


@pytest.fixture(scope="module")
def content(data: Path, output: Path) -> dict[str, Any]:
    return explore(Source(vision(2), data), output, OPTIONS)


def test_every_depth_has_a_rewrite_and_a_deletion_beside_the_serial_network(content: dict[str, Any]) -> None:
    kinds = [(point["kind"], point["depth_blocks"]) for point in content["points"]]
    expected = [("serial", 2), ("rewrite", 1), ("deletion", 1)]
    assert kinds == expected
    assert all(point["latency_ms"] > 0 for point in content["points"])
    assert content["points"][0]["error"] == 0.0


def test_the_error_of_a_point_is_that_of_its_plan_on_held_out_samples(
    content: dict[str, Any], output: Path, data: Path
) -> None:
    parts = split(load_samples(data, vision(2).inputs), None, 0)
    judge = Judge(vision(2).module, parts.held_out, "kl")
    point = content["points"][1]
    plan = Plan.from_json((output / point["plan_file"]).read_text())
    assert json.loads(plan.to_json()) == point["plan"]
    scores = judge.score(refit(vision(2).module, plan, parts.fit, parts.held_out).module)
    assert point["error"] == pytest.approx(scores.error("kl"), rel=1e-3)
    assert point["error_interval"][0] <= point["error"] <= point["error_interval"][1]


def test_no_point_of_the_frontier_is_beaten_and_every_other_one_is(content: dict[str, Any]) -> None:
    keys = ("error", "parameters", "latency_ms")
    values = [tuple(point[key] for key in keys) for point in content["points"]]
    for point, ours in zip(content["points"], values, strict=True):
        beaten = any(theirs != ours and all(a <= b for a, b in zip(theirs, ours, strict=True)) for theirs in values)
        assert point["on_frontier"] == (not beaten)


def test_the_directory_holds_the_frontier_its_picture_and_the_heat_map(content: dict[str, Any], output: Path) -> None:
    assert sorted(path.name for path in output.iterdir()) == ["frontier.json", "frontier.svg", "heatmap.svg", "plans"]
    assert json.loads((output / "frontier.json").read_text()) == json.loads(json.dumps(content))
    assert "<svg" in (output / "frontier.svg").read_text()
    assert len(list((output / "plans").iterdir())) == len(content["points"])


def test_the_table_has_a_row_for_each_point_and_fits_the_terminal(content: dict[str, Any]) -> None:
    stream = io.StringIO()
    Console(width=100, file=stream).print(table(content))
    lines = stream.getvalue().splitlines()
    assert max(map(len, lines)) <= 100
    assert [line.split()[0] for line in lines if line.strip().startswith("plans/")] == [
        point["plan_file"] for point in content["points"]
    ]


def test_latency_on_a_target_stands_beside_the_measured_one_and_says_what_it_is(content: dict[str, Any]) -> None:
    predicted = [point["predicted_ms"] for point in content["points"]]
    assert predicted[0] > max(predicted[1:]) > 0
    assert content["target"]["gpu"] == "NVIDIA H200"
    stream = io.StringIO()
    Console(width=100, file=stream).print(table(content))
    text = " ".join(stream.getvalue().split())
    assert "Predicted, not measured: NVIDIA H200 in bf16 at batch 1" in text
    assert f"{predicted[1]:.3f} {predicted[0] / predicted[1]:.2f}x" in text


def test_what_is_predicted_is_drawn_as_such(content: dict[str, Any], output: Path) -> None:
    assert "ms, batch 1, predicted for NVIDIA H200" in (output / "frontier.svg").read_text()


def test_a_target_that_is_not_there_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    with pytest.raises(ParallelizeError, match="There is no target 'h300'"):
        explore(Source("no such model", "no such data"), tmp_path / "out", PlanOptions(target="h300"))
    assert list(tmp_path.iterdir()) == []


def test_every_plan_of_the_frontier_fits_the_model(output: Path, content: dict[str, Any]) -> None:
    stacks = find_stacks(vision(2).module).stacks
    for point in content["points"]:
        check_fits(stacks, Plan.from_json((output / point["plan_file"]).read_text()))


def test_only_a_directory_of_an_earlier_search_is_replaced(data: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("keep")
    with pytest.raises(ParallelizeError, match=r"was not made by a search for plans: it has no frontier\.json"):
        explore(Source(vision(2), data), tmp_path / "mine", OPTIONS, force=True)
    assert (tmp_path / "mine" / "letter.txt").read_text() == "keep"


@pytest.mark.slow
def test_a_search_needs_data_and_depths_that_there_are(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ParallelizeError, match="A plan is chosen on data"):
        explore(Source(vision(2)), tmp_path / "out", OPTIONS)
    with pytest.raises(ParallelizeError, match="No rewrite is 7 blocks deep") as caught:
        explore(Source(vision(2), data), tmp_path / "out", PlanOptions(planner=PLANNER, depths=(1, 7)))
    assert caught.value.hint == "Depths are 1."
    assert list(tmp_path.iterdir()) == []


def test_without_latency_nothing_is_timed(data: Path, tmp_path: Path) -> None:
    found = explore(Source(vision(2), data), tmp_path / "out", PlanOptions(planner=PLANNER, depths=(1,), latency=False))
    assert [point["latency_ms"] for point in found["points"]] == [None] * 3
    assert [point["predicted_ms"] for point in found["points"]] == [None] * 3
    assert found["target"] is None
    assert not (tmp_path / "out" / "heatmap.svg").exists()
    stream = io.StringIO()
    Console(width=100, file=stream).print(table(found))
    assert "speed" not in stream.getvalue()
    assert "redicted" not in stream.getvalue()
