"""Batches that do not fit are halved, and what was begun with them begins again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, fx

from parallelize.baselines.deletion import deletion_plan
from parallelize.data import Samples
from parallelize.data.room import Room
from parallelize.exploring import sensitivity
from parallelize.healing.heal import heal
from parallelize.healing.options import HealOptions
from parallelize.metrics import Judge
from parallelize.models.finiteness import refuse_not_finite
from parallelize.planning.planner import Planner
from parallelize.refitting.refit import refit
from passes.errors import EnvironmentLackError
from tests.parallelize.small_models import images, pairs, vision

FITS = 6


def _samples(count: int, seed: int, room: Room) -> Samples:
    return Samples({"x": images(count, seed).arrays["images"]}, room=room)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which a graph runs on FITS samples at a time and not on more."""
    call = fx.GraphModule.__call__
    run = fx.Interpreter.run

    def called(module: fx.GraphModule, *args: Any) -> Any:
        _refuse(args)
        return call(module, *args)

    def interpreted(interpreter: fx.Interpreter, *args: Any, **options: Any) -> Any:
        _refuse(args)
        return run(interpreter, *args, **options)

    monkeypatch.setattr(fx.GraphModule, "__call__", called)
    monkeypatch.setattr(fx.Interpreter, "run", interpreted)


def _refuse(inputs: Sequence[Any]) -> None:
    first = inputs[0]
    if type(first) is Tensor and first.ndim == 4 and len(first) > FITS:
        raise torch.OutOfMemoryError("CUDA out of memory.")


def test_a_run_that_does_not_fit_begins_again_with_half_of_the_samples_and_parts_of_the_data_remember() -> None:
    said: list[str] = []
    samples = Samples({"x": torch.zeros(40, 2)}, room=Room(said.append))
    tried: list[int] = []

    def run() -> int:
        for (batch,) in samples.batches(32):
            tried.append(len(batch))
            if len(batch) > 10:
                raise torch.OutOfMemoryError
        return len(batch)

    assert samples.room.fitting(run) == 8
    assert tried == [32, 16, 8, 8, 8, 8, 8]
    assert samples.head(20).size(100) == 8
    assert said == [
        "32 samples at a time do not fit into the GPU: going on with 16",
        "16 samples at a time do not fit into the GPU: going on with 8",
    ]


def test_one_sample_that_does_not_fit_is_told_with_what_to_do() -> None:
    samples = Samples({"x": torch.zeros(4, 2)})

    def run() -> None:
        samples.size(4)
        raise torch.OutOfMemoryError

    with pytest.raises(EnvironmentLackError, match="smallest batch does not fit") as caught:
        samples.room.fitting(run)
    assert "--device cpu" in caught.value.hint


def _answers(fit: Samples) -> list[Tensor]:
    """What the model answers, as the pass that refuses NaN leaves it."""
    found = refuse_not_finite(vision(2), fit).answered(vision(2).module)
    assert found is not None
    return found


STAGES: dict[str, Callable[[Samples, Samples], object]] = {
    "refusal of NaN": lambda fit, _: [len(each) for each in _answers(fit)],
    "judge": lambda fit, _: Judge(vision(2).module, fit, "kl").score(vision(2).module).kl,
    "refit": lambda fit, held_out: [
        (level.strength, level.ridge) for level in refit(vision(2).module, pairs("affine", 2), fit, held_out).levels
    ],
    "search": lambda fit, held_out: Planner(vision(2), fit, held_out, "kl").at_depth(1).chosen.plan,
    "deletion": lambda fit, held_out: deletion_plan(vision(2).module, pairs("affine", 2), fit, held_out, "kl"),
    "sensitivity": lambda fit, _: sensitivity.measure(vision(2).module, fit).samples,
}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.usefixtures("small")
def test_every_stage_goes_on_in_smaller_batches_and_finds_the_same(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    room = Room()
    found = STAGES[stage](_samples(40, 0, room), _samples(20, 1, room))
    assert room.most is not None
    assert room.most <= FITS
    monkeypatch.undo()
    assert found == STAGES[stage](_samples(40, 0, Room()), _samples(20, 1, Room()))


@pytest.mark.usefixtures("small")
def test_a_step_of_healing_that_does_not_fit_adds_up_gradients_of_its_parts() -> None:
    room, options = Room(), HealOptions(steps=2, batch_size=16, evaluate_every=1)
    fit, held_out = _samples(40, 0, room), _samples(20, 1, room)
    refitted = refit(vision(2).module, pairs("affine", 2), fit, held_out, 4)
    room.most = None
    healed = heal(refitted, vision(2).module, pairs("affine", 2), fit, held_out, options, device=torch.device("cpu"))
    assert (healed.steps, room.most) == (2, 4)
