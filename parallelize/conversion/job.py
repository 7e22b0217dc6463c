"""What a conversion works on: model, data, goal and options, with all refused that can be before the long work."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from parallelize.backends.backend import Backend
from parallelize.backends.choice import Choice
from parallelize.conversion.engine_options import check_precision, check_shapes, check_timing
from parallelize.conversion.goal import Goal, Replay, asked_budget
from parallelize.conversion.options import ConvertOptions
from parallelize.machine.device import CPU, choose_device
from parallelize.machine.ranks import ALONE, Ranks
from parallelize.metrics import Judge, Metric
from parallelize.metrics.choice import choose_metric
from parallelize.models.prepare import Prepared, prepare
from parallelize.models.source import Source
from parallelize.predicting.asked_for import AskedFor
from parallelize.terminal.progress import Report
from passes.errors import ParallelizeError
from passes.schedule.apply_plan import check_fits
from passes.stacks.stack_graph import StackGraph, stack_graph


@dataclass(frozen=True)
class Job:
    """What every stage of a conversion is given.

    Attributes:
        graph: of the model's stacks.
        metric: the one that was asked for, or that fits the outputs.
        options: with the precision of the model, and without a refit on noise.
        choice: the backend, and why it was taken.
        asked_for: the target that latencies are predicted for; None where none is named.
        device: where all of it runs up to the export.
        ranks: the processes that measure what a search asks for.
    """

    prepared: Prepared
    graph: StackGraph
    metric: Metric
    goal: Goal
    options: ConvertOptions
    choice: Choice[Backend]
    asked_for: AskedFor | None
    device: torch.device = CPU
    ranks: Ranks = ALONE


def begin(
    source: Source,
    goal: Goal,
    options: ConvertOptions,
    choice: Choice[Backend],
    report: Report,
    ranks: Ranks = ALONE,
) -> Job:
    """Prepare model and data, and hold what was asked for against them.

    Raises:
        EnvironmentLackError: no such GPU.
        ParallelizeError: what was asked for does not fit the model, or needs data.
    """
    asked_for = AskedFor.of(options.target, options.target_precision)
    device = choose_device(options.device, ranks.local)
    if options.heal is not None:
        choose_device(options.heal.device)  # what is not there is refused before the long work
    seed = goal.plan.seed if isinstance(goal, Replay) else options.seed
    prepared = prepare(source, seed, report, device, options.buffer_bytes)
    options = replace(options, engine=options.engine.of_model(prepared.precision))
    check_shapes(prepared.program, options.engine)
    check_precision(prepared.program, options.engine, choice)
    if asked_for is not None:  # what has no known kernels has none after a search either
        asked_for.milliseconds(prepared.program, prepared.data.judge)
    else:
        check_timing(goal, options.engine, prepared.precision, choice)
    graph = stack_graph(prepared.stacks.stacks)
    if isinstance(goal, Replay):
        check_fits(graph.stacks, goal.plan)
    if prepared.random:
        _refuse_without_data(goal, options)
        options = replace(options, refit="none")
    metric = choose_metric(options.metric, prepared.program, prepared.data.judge)
    budget = asked_budget(goal)
    if budget is not None:
        budget.check(metric)
    if isinstance(goal, Replay) and options.metric is not None:  # a search judges before it measures anything
        Judge(prepared.program.module, prepared.data.judge, metric)
    return Job(prepared, graph, metric, goal, options, choice, asked_for, device, ranks)


def _refuse_without_data(goal: Goal, options: ConvertOptions) -> None:
    """Refuse what random numbers cannot do."""
    if options.heal is not None:
        raise ParallelizeError("Healing needs data.", "Give calibration samples with --inputs.")
    if isinstance(goal, Replay) and any(part.refit != "none" for part in goal.plan.stacks):
        raise ParallelizeError(
            "The plan asks for a refit, which needs data.", 'Give --inputs, or set "refit": "none" in the plan.'
        )
    if asked_budget(goal) is not None:
        raise ParallelizeError(
            "A largest error is measured on data.", "Give calibration samples with --inputs, or ask for a --depth."
        )
