"""What is said beside the table, and when."""

from __future__ import annotations

from dataclasses import replace

import pytest

from parallelize.conversion.notes import facts, notes
from parallelize.conversion.pace import Pace, Timed
from parallelize.conversion.result import FoundStack, Predicted, Result
from parallelize.conversion.table import legend
from parallelize.export.precision import KeptInFp32
from parallelize.export.precision_result import CastError, PrecisionResult
from parallelize.machine.latency import Latency
from passes.runner import PassRecord, Skip
from tests.parallelize.conversion.small_result import BACKEND, ENGINE, HEALING, network, result

KEPT = KeptInFp32(state=True)


def fusion(*matches: str, skipped: tuple[Skip, ...] = ()) -> PassRecord:
    return PassRecord("fuse-width", True, matches, skipped, 9, 8, 0.5, None)


def test_a_plain_conversion_needs_no_note() -> None:
    assert notes(result()) == []
    assert facts(result()) == ["Backend onnxruntime: it was asked for."]


def test_warnings_come_first() -> None:
    assert notes(result(warnings=("Beware.",), unfused_stacks={"layers": "why"}))[0] == "Beware."


def test_of_an_engine_its_kernels_are_counted_and_why_it_was_not_run_is_told() -> None:
    made = result(backend=replace(BACKEND, engine=ENGINE))
    assert facts(made)[0] == (
        "tensorrt-rtx 1.7, fp16: 25 kernels wait for each other, 45 in the serial engine; built in 1.5 s for 8.9;"
        " takes x 1x8 / 1x8 / 32x8."
    )
    assert notes(made) == ["The engine was not run: model.engine runs on a GPU, and there is none here."]


def test_an_engine_that_ran_leads_with_its_latency() -> None:
    times = {"serial": Latency(1.0, 1.0, 1.0, 9), "rewrite": Latency(0.5, 0.5, 0.5, 9)}
    engine = replace(ENGINE, not_run=None, latency_ms=times, errors={"engine against graph": 1e-3})
    made = result(backend=replace(BACKEND, engine=engine))
    assert facts(made)[0] == (
        "On the GPU: 0.500 ms at batch 1, serial 1.000 ms (2.00x); differs from its graph by 1.0e-03 of the largest"
        " output."
    )
    assert notes(made) == []


def test_what_is_predicted_is_told_as_such_with_how_far_off_it_may_be() -> None:
    made = result()
    times = {network.name: 0.5 for network in made.networks} | {"serial": 1.0}
    predicted = Predicted("NVIDIA Known", "bf16", 0.06, "five families", times)
    assert facts(replace(made, predicted=predicted))[1] == (
        "Predicted for NVIDIA Known in bf16, not measured: 0.500 ms at batch 1, serial 1.000 ms (2.00x); median error"
        " 6% on five families."
    )


def test_a_goal_of_latency_is_told_with_what_was_reached_when_it_was_chosen_and_in_the_end() -> None:
    pace = Pace("onnxruntime", False, 2.0, None, (Timed(2, 1.0, 0.4),), (Timed(2, 1.0, 0.45),), Timed(2, 1.2, 0.5))
    made = result(pace=pace)
    assert facts(made)[0] == (
        "Asked for a speed-up of 2 on onnxruntime: 2 blocks deep, 0.5 ms, serial 1.2 ms (2.40x); when it was chosen"
        " 0.45 ms (2.22x)."
    )
    assert notes(made) == []
    assert "Asked for: a speed-up of 2 on onnxruntime." in legend(made)
    assert Result.from_json(made.to_json()) == made
    slower = result(pace=replace(pace, product=Timed(2, 1.0, 0.51)))
    (note,) = notes(slower)
    assert note.startswith("Timed once more in the end, the network misses a speed-up of 2 on onnxruntime: timings ")
    assert notes(result(pace=replace(pace, product=None))) == [
        "What was written could not be timed on onnxruntime in the end."
    ]


