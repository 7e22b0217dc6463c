"""Sentences beside the table of a conversion: facts about what was made, and notes that a reader should not miss."""

from __future__ import annotations

from collections.abc import Iterator

from parallelize.baselines.networks import DELETED, DELETED_REFITTED, REWRITE
from parallelize.conversion.engine_result import BackendResult, EngineResult
from parallelize.conversion.pace import Pace
from parallelize.conversion.prefix_report import prefix_facts, prefix_notes
from parallelize.conversion.result import Healing, Result
from parallelize.export.precision_result import PrecisionResult
from parallelize.terminal.words import counted
from passes.runner import PassRecord

_MOST_SUMS = 3  # that are named
_PARTS = {"norms": "norms", "softmax": "softmaxes", "state": "the residual sum"}  # that a cast may keep


def facts(result: Result) -> list[str]:
    """What was made, the most important first: of an engine how many of its kernels wait for each other."""
    return [
        *_pace_facts(result.pace),
        *_backend_facts(result.backend),
        *_predicted_facts(result),
        *_unscheduled_facts(result),
        *prefix_facts(result),
        *_depth_facts(result),
        *_search_facts(result),
    ]


def notes(result: Result) -> list[str]:
    """Sentences that a reader of the table should not miss."""
    found = [*result.warnings, *_pace_notes(result.pace), *_unfused_notes(result), *_healing_notes(result.healing)]
    found += [*_backend_notes(result.backend), *prefix_notes(result)]
    return found if result.unscheduled is not None else [*found, *_rewrite_notes(result)]


def _pace_facts(pace: Pace | None) -> Iterator[str]:
    """What was asked for and what was reached, when it was chosen and in the end."""
    if pace is None:
        return
    reached = pace.product or pace.chosen
    when = ""
    if pace.product is not None and pace.chosen is not None and not pace.predicted:
        when = f"; when it was chosen {pace.chosen.ms:.3g} ms ({pace.chosen.speed_up:.2f}x)"
    yield f"Asked for {pace.asked}: {reached}{when}."


def _pace_notes(pace: Pace | None) -> Iterator[str]:
    if pace is None:
        return
    if pace.product is None:
        yield f"What was written could not be timed on {pace.where} in the end."
    elif not pace.is_reached(pace.product):
        yield (
            f"Timed once more in the end, the network misses {pace.asked}: timings differ a little from run to run,"
            " more on a busy machine."
        )


def _backend_facts(backend: BackendResult) -> list[str]:
    """Which backend, and what the engine became."""
    taken = f"Backend {backend.backend}: {backend.why}."
    return [taken] if backend.engine is None else [*_engine_facts(backend.engine), taken]


def _engine_facts(engine: EngineResult) -> Iterator[str]:
    serial, ours = engine.layers["serial"], engine.layers["rewrite"]
    if engine.not_run is None:
        times = {name: latency.median for name, latency in engine.latency_ms.items()}
        yield (
            f"On the GPU: {times['rewrite']:.3f} ms at batch 1, serial {times['serial']:.3f} ms"
            f" ({times['serial'] / times['rewrite']:.2f}x); differs from its graph by"
            f" {engine.errors['engine against graph']:.1e} of the largest output."
        )
    yield (
        f"{engine.library}, {engine.precision}: {ours.critical} kernels wait for each other,"
        f" {serial.critical} in the serial engine; built in {engine.build_seconds:.1f} s for"
        f" {', '.join(engine.targets)}; takes {'; '.join(engine.profiles)}."
    )


def _predicted_facts(result: Result) -> Iterator[str]:
    """What nobody measured, and how far off such numbers are."""
    if result.predicted is None:
        return
    found = result.predicted
    serial, ours = (found.milliseconds[network.name] for network in (result.serial, result.product))
    yield (
        f"Predicted for {found.gpu} in {found.precision}, not measured: {ours:.3f} ms at batch 1, serial"
        f" {serial:.3f} ms ({serial / ours:.2f}x); median error {found.error:.0%} on {found.error_of}."
    )


