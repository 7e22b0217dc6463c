"""A healing is the same again with one seed, and after a stop; the state of another run is refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from parallelize.healing import heal as healing
from parallelize.healing.heal import Healed, heal
from parallelize.refitting.records import Refitted
from passes.errors import EnvironmentLackError, ParallelizeError
from passes.graph.editing import clone
from passes.plan import Plan
from tests.parallelize.healing.cases import FAST, FIT, HELD_OUT, PLAN, equal, healing_of
from tests.parallelize.small_models import vision


@pytest.mark.slow
def test_the_same_seed_gives_the_same_weights_and_another_others(refitted: Refitted, healed: Healed) -> None:
    assert equal(healing_of(refitted, FAST), healed)
    assert not equal(healing_of(refitted, dataclasses.replace(FAST, seed=1)), healed)


class KilledError(Exception):
    """Ends a run from inside its report."""


def _killed_at(step: str) -> Callable[[str, float | None], None]:
    def report(what: str, _share: float | None) -> None:
        if step in what:
            raise KilledError

    return report


@pytest.mark.parametrize(
    ("train", "rate"),
    [
        ("all", 3e-3),
        pytest.param("all", 1.0, marks=pytest.mark.slow),
        pytest.param("lora", 3e-3, marks=pytest.mark.slow),
    ],
)
def test_a_run_that_was_killed_ends_in_the_weights_of_one_that_was_not(
    refitted: Refitted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, train: Any, rate: float
) -> None:
    options = dataclasses.replace(FAST, train=train, learning_rate=rate)
    monkeypatch.setattr(healing, "KEEP_EVERY", 0.0)
    file = tmp_path / "out.resume"
    for step in ("step 20 of", "step 40 of"):
        with pytest.raises(KilledError):
            healing_of(refitted, options, state_file=file, report=_killed_at(step))
    said: list[str] = []
    resumed = healing_of(refitted, options, state_file=file, report=lambda what, _share: said.append(what))
    assert "step 30 of 60" in said[0]
    whole = healing_of(refitted, options)
    assert equal(resumed, whole)
    assert resumed.history == whole.history


@pytest.mark.slow
def test_a_run_that_has_ended_is_not_run_again(refitted: Refitted, healed: Healed, tmp_path: Path) -> None:
    file = tmp_path / "out.resume"
    healing_of(refitted, FAST, state_file=file)
    said: list[str] = []
    assert equal(healing_of(refitted, FAST, state_file=file, report=lambda what, _share: said.append(what)), healed)
    assert said == []


@pytest.mark.parametrize("change", ["options", "plan", "data", "loss"])
def test_the_state_of_another_run_is_refused(refitted: Refitted, tmp_path: Path, change: str) -> None:
    options, file = dataclasses.replace(FAST, steps=1), tmp_path / "out.resume"
    healing_of(refitted, options, state_file=file)
    other = dataclasses.replace(options, learning_rate=1e-5) if change == "options" else options
    plan = Plan(PLAN.stacks, seed=3) if change == "plan" else PLAN
    fit = FIT.head(100) if change == "data" else FIT
    with pytest.raises(ParallelizeError, match=r"out\.resume is the state of a healing with another"):
        heal(refitted, vision(2).module, plan, fit, HELD_OUT, other, logits=change != "loss", state_file=file)


def test_the_state_of_a_healing_is_of_one_graph_too(refitted: Refitted, tmp_path: Path) -> None:
    """Equal weights are not enough."""
    options = dataclasses.replace(FAST, steps=1)
    file = tmp_path / "out.resume"
    healing_of(refitted, options, state_file=file)
    other = clone(vision(2).module)
    gelu = next(node for node in other.graph.nodes if node.target == torch.ops.aten.gelu.default)
    gelu.target, gelu.kwargs = torch.ops.aten.tanh.default, {}
    with pytest.raises(ParallelizeError, match="is the state of a healing with another"):
        heal(refitted, other, PLAN, FIT, HELD_OUT, options, state_file=file)


def test_a_damaged_state_is_refused(refitted: Refitted, tmp_path: Path) -> None:
    (tmp_path / "out.resume").write_bytes(b"no state")
    with pytest.raises(ParallelizeError, match="damaged") as caught:
        healing_of(refitted, FAST, state_file=tmp_path / "out.resume")
    assert "Delete" in caught.value.hint


def test_the_state_loads_without_running_code(refitted: Refitted, tmp_path: Path) -> None:
    healing_of(refitted, dataclasses.replace(FAST, steps=1), state_file=tmp_path / "out.resume")
    assert torch.load(tmp_path / "out.resume", weights_only=True)["step"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["out.resume"]


def test_a_place_that_cannot_be_written_to_is_said(refitted: Refitted, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentLackError, match="cannot be written"):
        healing_of(refitted, dataclasses.replace(FAST, steps=1), state_file=tmp_path / "file" / "out.resume")


def test_progress_tells_step_loss_and_the_best_error(refitted: Refitted) -> None:
    said: list[tuple[str, float | None]] = []
    result = healing_of(refitted, dataclasses.replace(FAST, steps=20), report=lambda *what: said.append(what))
    assert [share for _, share in said] == sorted(share for _, share in said if share is not None)
    assert said[0][0].startswith("healing: step 0 of 20, held-out error")
    last = f"step 20 of 20, loss {result.history[-1].loss:.4f}, held-out error {result.after:.4f} at best"
    assert last in said[-1][0]
    assert said[-1][1] == 1.0
