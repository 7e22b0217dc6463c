"""Search, refit, baselines and healing on the shipped vision transformer: a small version of what is measured on it."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import fx

from parallelize.baselines import baselines
from parallelize.data import load_samples
from parallelize.data.split import Split, split
from parallelize.healing.heal import heal
from parallelize.healing.options import HealOptions
from parallelize.metrics import Judge
from parallelize.models.clean import clean
from parallelize.models.program import Program
from parallelize.models.sources import LoadOptions, load_program
from parallelize.planning.options import PlannerOptions
from parallelize.planning.planner import Planner
from parallelize.planning.search import Candidate
from parallelize.refitting.refit import refit

MODEL = Path(__file__).resolve().parents[2] / "examples" / "fashion_vit"
DEPTH = 10


@pytest.fixture(scope="module")
def shipped() -> tuple[Program, Split]:
    """The captured model, and some of the images that come with it."""
    program = load_program(str(MODEL / "vit12.pt"), LoadOptions())
    samples = load_samples(MODEL / "calibration.npz", program.inputs)
    cleaned, _ = clean(program, next(iter(samples.batches(2))))
    test = load_samples(MODEL / "test.npz", program.inputs, "labels")
    return cleaned, split(samples.head(60), test.head(100), 0)


@pytest.fixture(scope="module")
def judge(shipped: tuple[Program, Split]) -> Judge:
    return Judge(shipped[0].module, shipped[1].judge, "kl")


@pytest.fixture(scope="module")
def found(shipped: tuple[Program, Split]) -> Candidate:
    program, data = shipped
    options = PlannerOptions(longest_group=2)
    return Planner(program, data.fit, data.held_out, "kl", options).measure(DEPTH)


def _kl(judge: Judge, module: fx.GraphModule) -> float:
    return judge.score(module).error("kl")


@pytest.mark.slow
def test_what_the_search_finds_is_as_deep_as_asked_and_nearer_with_its_refit(
    shipped: tuple[Program, Split], judge: Judge, found: Candidate
) -> None:
    assert found.depth_blocks == DEPTH
    assert sum(part.depth for part in found.plan.stacks) == 2 * DEPTH
    as_is = refit(shipped[0].module, found.plan.with_refit("none"), shipped[1].fit, shipped[1].held_out)
    assert _kl(judge, found.refitted.module) < _kl(judge, as_is.module)
    scores = judge.score(found.refitted.module)
    assert scores.top1 is not None
    assert scores.top1_teacher is not None
    assert scores.top1 > scores.top1_teacher - 0.05


@pytest.mark.slow
def test_it_is_nearer_than_every_baseline_with_the_same_refit(
    shipped: tuple[Program, Split], judge: Judge, found: Candidate
) -> None:
    program, data = shipped
    rivals = baselines(program, found.plan, data.fit, data.held_out, "kl", "full")
    ours = _kl(judge, found.refitted.module)
    theirs = {f"{rival.name}, {rival.strength}": _kl(judge, rival.module) for rival in rivals}
    assert {name for name, error in theirs.items() if error < ours} == set()


@pytest.mark.slow
def test_a_healing_brings_it_nearer_on_images_that_it_never_saw(
    shipped: tuple[Program, Split], judge: Judge, found: Candidate
) -> None:
    program, data = shipped
    options = HealOptions(steps=20, batch_size=24, evaluate_every=10)
    healed = heal(found.refitted, program.module, found.plan, data.fit, data.held_out, options)
    assert healed.after <= healed.before
    assert _kl(judge, healed.module) <= 1.05 * _kl(judge, found.refitted.module)
