"""What the stages of a conversion found becomes a result without graphs and samples."""

from __future__ import annotations

from dataclasses import replace

import pytest

from parallelize.backends.choice import Choice
from parallelize.backends.tensorrt.rtx import RTX_BACKEND
from parallelize.baselines.networks import Variants
from parallelize.conversion.engines import Built
from parallelize.conversion.evidence import RELOADED, Evidence
from parallelize.conversion.measured import Measured
from parallelize.conversion.pace import Pace, Timed
from parallelize.conversion.result import Result
from parallelize.conversion.scheduling import Schedule
from parallelize.export.precision import PrecisionRecord
from parallelize.healing.heal import Healed
from parallelize.healing.options import HealOptions
from parallelize.machine.latency import Latency
from parallelize.measuring.written import Comparison
from parallelize.metrics import Budget, Judge
from parallelize.models.acceptance import RANDOM_WARNING
from parallelize.models.network import Network
from parallelize.planning.search import Candidate, Search
from parallelize.predicting.asked_for import AskedFor
from parallelize.refitting.records import Refitted
from tests.parallelize.baselines.all_networks import build_variants
from tests.parallelize.conversion.jobs import random_job
from tests.parallelize.predicting.targets import KNOWN
from tests.parallelize.small_models import pairs


@pytest.fixture(scope="module")
def evidence() -> Evidence[Network]:
    job = random_job()
    program, data = job.prepared.program, job.prepared.data
    variants = build_variants(program, pairs("none", 2), data.fit, data.held_out, None)
    judge = Judge(program.module, data.judge, job.metric)
    measured = Measured(
        {network.name: judge.score(network.module) for network in variants.items},
        {network.name: Latency(1.0, 2.0, 3.0, 4) for network in variants.items},
        {network.name: Comparison(1e-6, 1e-3, 13) for network in variants.items},
        {network.name: float(len(network.name)) for network in variants.items},
    )
    built = Built("onnxruntime", "it was asked for", PrecisionRecord("fp32"), 1e-6)
    return Evidence(job, Schedule(variants.plan), variants, measured, built)


def test_everything_that_was_found_is_told_and_read_back(evidence: Evidence[Network]) -> None:
    found = evidence.result()
    assert Result.from_json(found.to_json()) == found
    assert (found.model, found.plan, found.refit_allowed) == ("small", pairs("none", 2), "none")
    assert (found.data.random, found.data.batch) == (True, 1)
    assert found.data.fit + found.data.held_out + found.data.judge == 64
    assert [(stack.terms, stack.blocks, stack.layers, stack.behind) for stack in found.stacks] == [(4, 2, 2, ())]
    assert found.names == ("serial", "rewrite, as is", "deletion, as is")
    assert [network.depth_blocks for network in found.networks] == [2, 1, 1]
    assert {"apply-plan", "fuse-width"} <= {record.name for record in found.passes}


def test_what_a_target_would_take_is_told_of_every_network(evidence: Evidence[Network]) -> None:
    assert evidence.result().predicted is None
    found = replace(evidence, job=replace(evidence.job, asked_for=AskedFor(KNOWN, "fp32"))).result()
    assert found.predicted is not None
    assert (found.predicted.gpu, found.predicted.precision) == ("NVIDIA Known", "fp32")
    assert list(found.predicted.milliseconds) == list(found.names)
    assert found.predicted.milliseconds == evidence.measured.predicted
    assert Result.from_json(found.to_json()) == found


def test_random_numbers_come_with_a_warning(evidence: Evidence[Network]) -> None:
    assert evidence.result().warnings[0] == RANDOM_WARNING
    job = replace(evidence.job, prepared=replace(evidence.job.prepared, random=False, notes=("a note",)))
    assert replace(evidence, job=job).result().warnings == ("a note",)
    measured = replace(evidence.measured, reloaded=True)
    assert replace(evidence, job=job, measured=measured).result().warnings == ("a note", RELOADED)


def test_each_network_has_every_metric_that_its_outputs_allow_with_intervals(evidence: Evidence[Network]) -> None:
    for network in evidence.result().networks:
        assert set(network.errors) == set(network.error_intervals) == {"kl", "relative-l2", "cosine", "disagreement"}
        assert network.values == network.value_intervals == {}
        assert all(low <= network.errors[name] <= high for name, (low, high) in network.error_intervals.items())


def test_what_a_search_measured_and_left_out_is_told_with_its_budget(evidence: Evidence[Network]) -> None:
    network = evidence.variants["rewrite, as is"]
    scores = evidence.measured.scores[network.name]
    candidate = Candidate(network, 0.5, scores, Refitted(network.module, (), ()))
    search = Search(candidate, (candidate,), (("stack 0", "shapes differ"),))
    schedule = Schedule(evidence.schedule.plan, search, budget=Budget(0.02))
    found = replace(evidence, schedule=schedule).result()
    assert [(step.depth_blocks, step.predicted) for step in found.search] == [(1, 0.5)]
    assert found.unfused_stacks == {"stack 0": "shapes differ"}
    assert found.metric.max_error == "0.02"


def test_a_healing_is_told_where_there_was_one(evidence: Evidence[Network]) -> None:
    assert evidence.result().healing is None
    network = evidence.variants["rewrite, as is"]
    healed = Healed(network.module, 0.5, 0.25, 30, 40, 1.0, 900, 1e-3, "cpu", "finished", ())
    job = replace(evidence.job, options=replace(evidence.job.options, heal=HealOptions(steps=40)))
    variants: Variants[Network] = replace(evidence.variants, healed=healed)
    told = replace(evidence, job=job, variants=variants).result().healing
    assert told is not None
    assert (told.options.steps, told.before, told.after, told.ending) == (40, 0.5, 0.25, "finished")


def test_what_was_written_is_timed_for_a_goal_where_networks_run(evidence: Evidence[Network]) -> None:
    pace = Pace("onnxruntime", False, 2.0, None, (Timed(1, 4.0, 1.0),))
    aimed = replace(evidence, schedule=replace(evidence.schedule, pace=pace))
    assert evidence.result().pace is None
    assert aimed.result().pace == replace(pace, product=Timed(1, 1.0, 1.0))
    built = replace(aimed, job=replace(evidence.job, choice=Choice(RTX_BACKEND, "")))
    assert built.result().pace == pace
    times = {"serial": Latency(3.0, 4.0, 5.0, 9), "rewrite": Latency(1.5, 2.0, 3.0, 9)}
    run = replace(built, built=replace(built.built, latencies=times))
    assert run.result().pace == replace(pace, product=Timed(1, 3.0, 1.5))
    foreseen = replace(aimed, job=replace(evidence.job, asked_for=AskedFor(KNOWN, "bf16"))).result()
    assert foreseen.pace is not None
    assert foreseen.pace.product is not None
    assert foreseen.predicted is not None
    assert foreseen.pace.product.serial_ms == foreseen.predicted.milliseconds["serial"]
