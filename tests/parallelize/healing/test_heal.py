"""Healing: nearer to the teacher on samples it never saw, the same again after a stop, or not at all."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from parallelize.data import Samples
from parallelize.healing import heal as healing
from parallelize.healing import pace
from parallelize.healing.heal import Healed, Healing, channels, heal
from parallelize.healing.options import HealOptions
from parallelize.healing.pace import one_cycle
from parallelize.machine.device import choose_device
from parallelize.metrics import predict, score
from parallelize.models.capture import capture
from parallelize.models.placement import on_device
from parallelize.models.program import Program
from parallelize.refitting.records import Refitted
from parallelize.refitting.refit import refit
from passes.errors import EnvironmentLackError, ParallelizeError
from passes.fusion.fuse_width import FuseWidth
from passes.graph.editing import clone
from passes.graph.outputs import flat_outputs
from passes.plan import Plan
from passes.runner import run_passes
from passes.schedule.apply_plan import ApplyPlan
from passes.stacks.find import find_stacks
from tests.parallelize.small_models import Residual, images, mlp, pairs, stack_plan, vision

FIT, HELD_OUT, JUDGE = (images(count, seed) for seed, count in enumerate((128, 48, 64)))
PLAN = pairs("affine")
FAST = HealOptions(steps=60, batch_size=16, evaluate_every=10, learning_rate=3e-3)


@pytest.fixture(scope="module")
def refitted() -> Refitted:
    return refit(vision().module, PLAN, FIT, HELD_OUT)


@pytest.fixture(scope="module")
def healed(refitted: Refitted) -> Healed:
    return _heal(refitted, FAST)


def _heal(refitted: Refitted, options: HealOptions, **more: Any) -> Healed:
    return heal(refitted, vision().module, PLAN, FIT, HELD_OUT, options, **more)


def _tensors(result: Healed) -> list[Tensor]:
    return [tensor.detach() for tensor in result.module.state_dict().values()]


def _equal(first: Healed, second: Healed) -> bool:
    return all(torch.equal(a, b) for a, b in zip(_tensors(first), _tensors(second), strict=True))


def _errors(result: Healed, refitted: Refitted, metric: str) -> tuple[float, float]:
    """Before and after, on samples that neither fit nor chose."""
    teacher = predict(vision().module, JUDGE)
    scores = [score(predict(module, JUDGE), teacher) for module in (refitted.module, result.module)]
    first, second = (getattr(s, metric) for s in scores)
    return first, second


# ----------------------------------------------------------------------------------------------- what it is good for


def test_the_healed_network_is_nearer_to_the_teacher_on_samples_it_never_saw(
    healed: Healed, refitted: Refitted
) -> None:
    before, after = _errors(healed, refitted, "kl")
    assert after < 0.9 * before
    assert healed.helped
    assert healed.after < healed.before


@pytest.mark.parametrize("train", ["outer", "lora"])
def test_so_it_is_with_a_part_of_the_weights(refitted: Refitted, healed: Healed, train: Any) -> None:
    part = _heal(refitted, dataclasses.replace(FAST, train=train, rank=4))
    before, after = _errors(part, refitted, "kl")
    assert after < before
    assert part.trained < healed.trained


def test_without_logits_the_relative_error_falls(refitted: Refitted) -> None:
    result = _heal(refitted, FAST, logits=False)
    before, after = _errors(result, refitted, "relative_l2")
    assert after < 0.9 * before
    teacher = predict(vision().module, HELD_OUT)
    assert result.before == pytest.approx(score(predict(refitted.module, HELD_OUT), teacher).relative_l2, rel=1e-4)


def test_a_rewrite_without_a_refit_is_healed_too() -> None:
    plan = pairs("none")
    as_is = refit(vision().module, plan, FIT, HELD_OUT)
    result = heal(as_is, vision().module, plan, FIT, HELD_OUT, FAST)
    assert result.after < 0.8 * result.before


def test_what_is_told_of_the_best_weights_is_true_of_them(healed: Healed) -> None:
    teacher = predict(vision().module, HELD_OUT)
    error = score(predict(healed.module, HELD_OUT), teacher).kl
    assert healed.after == pytest.approx(error, rel=1e-3)
    best = min(healed.history, key=lambda evaluation: evaluation.error)
    assert (best.error, best.step) == (healed.after, healed.best_step)
    assert [evaluation.step for evaluation in healed.history] == list(range(10, 61, 10))


def test_fusing_the_healed_network_is_exact(healed: Healed) -> None:
    probe = next(iter(JUDGE.batches(8)))
    fused, (record,) = run_passes(healed.module, [FuseWidth()], probe)
    assert len(record.matches) == 4
    assert record.error is not None
    assert record.error < 1e-5
    assert score(predict(fused, JUDGE), predict(healed.module, JUDGE)).relative_l2 < 1e-5


def test_teacher_and_refitted_graph_stay_as_they_were(refitted: Refitted) -> None:
    modules = (vision().module, refitted.module)
    before = [{name: tensor.clone() for name, tensor in module.state_dict().items()} for module in modules]
    _heal(refitted, dataclasses.replace(FAST, steps=3))
    for module, tensors in zip(modules, before, strict=True):
        assert module.state_dict().keys() == tensors.keys()
        assert all(torch.equal(tensor, tensors[name]) for name, tensor in module.state_dict().items())
        assert all(parameter.grad is None for parameter in module.parameters())


# ------------------------------------------------------------------------------------------------------ when it ends


def test_where_nothing_beats_the_start_the_start_is_kept(refitted: Refitted) -> None:
    result = _heal(refitted, dataclasses.replace(FAST, learning_rate=1e3, steps=20))
    assert (result.best_step, result.helped, result.after) == (0, False, result.before)
    assert result.module is refitted.module


def test_a_rate_that_is_too_high_is_cut_until_the_healing_helps(refitted: Refitted) -> None:
    result = _heal(refitted, dataclasses.replace(FAST, learning_rate=1.0, steps=150))
    assert result.learning_rate < 0.1
    assert result.after < 0.9 * result.before


def test_a_run_without_progress_ends_early(refitted: Refitted) -> None:
    result = _heal(refitted, dataclasses.replace(FAST, learning_rate=1.0, evaluate_every=2, patience=3))
    assert (result.ending, result.steps, len(result.history)) == ("no progress", 6, 3)


def test_epochs_are_whole_batches_and_the_last_step_is_evaluated(refitted: Refitted) -> None:
    result = _heal(refitted, HealOptions(epochs=3, batch_size=50, evaluate_every=4))
    assert result.steps == 3 * 2
    assert [evaluation.step for evaluation in result.history] == [4, 6]
    assert result.ending == "finished"


def test_fewer_samples_than_a_batch_are_one_batch(refitted: Refitted) -> None:
    assert _heal(refitted, HealOptions(epochs=2, batch_size=1000)).steps == 2


def test_the_time_limit_ends_the_run_and_the_cycle_with_it(refitted: Refitted, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = itertools.count()
    rates = []
    monkeypatch.setattr(healing.time, "monotonic", lambda: float(next(ticks)))
    monkeypatch.setattr(pace, "one_cycle", lambda share: rates.append(share) or one_cycle(share))
    result = _heal(refitted, HealOptions(time_limit=40.0, batch_size=16, evaluate_every=10))
    assert result.ending == "time limit"
    assert 20 <= result.steps < 60
    assert rates == sorted(rates)
    assert 0.9 < rates[-1] < 1.0


def test_of_steps_and_time_the_larger_share_counts(refitted: Refitted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(healing.time, "monotonic", lambda: 0.0)
    assert _heal(refitted, dataclasses.replace(FAST, steps=4, time_limit=1e-3)).ending == "finished"


def test_a_gradient_that_is_not_finite_ends_the_run_with_the_best_weights(
    refitted: Refitted, monkeypatch: pytest.MonkeyPatch
) -> None:
    advance = Healing._advance

    def diverging(self: Healing, inputs: tuple[Tensor, ...]) -> float:
        return math.inf if self.progress.step == 25 else advance(self, inputs)

    monkeypatch.setattr(Healing, "_advance", diverging)
    result = _heal(refitted, FAST)
    assert (result.ending, result.steps) == ("diverged", 25)
    assert result.best_step <= 25
    assert result.after == min(result.before, *(evaluation.error for evaluation in result.history))


def test_a_step_whose_loss_is_not_finite_changes_no_weight() -> None:
    bad = Samples({"images": torch.full_like(FIT.arrays["images"], torch.nan)})
    start = refit(vision().module, PLAN, FIT, HELD_OUT)
    result = heal(start, vision().module, PLAN, bad, HELD_OUT, FAST)
    assert (result.ending, result.steps, result.best_step) == ("diverged", 0, 0)


def test_the_cycle_rises_to_the_peak_and_falls_to_almost_nothing() -> None:
    rates = [one_cycle(share / 100) for share in range(101)]
    assert max(rates) == rates[10] == pytest.approx(1.0)
    assert rates[:11] == sorted(rates[:11])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[0] == pytest.approx(1e-3)
    assert one_cycle(2.0) == rates[100] == pytest.approx(1e-3)


# ------------------------------------------------------------------------------------------- the same again, and on


def test_the_same_seed_gives_the_same_weights_and_another_others(refitted: Refitted, healed: Healed) -> None:
    assert _equal(_heal(refitted, FAST), healed)
    assert not _equal(_heal(refitted, dataclasses.replace(FAST, seed=1)), healed)


class KilledError(Exception):
    """Ends a run from inside its report."""


def _killed_at(step: str) -> Callable[[str, float | None], None]:
    def report(what: str, _share: float | None) -> None:
        if step in what:
            raise KilledError

    return report


@pytest.mark.parametrize(("train", "rate"), [("all", 3e-3), ("all", 1.0), ("lora", 3e-3)])
def test_a_run_that_was_killed_ends_in_the_weights_of_one_that_was_not(
    refitted: Refitted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, train: Any, rate: float
) -> None:
    options = dataclasses.replace(FAST, train=train, learning_rate=rate)
    monkeypatch.setattr(healing, "KEEP_EVERY", 0.0)
    file = tmp_path / "out.resume"
    for step in ("step 20 of", "step 40 of"):
        with pytest.raises(KilledError):
            _heal(refitted, options, state_file=file, report=_killed_at(step))
    said: list[str] = []
    resumed = _heal(refitted, options, state_file=file, report=lambda what, _share: said.append(what))
    assert "step 30 of 60" in said[0]
    whole = _heal(refitted, options)
    assert _equal(resumed, whole)
    assert resumed.history == whole.history


def test_a_run_that_has_ended_is_not_run_again(refitted: Refitted, healed: Healed, tmp_path: Path) -> None:
    _heal(refitted, FAST, state_file=tmp_path / "out.resume")
    said: list[str] = []
    again = _heal(refitted, FAST, state_file=tmp_path / "out.resume", report=lambda what, _share: said.append(what))
    assert _equal(again, healed)
    assert said == []


@pytest.mark.parametrize("change", ["options", "plan", "data", "loss"])
def test_the_state_of_another_run_is_refused(refitted: Refitted, tmp_path: Path, change: str) -> None:
    options, file = dataclasses.replace(FAST, steps=1), tmp_path / "out.resume"
    _heal(refitted, options, state_file=file)
    other = dataclasses.replace(options, learning_rate=1e-5) if change == "options" else options
    plan = Plan(PLAN.stacks, seed=3) if change == "plan" else PLAN
    fit = FIT.head(100) if change == "data" else FIT
    with pytest.raises(ParallelizeError, match=r"out\.resume is the state of a healing with another"):
        heal(refitted, vision().module, plan, fit, HELD_OUT, other, logits=change != "loss", state_file=file)


def test_the_state_of_a_healing_is_of_one_graph_too(refitted: Refitted, tmp_path: Path) -> None:
    """Equal weights are not enough."""
    options = dataclasses.replace(FAST, steps=1)
    file = tmp_path / "out.resume"
    _heal(refitted, options, state_file=file)
    other = clone(vision().module)
    gelu = next(node for node in other.graph.nodes if node.target == torch.ops.aten.gelu.default)
    gelu.target, gelu.kwargs = torch.ops.aten.tanh.default, {}
    with pytest.raises(ParallelizeError, match="is the state of a healing with another"):
        heal(refitted, other, PLAN, FIT, HELD_OUT, options, state_file=file)


def test_a_damaged_state_is_refused(refitted: Refitted, tmp_path: Path) -> None:
    (tmp_path / "out.resume").write_bytes(b"no state")
    with pytest.raises(ParallelizeError, match="damaged") as caught:
        _heal(refitted, FAST, state_file=tmp_path / "out.resume")
    assert "Delete" in caught.value.hint


def test_the_state_loads_without_running_code(refitted: Refitted, tmp_path: Path) -> None:
    _heal(refitted, dataclasses.replace(FAST, steps=1), state_file=tmp_path / "out.resume")
    assert torch.load(tmp_path / "out.resume", weights_only=True)["step"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["out.resume"]


def test_a_place_that_cannot_be_written_to_is_said(refitted: Refitted, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentLackError, match="cannot be written"):
        _heal(refitted, dataclasses.replace(FAST, steps=1), state_file=tmp_path / "file" / "out.resume")


def test_progress_tells_step_loss_and_the_best_error(refitted: Refitted) -> None:
    said: list[tuple[str, float | None]] = []
    result = _heal(refitted, dataclasses.replace(FAST, steps=20), report=lambda *what: said.append(what))
    assert [share for _, share in said] == sorted(share for _, share in said if share is not None)
    assert said[0][0].startswith("healing: step 0 of 20, held-out error")
    last = f"step 20 of 20, loss {result.history[-1].loss:.4f}, held-out error {result.after:.4f} at best"
    assert last in said[-1][0]
    assert said[-1][1] == 1.0


# ---------------------------------------------------------------------------------------------------- other networks


class Tokens(nn.Module):
    """(batch, tokens, width) and a mask -> logits of every token."""

    def __init__(self) -> None:
        super().__init__()
        self.terms = nn.ModuleList(mlp(8, 16) for _ in range(4))
        self.head = nn.Linear(8, 12)

    def forward(self, x: Tensor, attention_mask: Tensor) -> Tensor:
        for term in self.terms:
            x = x + term(x)
        y: Tensor = self.head(x * attention_mask.unsqueeze(-1))
        return y


@pytest.fixture(scope="module")
def tokens() -> Program:
    torch.manual_seed(0)
    return capture(Tokens().eval(), (torch.zeros(2, 5, 8), torch.ones(2, 5)), origin="tokens")


def _token_samples(count: int, seed: int, padding: float) -> Samples:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 5, 8, generator=generator)
    mask = (torch.arange(5) < torch.randint(1, 6, (count, 1), generator=generator)).float()
    return Samples(
        {"x": torch.where(mask[..., None].bool(), x, padding), "attention_mask": mask}, mask="attention_mask"
    )


def test_padding_takes_no_part_in_healing(tokens: Program) -> None:
    plan = stack_plan(4, [[[0], [1], [2], [3]]], "none")
    rewritten = refit(tokens.module, plan, _token_samples(60, 0, 0.0), _token_samples(20, 1, 0.0))
    first, second = (
        heal(rewritten, tokens.module, plan, _token_samples(60, 0, value), _token_samples(20, 1, value), FAST)
        for value in (0.0, 9.0)
    )
    assert first.after < 0.5 * first.before
    assert second.after == pytest.approx(first.after, rel=1e-3)


def test_outputs_that_are_no_logits_are_refused_by_kl(refitted: Refitted) -> None:
    program = capture(_TwoOutputs().eval(), (torch.zeros(2, 8),), origin="two")
    plan = stack_plan(4, [[[0], [1], [2], [3]]], "none")
    samples = Samples({"x": torch.randn(40, 8, generator=torch.Generator().manual_seed(0))})
    rewritten = refit(program.module, plan, samples, samples)
    with pytest.raises(ParallelizeError, match="one output of logits"):
        heal(rewritten, program.module, plan, samples, samples, FAST)
    result = heal(rewritten, program.module, plan, samples, samples, FAST, logits=False)
    assert result.after < result.before


class _TwoOutputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.terms = nn.ModuleList(mlp(8, 16) for _ in range(4))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        for term in self.terms:
            x = x + term(x)
        return x, x.sum(1)


def test_healing_needs_samples(refitted: Refitted) -> None:
    for fit, held_out in ((FIT.head(0), HELD_OUT), (FIT, HELD_OUT.head(0))):
        with pytest.raises(ParallelizeError, match="needs samples"):
            heal(refitted, vision().module, PLAN, fit, held_out, FAST)


# ----------------------------------------------------------------------------------------------- options and devices


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 1, "epochs": 1}, "Only one of steps and epochs"),
        ({"steps": 0}, "steps is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"patience": -1}, "patience is -1"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"learning_rate": math.inf}, "learning_rate is inf"),
        ({"time_limit": math.nan}, "time_limit is nan"),
        ({"hidden_weight": -1.0}, "hidden_weight is -1.0"),
        ({"train": "some"}, "cannot train 'some'"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ParallelizeError, match=message):
        HealOptions(**options)


def test_the_learning_rate_is_smaller_for_wider_states_unless_it_is_given() -> None:
    assert [HealOptions().rate(width) for width in (16, 64, 128)] == [1e-3, 1e-3, 5e-4]
    assert HealOptions(learning_rate=0.1).rate(128) == 0.1


def test_the_width_of_a_state_is_its_channels(refitted: Refitted) -> None:
    assert heal(refitted, vision().module, PLAN, FIT, HELD_OUT, HealOptions(steps=1)).learning_rate == 1e-3
    residual = Residual([nn.Conv2d(96, 96, 1) for _ in range(2)])
    program = capture(nn.Sequential(nn.Conv2d(3, 96, 1), residual).eval(), (torch.ones(2, 3, 8, 8),))
    assert [channels(stack) for stack in find_stacks(program.module).stacks] == [96]
    residual = Residual([nn.Linear(96, 96) for _ in range(2)])
    program = capture(residual.eval(), (torch.ones(2, 8, 8, 96),), origin="channels last")
    assert [channels(stack) for stack in find_stacks(program.module).stacks] == [96]


def test_without_a_limit_it_is_a_thousand_steps_and_with_a_time_limit_any() -> None:
    assert HealOptions().total_steps(10) == 1000
    assert HealOptions(time_limit=1.0).total_steps(10) is None
    assert HealOptions(epochs=2, batch_size=3).total_steps(10) == 6


def test_devices_that_do_not_exist_are_refused() -> None:
    with pytest.raises(ParallelizeError, match="'toaster' names no device"):
        choose_device("toaster")
    with pytest.raises(ParallelizeError, match="'meta' is neither the CPU nor a CUDA GPU"):
        choose_device("meta")
    with pytest.raises(EnvironmentLackError, match="no GPU cuda:99"):
        choose_device("cuda:99")
    assert choose_device("cpu") == torch.device("cpu")


def test_a_graph_moves_with_the_tensors_that_it_makes() -> None:
    class Ramp(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.ones(3))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.gain + torch.arange(x.shape[1], device=x.device)

    module = capture(Ramp().eval(), (torch.zeros(2, 3),), origin="ramp").module
    (moved,) = pytree_tensors(on_device(module, torch.device("meta"))(torch.zeros(4, 3, device="meta")))
    assert (moved.device.type, moved.shape) == ("meta", (4, 3))
    assert flat_outputs(module, (torch.zeros(4, 3),))[0].device.type == "cpu"


def pytree_tensors(value: object) -> list[Tensor]:
    return [leaf for leaf in torch.utils._pytree.tree_leaves(value) if isinstance(leaf, Tensor)]


def test_a_rewrite_that_no_refit_made_has_no_states_and_is_healed_by_outputs_alone() -> None:
    as_is, _ = run_passes(vision().module, [ApplyPlan(pairs("none"))])
    result = heal(Refitted(as_is, ()), vision().module, pairs("none"), FIT, HELD_OUT, FAST)
    assert result.after < result.before
