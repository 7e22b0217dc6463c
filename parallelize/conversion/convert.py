"""The main job: a model, data and a budget become a directory with the rewritten model and the evidence.

    capture -> clean -> find stacks -> plan (search) -> rewrite -> refit -> (heal) -> width fusion -> ONNX -> (engine)
    -> compare, time -> report

Where there is nothing to schedule, as in a network that is parallel already, the steps from plan to heal are left out.

Everything that is reported is measured here: scores on samples that neither fitted nor chose the plan, latencies in
turn in one run, and the ONNX files against the graphs that they were written from.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from parallelize.backends.onnxruntime import OnnxRuntime
from parallelize.baselines.networks import (
    AS_IS,
    FUSED,
    HEALED,
    REWRITE,
    SERIAL,
    Heal,
    Variant,
    Variants,
    build_variants,
    fused_variants,
)
from parallelize.conversion.engines import EngineOptions, check_precision, check_shapes, settle, write_product
from parallelize.conversion.report import Comparison, Evidence, write_report
from parallelize.conversion.scheduling import chosen_schedule, settled
from parallelize.data import InputSpec, Samples
from parallelize.data.padding import real_outputs
from parallelize.export.onnx import write_onnx
from parallelize.files.whole_directory import output_directory, refuse_foreign
from parallelize.healing.heal import heal
from parallelize.healing.options import HealOptions
from parallelize.machine.latency import Latency, in_turn
from parallelize.metrics import Budget, Judge, Metric, Scores, find_metric
from parallelize.metrics.choice import choose_metric
from parallelize.models.capture import export
from parallelize.models.prepare import Model, Prepared, Source, prepare
from parallelize.models.program import Program
from parallelize.terminal.progress import Report
from passes.agreement import change
from passes.errors import CheckError
from passes.infra import flat_outputs
from passes.plan import Plan, Refit
from passes.stack_graph import stack_graph

CHECKED = 32  # samples that an ONNX file is compared with its graph on
ONNX_TOLERANCE = 1e-3  # of the largest output, float32 sums in another order
SCRATCH, SERIAL_ONNX = "scratch", "serial.onnx"  # beside the products, removed in the end


@dataclass(frozen=True)
class ConvertOptions:
    """How to convert. Of `plan`, `depth` and `max_error` at most one is given.

    Attributes:
        plan: replay this plan.
        depth: the best schedule of at most so many blocks.
        max_error: the shallowest schedule within this error of `metric`: a number, or a percentage such as "1%".
        metric: what the search minimises and the budget limits, by its name or as `file.py:function`; None is KL for
            logits (samples, classes), relative L2 otherwise.
        refit: the strongest refit a level may get.
        seed: seeds the split of the data.
        threads: of ONNX Runtime when latency is measured.
        rounds: how often each network is timed.
        time_limit: seconds after which the search measures no more groups of blocks and no more neighbours.
        refine: neighbours of each depth's best schedule that are measured as whole networks, at most.
        heal: heal the rewrite by gradient steps; None does not.
        engine: backend, precision and how to build an engine.
    """

    plan: Plan | None = None
    depth: int | None = None
    max_error: Budget | float | str | None = None
    metric: Metric | str | None = None
    refit: Refit = "full"
    seed: int = 0
    threads: int = 1
    rounds: int = 200
    time_limit: float | None = None
    refine: int = 0
    heal: HealOptions | None = None
    engine: EngineOptions = field(default_factory=EngineOptions)


@dataclass(frozen=True)
class Conversion:
    """What a conversion made.

    Attributes:
        output: the directory.
        program: the rewritten, refitted and fused model.
        plan: its plan.
        report: the content of report.json.
    """

    output: Path
    program: Program
    plan: Plan
    report: dict[str, Any]


def convert(
    model: Model,
    output: str | os.PathLike[str],
    *,
    inputs: str | os.PathLike[str] | None = None,
    test_inputs: str | os.PathLike[str] | None = None,
    labels: str | None = None,
    mask: str | None = None,
    example: tuple[Any, ...] | None = None,
    weights: str | os.PathLike[str] | None = None,
    weights_key: str | None = None,
    input_specs: tuple[InputSpec, ...] = (),
    allow_pickle: bool = False,
    force: bool = False,
    options: ConvertOptions | None = None,
    report: Report = lambda _what, _share: None,
) -> Conversion:
    """Rewrite a model's depth into width and write the result with its evidence to a directory.

    Args:
        model: a reference as on the command line, a captured program, or a module in eval mode with `example`.
        output: directory to make.
        inputs: .npz of calibration samples; this and what follows is told by `parallelize.preparation.Source`.
        test_inputs: .npz to judge on.
        labels: name of the array of class labels in the .npz that judges.
        mask: name of the input that is 0 at padding.
        example: example inputs of a module.
        weights: state dict for a factory.
        weights_key: the key under which `weights` holds them, where several would fit.
        input_specs: shapes of the inputs of a factory.
        allow_pickle: load a pickled module.
        force: replace an existing directory.
        options: plan, budget and the rest. A healing keeps its state in a file beside `output`, named after it with
            `.resume` behind, so that the same call goes on with a run that was killed.
        report: told what is being done.

    Raises:
        ParallelizeError: with one sentence and a hint; `output` is then as it was before.
    """
    options = _parsed(options or ConvertOptions())
    backend = settle(options.engine)
    target = Path(output)
    state_file = target.resolve().with_name(f"{target.resolve().name}.resume")
    refuse_foreign(target, "report.json", "a conversion")
    source = Source(model, inputs, test_inputs, labels, mask, example, weights, input_specs, allow_pickle, weights_key)
    with output_directory(target, force=force) as directory:
        prepared = prepare(source, options.seed if options.plan is None else options.plan.seed, report)
        program, data, stacks = prepared.program, prepared.data, prepared.stacks
        options = replace(options, engine=options.engine.of_model(prepared.precision))
        check_shapes(program, options.engine)
        check_precision(program, options.engine, backend[0])
        graph = stack_graph(stacks.stacks)
        options = settled(options, graph, is_random=prepared.random)
        metric = choose_metric(options.metric, prepared.program, prepared.data.judge)
        if options.max_error is not None:
            Budget.parse(options.max_error).check(metric)
        _write_serial(program, directory, report)
        schedule = chosen_schedule(prepared, graph, metric, options, report)
        plan, search, options = schedule.plan, schedule.search, replace(options, max_error=schedule.budget)
        if schedule.unscheduled is not None:
            variants = fused_variants(program, plan, data.held_out)
        else:
            refitted = search.chosen.refitted if search is not None and options.refit != "none" else None
            healer = _healer(prepared, plan, metric, options, state_file, report)
            variants = build_variants(
                program,
                plan,
                data.fit,
                data.held_out,
                None if prepared.random else metric,
                refitted,
                lambda what: report(what, None),
                healer,
            )
        scores = _score(variants, data.judge, metric, report)
        comparisons, latencies = _measure_onnx(variants, program, data.judge, directory, options, report)
        product = final(variants)
        built = write_product(
            product.program,
            program,
            directory,
            options.engine,
            backend,
            data.held_out,
            data.judge,
            comparisons[product.name].error,
            json.loads(plan.to_json()),
            report,
            (data.fit, data.held_out, data.judge),
        )
        evidence = Evidence(
            origin=program.origin,
            stacks=stacks,
            graph=graph,
            variants=variants,
            scores=scores,
            latencies=latencies,
            comparisons=comparisons,
            search=search,
            unscheduled=schedule.unscheduled,
            split=data,
            random_inputs=prepared.random,
            metric=metric,
            options=options,
            records=(*prepared.cleaning, *variants.records),
            built=built,
            notes=prepared.notes,
        )
        report("writing the report", None)
        _save_program(product.program, directory / "model.pt2")
        content = write_report(evidence, directory)
        (directory / "plan.json").write_text(plan.to_json())
    if options.heal is not None:
        state_file.unlink(missing_ok=True)
    return Conversion(target, product.program, plan, content)


def final(variants: Variants) -> Variant:
    """The network that a conversion is for: healed and refitted where each of them helps, else the rewrite as is.

    Where nothing is scheduled it is the network with its branches fused.
    """
    names = {variant.name for variant in variants.items}
    return variants[next(name for name in (HEALED, REWRITE, AS_IS, FUSED) if name in names)]


def _parsed(options: ConvertOptions) -> ConvertOptions:
    """Read the budget and load a metric of the user's own before anything takes time."""
    budget = None if options.max_error is None else Budget.parse(options.max_error)
    metric = None if options.metric is None else find_metric(options.metric)
    if budget is not None and metric is not None:
        budget.check(metric)
    return replace(options, max_error=budget, metric=metric)