def test_where_nothing_is_scheduled_the_reason_and_the_fused_sums_are_told() -> None:
    made = result(unscheduled="it is parallel", passes=(fusion("a", "b", "c", "d"),))
    assert facts(made)[1:] == ["Nothing was scheduled: it is parallel. Width fusion fused a; b; c; and 1 more."]
    none = result(unscheduled="it is parallel")
    assert facts(none)[1:] == [
        "Nothing was scheduled: it is parallel. Width fusion found no branches of equal structure."
    ]


def test_a_block_of_several_layers_is_explained() -> None:
    made = result(stacks=(FoundStack("layers", 8, 4, 8, "8 mlp", ()),))
    assert facts(made)[1:] == [
        "Depth counts blocks, and a block of layers is 2 layers: 4 blocks of it are 8 layers.",
    ]


def test_branches_that_stay_side_by_side_are_counted() -> None:
    skip = Skip("n", "n has another shape")
    one, two = (notes(result(passes=(fusion(skipped=(skip,) * count),))) for count in (1, 2))
    assert one == ["1 branch stays side by side, not fused, which gains nothing on a GPU: n has another shape."]
    assert two[0].startswith("2 branches stay")


@pytest.mark.parametrize(
    ("best", "ending", "note"),
    [
        (0, "no progress", "Healing did not help on held-out samples in 40 steps and was left out (no progress)."),
        (10, "diverged", "Healing diverged after step 40; the weights are those of step 10."),
        (30, "finished", None),
    ],
)
def test_a_healing_that_did_not_help_is_told(best: int, ending: str, note: str | None) -> None:
    healing = replace(HEALING, best_step=best, ending=ending)  # type: ignore[arg-type]
    assert notes(result(healing=healing)) == ([] if note is None else [note])


def test_only_a_plan_that_asks_for_a_refit_is_said_to_have_had_one_that_did_not_help() -> None:
    asking = result(plan=result().plan.with_refit("full"))
    assert notes(asking) == ["The refit did not help on held-out samples and was left out."]
    refitted = result(plan=asking.plan, networks=(*asking.networks, network("rewrite, refitted", 0.1)))
    assert notes(refitted) == []


def test_a_deletion_that_measures_better_than_the_product_is_told() -> None:
    rewritten, deleted = network("rewrite, as is", 0.5), network("deletion, as is", 0.25)
    made = result(networks=(network("serial"), rewritten, deleted))
    assert notes(made) == ["Deleting blocks to the same depth measures better in kl than the rewrite."]
    healed = result(networks=(*made.networks, network("rewrite, healed", 0.1)))
    assert notes(healed) == []
    assert notes(result(networks=made.networks, unscheduled="it is parallel")) == []


def test_what_a_cast_keeps_and_costs_is_told() -> None:
    precision = PrecisionResult("fp16", KEPT, (), None, "relative-l2", (CastError(KEPT, 1e-3),))
    made = result(backend=replace(BACKEND, precision=precision))
    assert notes(made) == [
        "model.onnx is fp16; in fp32 stay norms, softmaxes, the residual sum; relative-l2 against fp32: 1.0e-03."
    ]
    nothing = replace(precision, kept_in_fp32=KeptInFp32(False, False, False))
    assert notes(result(backend=replace(BACKEND, precision=nothing))) == ["model.onnx is fp16; in fp32 stay no parts."]


def test_what_left_the_range_and_what_was_not_compared_is_told() -> None:
    precision = PrecisionResult("fp16", KEPT, ("a", "b"), "x is infinite in float16", None, ())
    backend = replace(BACKEND, precision=precision, onnx_not_run="no kernel", onnx_against_graph=None)
    assert notes(result(backend=backend))[1:] == [
        "X is infinite in float16: 2 values stay in fp32 for it, and all samples are in the range now.",
        "model.onnx was not compared with its graph: no kernel.",
    ]


def test_what_the_search_took_is_told_in_forward_passes() -> None:
    assert "Search and refit took 7.5 forward passes over 80 samples." in facts(result(forward_passes=7.5))
