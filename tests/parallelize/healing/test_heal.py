"""Healing: nearer to the teacher on samples it never saw, or not at all; and when it ends."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from parallelize.data import Samples
from parallelize.healing import heal as healing
from parallelize.healing import pace
from parallelize.healing.heal import Healed, Healing, heal
from parallelize.healing.options import HealOptions
from parallelize.healing.pace import one_cycle
from parallelize.metrics import predict, score
from parallelize.refitting.records import Refitted
from parallelize.refitting.refit import refit
from passes.fusion.fuse_width import FuseWidth
from passes.runner import run_passes
from passes.schedule.apply_plan import ApplyPlan
from tests.parallelize.healing.cases import FAST, FIT, HELD_OUT, JUDGE, PLAN, healing_of
from tests.parallelize.small_models import pairs, vision


def _errors(result: Healed, refitted: Refitted, metric: str) -> tuple[float, float]:
    """Before and after, on samples that neither fit nor chose."""
    teacher = predict(vision(2).module, JUDGE)
    scores = [score(predict(module, JUDGE), teacher) for module in (refitted.module, result.module)]
    first, second = (getattr(s, metric) for s in scores)
    return first, second


def test_the_healed_network_is_nearer_to_the_teacher_on_samples_it_never_saw(
    healed: Healed, refitted: Refitted
) -> None:
    before, after = _errors(healed, refitted, "kl")
    assert after < 0.9 * before
    assert healed.helped
    assert healed.after < healed.before


@pytest.mark.parametrize("train", ["outer", "lora"])
def test_so_it_is_with_a_part_of_the_weights(refitted: Refitted, healed: Healed, train: Any) -> None:
    part = healing_of(refitted, dataclasses.replace(FAST, train=train, rank=4))
    before, after = _errors(part, refitted, "kl")
    assert after < before
    assert part.trained < healed.trained


def test_without_logits_the_relative_error_falls(refitted: Refitted) -> None:
    result = healing_of(refitted, FAST, logits=False)
    before, after = _errors(result, refitted, "relative_l2")
    assert after < 0.9 * before
    teacher = predict(vision(2).module, HELD_OUT)
    assert result.before == pytest.approx(score(predict(refitted.module, HELD_OUT), teacher).relative_l2, rel=1e-4)


@pytest.mark.slow
def test_a_rewrite_without_a_refit_is_healed_too() -> None:
    plan = pairs("none", 2)
    as_is = refit(vision(2).module, plan, FIT, HELD_OUT)
    result = heal(as_is, vision(2).module, plan, FIT, HELD_OUT, FAST)
    assert result.after < 0.8 * result.before


def test_what_is_told_of_the_best_weights_is_true_of_them(healed: Healed) -> None:
    teacher = predict(vision(2).module, HELD_OUT)
    error = score(predict(healed.module, HELD_OUT), teacher).kl
    assert healed.after == pytest.approx(error, rel=1e-3)
    best = min(healed.history, key=lambda evaluation: evaluation.error)
    assert (best.error, best.step) == (healed.after, healed.best_step)
    assert [evaluation.step for evaluation in healed.history] == list(range(10, 61, 10))


def test_fusing_the_healed_network_is_exact(healed: Healed) -> None:
    probe = next(iter(JUDGE.batches(8)))
    fused, (record,) = run_passes(healed.module, [FuseWidth()], probe)
    assert len(record.matches) == 2
    assert record.error is not None
    assert record.error < 1e-5
    assert score(predict(fused, JUDGE), predict(healed.module, JUDGE)).relative_l2 < 1e-5


def test_teacher_and_refitted_graph_stay_as_they_were(refitted: Refitted) -> None:
    modules = (vision(2).module, refitted.module)
    before = [{name: tensor.clone() for name, tensor in module.state_dict().items()} for module in modules]
    healing_of(refitted, dataclasses.replace(FAST, steps=3))
    for module, tensors in zip(modules, before, strict=True):
        assert module.state_dict().keys() == tensors.keys()
        assert all(torch.equal(tensor, tensors[name]) for name, tensor in module.state_dict().items())
        assert all(parameter.grad is None for parameter in module.parameters())


def test_where_nothing_beats_the_start_the_start_is_kept(refitted: Refitted) -> None:
    result = healing_of(refitted, dataclasses.replace(FAST, learning_rate=1e3, steps=20))
    assert (result.best_step, result.helped, result.after) == (0, False, result.before)
    assert result.module is refitted.module


@pytest.mark.slow
def test_a_rate_that_is_too_high_is_cut_until_the_healing_helps(refitted: Refitted) -> None:
    result = healing_of(refitted, dataclasses.replace(FAST, learning_rate=1.0, steps=150))
    assert result.learning_rate < 0.1
    assert result.after < 0.9 * result.before


def test_a_run_without_progress_ends_early(refitted: Refitted) -> None:
    result = healing_of(refitted, dataclasses.replace(FAST, learning_rate=1.0, evaluate_every=2, patience=3))
    assert (result.ending, result.steps, len(result.history)) == ("no progress", 6, 3)


def test_epochs_are_whole_batches_and_the_last_step_is_evaluated(refitted: Refitted) -> None:
    result = healing_of(refitted, HealOptions(epochs=3, batch_size=50, evaluate_every=4))
    assert result.steps == 3 * 2
    assert [evaluation.step for evaluation in result.history] == [4, 6]
    assert result.ending == "finished"


def test_fewer_samples_than_a_batch_are_one_batch(refitted: Refitted) -> None:
    assert healing_of(refitted, HealOptions(epochs=2, batch_size=1000)).steps == 2


def test_the_time_limit_ends_the_run_and_the_cycle_with_it(refitted: Refitted, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = itertools.count()
    rates = []
    monkeypatch.setattr(healing.time, "monotonic", lambda: float(next(ticks)))
    monkeypatch.setattr(pace, "one_cycle", lambda share: rates.append(share) or one_cycle(share))
    result = healing_of(refitted, HealOptions(time_limit=40.0, batch_size=16, evaluate_every=10))
    assert result.ending == "time limit"
    assert 20 <= result.steps < 60
    assert rates == sorted(rates)
    assert 0.9 < rates[-1] < 1.0


def test_of_steps_and_time_the_larger_share_counts(refitted: Refitted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(healing.time, "monotonic", lambda: 0.0)
    assert healing_of(refitted, dataclasses.replace(FAST, steps=4, time_limit=1e-3)).ending == "finished"


def test_a_gradient_that_is_not_finite_ends_the_run_with_the_best_weights(
    refitted: Refitted, monkeypatch: pytest.MonkeyPatch
) -> None:
    advance = Healing._advance

    def diverging(self: Healing, inputs: tuple[Tensor, ...]) -> float:
        return math.inf if self.progress.step == 25 else advance(self, inputs)

    monkeypatch.setattr(Healing, "_advance", diverging)
    result = healing_of(refitted, FAST)
    assert (result.ending, result.steps) == ("diverged", 25)
    assert result.best_step <= 25
    assert result.after == min(result.before, *(evaluation.error for evaluation in result.history))


def test_a_step_whose_loss_is_not_finite_changes_no_weight() -> None:
    bad = Samples({"images": torch.full_like(FIT.arrays["images"], torch.nan)})
    start = refit(vision(2).module, PLAN, FIT, HELD_OUT)
    result = heal(start, vision(2).module, PLAN, bad, HELD_OUT, FAST)
    assert (result.ending, result.steps, result.best_step) == ("diverged", 0, 0)


def test_a_rewrite_that_no_refit_made_has_no_states_and_is_healed_by_outputs_alone() -> None:
    as_is, _ = run_passes(vision(2).module, [ApplyPlan(pairs("none", 2))])
    result = heal(Refitted(as_is, ()), vision(2).module, pairs("none", 2), FIT, HELD_OUT, FAST)
    assert result.after < result.before