def _healer(
    prepared: Prepared, plan: Plan, metric: Metric, options: ConvertOptions, state_file: Path, report: Report
) -> Heal | None:
    """Heals a rewrite as the options say, on the samples that fit; those held out choose its weights.

    By KL where the metric reads logits; a metric of the user's own does not say, so there the outputs decide.
    """
    if options.heal is None:
        return None
    like = metric if metric.function is None else choose_metric(None, prepared.program, prepared.data.judge)
    return partial(
        heal,
        teacher=prepared.program.module,
        plan=plan,
        fit=prepared.data.fit,
        held_out=prepared.data.held_out,
        options=options.heal,
        logits=like.reads_logits,
        state_file=state_file,
        report=report,
    )


def _score(variants: Variants, samples: Samples, metric: Metric, report: Report) -> dict[str, Scores]:
    """Scores of every network on the samples that judge."""
    report("judging", 0)
    judge = Judge(variants[SERIAL].program.module, samples, metric)
    scores = {SERIAL: judge.serial}
    others = [variant for variant in variants.items if variant.name != SERIAL]
    for number, variant in enumerate(others, 1):
        report("judging", number / len(variants.items))
        scores[variant.name] = judge.score(variant.program.module)
    return scores


def _write_serial(program: Program, directory: Path, report: Report) -> None:
    """Write the network as it is before anything takes time: what has no ONNX form has none after a search either.

    Raises:
        ParallelizeError: an operator has no ONNX form, or ONNX Runtime refuses the file.
    """
    report("writing the serial network as ONNX", None)
    path = directory / SCRATCH / SERIAL_ONNX
    path.parent.mkdir()
    write_onnx(program, path)
    OnnxRuntime(path, threads=1)