def _unscheduled_facts(result: Result) -> Iterator[str]:
    """Why there is no schedule, and what width fusion did."""
    if result.unscheduled is None:
        return
    fused = [line for record in _fusions(result) for line in record.matches]
    named = "; ".join(fused[:_MOST_SUMS]) + (f"; and {len(fused) - _MOST_SUMS} more" * (len(fused) > _MOST_SUMS))
    done = f"Width fusion fused {named}." if fused else "Width fusion found no branches of equal structure."
    yield f"Nothing was scheduled: {result.unscheduled}. {done}"


def _fusions(result: Result) -> list[PassRecord]:
    return [record for record in result.passes if record.name == "fuse-width"]


def _depth_facts(result: Result) -> list[str]:
    """How many layers a block is where it is not one."""
    several = [stack for stack in result.stacks if stack.layers != stack.blocks]
    return [
        f"Depth counts blocks, and a block of {stack.name} is {stack.layers // stack.blocks} layers:"
        f" {counted(stack.blocks, 'block')} of it are {stack.layers} layers."
        for stack in several
    ]


def _unfused_notes(result: Result) -> Iterator[str]:
    """Branches that stay side by side, and groups that no schedule takes because they would."""
    skipped = [skip for record in _fusions(result) for skip in record.skipped]
    if skipped:
        count = "1 branch stays" if len(skipped) == 1 else f"{len(skipped)} branches stay"
        yield f"{count} side by side, not fused, which gains nothing on a GPU: {skipped[0].reason}."
    for name, reason in result.unfused_stacks.items():
        yield f"Groups of {name} that do not fuse are as deep as serial and were left out of the search: {reason}."


def _search_facts(result: Result) -> Iterator[str]:
    """What the search took."""
    if result.forward_passes:
        count = result.data.fit + result.data.held_out
        yield f"Search and refit took {result.forward_passes:.1f} forward passes over {count} samples."


def _healing_notes(healing: Healing | None) -> Iterator[str]:
    if healing is None:
        return
    steps = healing.steps
    if healing.best_step == 0:
        yield f"Healing did not help on held-out samples in {steps} steps and was left out ({healing.ending})."
    elif healing.ending == "diverged":
        yield f"Healing diverged after step {steps}; the weights are those of step {healing.best_step}."


def _rewrite_notes(result: Result) -> Iterator[str]:
    """Where the refit or the rewrite as a whole does not pay."""
    asked = any(part.refit != "none" for part in result.plan.stacks)
    if asked and REWRITE not in result.names:
        yield "The refit did not help on held-out samples and was left out."
    metric = result.metric.name
    rivals = [network for network in result.networks if network.name in (DELETED, DELETED_REFITTED)]
    if not result.data.random and any(rival.errors[metric] < result.product.errors[metric] for rival in rivals):
        yield f"Deleting blocks to the same depth measures better in {metric} than the rewrite."


def _backend_notes(backend: BackendResult) -> Iterator[str]:
    """What a cast keeps, and what was not run."""
    yield from _cast_notes(backend.precision)
    if backend.onnx_not_run is not None:
        yield f"model.onnx was not compared with its graph: {backend.onnx_not_run}."
    if backend.engine is not None and backend.engine.not_run is not None:
        yield f"The engine was not run: {backend.engine.not_run}"


def _cast_notes(precision: PrecisionResult) -> Iterator[str]:
    kept = precision.kept_in_fp32
    if kept is not None:
        parts = [word for name, word in _PARTS.items() if getattr(kept, name)]
        cost = "" if precision.error is None else f"; {precision.metric} against fp32: {precision.error:.1e}"
        yield f"model.onnx is {precision.dtype}; in fp32 stay {', '.join(parts) or 'no parts'}{cost}."
    if precision.out_of_range is not None:
        yield (
            f"{precision.out_of_range[0].upper()}{precision.out_of_range[1:]}: {len(precision.kept_for_range)}"
            " values stay in fp32 for it, and all samples are in the range now."
        )
