"""A job holds what was asked for against model and data, and refuses before the long work what cannot be."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from parallelize.conversion.goal import AtDepth, Goal, Replay, Within
from parallelize.conversion.options import ConvertOptions
from parallelize.healing.options import HealOptions
from parallelize.metrics import Budget
from parallelize.models.source import Source
from passes.errors import ParallelizeError
from passes.plan import Plan, serial
from tests.parallelize.conversion.conversions import two_blocks
from tests.parallelize.conversion.jobs import begun, random_job
from tests.parallelize.small_models import images, pairs

RANDOM = Source(two_blocks())


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Source:
    path = tmp_path_factory.mktemp("data") / "images.npz"
    np.savez(path, images=images(40, 1).arrays["images"].numpy())
    return Source(two_blocks(), path)


def refusal(source: Source, goal: Goal, options: ConvertOptions) -> str:
    with pytest.raises(ParallelizeError) as caught:
        begun(source, goal, options)
    assert caught.value.hint
    return str(caught.value)


def test_a_job_on_random_numbers_refits_nothing_and_has_the_metric_of_its_outputs() -> None:
    job = random_job()
    assert job.prepared.random
    assert (job.options.refit, job.options.rounds, job.metric.name) == ("none", 1, "kl")
    assert (job.graph.serial_terms, job.options.engine.precision) == (4, "fp32")


@pytest.mark.parametrize(
    ("goal", "options", "sentence"),
    [
        (AtDepth(1), ConvertOptions(heal=HealOptions()), "Healing needs data."),
        (Replay(pairs("full", 2)), ConvertOptions(), "The plan asks for a refit, which needs data."),
        (Within(Budget(0.1)), ConvertOptions(), "A largest error is measured on data."),
        (Replay(pairs("none", 2)), ConvertOptions(metric="perplexity"), "The metric perplexity needs one output"),
    ],
)
def test_what_random_numbers_cannot_do_is_refused(goal: Goal, options: ConvertOptions, sentence: str) -> None:
    assert refusal(RANDOM, goal, options).startswith(sentence)


@pytest.mark.parametrize(
    "options", [ConvertOptions(device="cuda:77"), ConvertOptions(heal=HealOptions(device="cuda:77"))]
)
def test_a_device_that_is_not_there_is_refused_before_the_model_is_captured(options: ConvertOptions) -> None:
    missing = Source("no such model", "no such data")
    assert refusal(missing, AtDepth(1), replace(options, rounds=1)) == "There is no GPU cuda:77."


def test_a_plan_of_another_network_is_refused() -> None:
    message = refusal(RANDOM, Replay(Plan((serial(8),))), ConvertOptions())
    assert message.startswith("The plan has 8 terms for the stack ")


def test_a_default_budget_needs_no_data_and_one_that_was_asked_for_must_have_a_meaning(data: Source) -> None:
    assert begun(RANDOM, Within(is_default=True), ConvertOptions()).options.refit == "none"
    percent = Within(Budget(0.01, percent=True))
    assert "has no meaning for kl" in refusal(data, percent, ConvertOptions())
    assert begun(data, percent, ConvertOptions(metric="disagreement")).metric.name == "disagreement"


def test_with_data_the_options_stay_and_the_seed_of_a_plan_splits_it(data: Source) -> None:
    plan = replace(pairs("full", 2), seed=5)
    job = begun(data, Replay(plan), ConvertOptions(seed=9))
    assert (job.prepared.random, job.options.refit) == (False, "full")
    same, other = (begun(data, AtDepth(1), ConvertOptions(seed=seed)) for seed in (5, 9))
    index = [made.prepared.data.judge.index.tolist() for made in (job, same, other)]
    assert index[0] == index[1] != index[2]