def _measure_onnx(
    variants: Variants, written: Program, judge: Samples, directory: Path, options: ConvertOptions, report: Report
) -> tuple[dict[str, Comparison], dict[str, Latency]]:
    """Write every network as ONNX, compare it with its graph and time all of them in turn at batch 1.

    `written` is the one that `_write_serial` has written.

    Raises:
        CheckError: an ONNX file does not compute what its graph computes.
    """
    batch, single = judge.batch(CHECKED), judge.batch(1)
    product = final(variants).name
    teacher = variants[SERIAL].program.module
    scratch = directory / SCRATCH
    comparisons, sessions = {}, {}
    for number, variant in enumerate(variants.items):
        report("writing and checking ONNX", number / len(variants.items))
        path = directory / "model.onnx" if variant.name == product else scratch / f"{number}.onnx"
        if variant.program.module is written.module:
            path = scratch / SERIAL_ONNX
        else:
            write_onnx(variant.program, path)
        session = OnnxRuntime(path, options.threads)
        outputs = flat_outputs(variant.program.module, batch)
        moved = change(outputs, session(batch), real_outputs(teacher, judge, batch, outputs))
        comparisons[variant.name] = Comparison(moved.largest, ONNX_TOLERANCE, judge.fixed or min(CHECKED, len(judge)))
        if not moved.within(ONNX_TOLERANCE):
            raise CheckError(
                f"The ONNX of '{variant.name}' differs from its graph by {moved}.",
                "Please report this with the model.",
            )
        sessions[variant.name] = session.bound(single)
    report("timing", None)
    latencies = in_turn(sessions, options.rounds)
    for path in scratch.iterdir():
        path.unlink()
    scratch.rmdir()
    return comparisons, latencies


def _save_program(program: Program, path: Path) -> None:
    with torch.no_grad():
        torch.export.save(export(program), path)
