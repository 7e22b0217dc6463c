"""The commands that rewrite a model: convert, plan, heal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from parallelize.backends.choice import AUTO
from parallelize.cli.app import app, reports_errors
from parallelize.cli.options import (
    NUMBER_METRICS,
    AllowPickle,
    Backend,
    ComputeCapabilities,
    Force,
    Inputs,
    InputShapes,
    LabelsName,
    LargestShapes,
    LeastShapes,
    MaskName,
    MetricName,
    Model,
    OutputDirectory,
    Precision,
    Refine,
    Refit,
    Rounds,
    Seed,
    TestInputs,
    Threads,
    TimeLimit,
    UsualShapes,
    Weights,
    WeightsKey,
)
from parallelize.cli.output import print_facts, print_notes, print_table
from parallelize.cli.takes import takes
from parallelize.files.plan import read_plan
from parallelize.healing.options import HealOptions
from parallelize.terminal.words import listed

if TYPE_CHECKING:
    from parallelize.conversion.options import ConvertOptions
    from parallelize.models.prepare import Source


@app.command()
@reports_errors
def convert(
    model: Model,
    output: OutputDirectory,
    inputs: Inputs = None,
    test_inputs: TestInputs = None,
    labels: LabelsName = None,
    mask: MaskName = None,
    depth: Annotated[
        int | None, typer.Option(help="The best schedule of at most N blocks.", metavar="N", min=1, show_default=False)
    ] = None,
    max_error: Annotated[
        str | None,
        typer.Option(
            help="The shallowest schedule whose --metric is at most E on held-out data (default: 0.02), such as 0.02"
            " or 1%; a percentage is one of the serial value.",
            metavar="E",
            show_default=False,
        ),
    ] = None,
    plan: Annotated[Path | None, typer.Option(help="Replay a plan.json.", metavar="FILE", show_default=False)] = None,
    metric: MetricName = None,
    refit: Refit = "full",
    time_limit: TimeLimit = None,
    refine: Refine = 0,
    heal: Annotated[
        bool, typer.Option("--heal", help="Heal the rewrite as well, as `parallelize heal` does by default.")
    ] = False,
    backend: Backend = AUTO,
    precision: Precision = None,
    min_shapes: LeastShapes = None,
    opt_shapes: UsualShapes = None,
    max_shapes: LargestShapes = None,
    compute_capability: ComputeCapabilities = None,
    force: Force = False,
    weights: Weights = None,
    weights_key: WeightsKey = None,
    input_shapes: InputShapes = None,
    allow_pickle: AllowPickle = False,
    seed: Seed = 0,
    threads: Threads = 1,
    rounds: Rounds = 200,
) -> None:
    """Rewrite a model's depth into width: capture, plan, rewrite, refit, fuse, export, compare, time."""
    from parallelize.backends.tensorrt.options import BuildOptions
    from parallelize.backends.tensorrt.profiles import ShapeOptions
    from parallelize.conversion.engine_options import EngineOptions
    from parallelize.conversion.options import ConvertOptions
    from parallelize.data import parse_inputs
    from parallelize.models.prepare import Source

    shapes = ShapeOptions.parse(min_shapes, opt_shapes, max_shapes)
    building = BuildOptions(shapes=shapes, compute_capabilities=tuple(compute_capability or ()))
    options = ConvertOptions(
        plan=None if plan is None else read_plan(plan),
        depth=depth,
        max_error=max_error,
        metric=metric,
        refit=refit,
        seed=seed,
        threads=threads,
        rounds=rounds,
        time_limit=time_limit,
        refine=refine,
        heal=HealOptions() if heal else None,
        engine=EngineOptions(backend, precision, building),
    )
    source = Source(
        model,
        inputs,
        test_inputs,
        labels=labels,
        mask=mask,
        weights=weights,
        weights_key=weights_key,
        input_specs=parse_inputs(input_shapes),
        allow_pickle=allow_pickle,
    )
    _convert(source, output, options, force=force)


@app.command()
@reports_errors
def plan(
    model: Model,
    output: OutputDirectory,
    inputs: Inputs = None,
    labels: LabelsName = None,
    mask: MaskName = None,
    metric: MetricName = None,
    depths: Annotated[
        str | None,
        typer.Option(
            help="Depths in blocks to measure, such as 2,3,6 (default: up to ten, spread over all).",
            metavar="N,N,...",
            show_default=False,
        ),
    ] = None,
    refit: Refit = "full",
    time_limit: TimeLimit = None,
    refine: Refine = 0,
    memory: Annotated[
        Path | None,
        typer.Option(
            help="Keep what is measured in FILE, and go on from it when the command is run again.",
            metavar="FILE",
            show_default=False,
        ),
    ] = None,
    heatmap: Annotated[
        bool, typer.Option("--heatmap", help="Measure and draw what each term needs of the earlier ones.")
    ] = False,
    latency: Annotated[bool, typer.Option(help="Time the schedules on ONNX Runtime at batch 1.")] = True,
    force: Force = False,
    weights: Weights = None,
    weights_key: WeightsKey = None,
    input_shapes: InputShapes = None,
    allow_pickle: AllowPickle = False,
    seed: Seed = 0,
    threads: Threads = 1,
    rounds: Rounds = 200,
) -> None:
    """Search only: what each depth costs in accuracy and gains in latency, beside deletion to the same depth."""
    from parallelize.data import parse_inputs
    from parallelize.exploring.explore import PlanOptions, explore, table
    from parallelize.models.prepare import Source
    from parallelize.planning.search import PlannerOptions
    from parallelize.terminal.progress import reporting

    source = Source(
        model,
        inputs,
        labels=labels,
        mask=mask,
        weights=weights,
        weights_key=weights_key,
        input_specs=parse_inputs(input_shapes),
        allow_pickle=allow_pickle,
    )
    options = PlanOptions(
        metric=metric,
        depths=None if depths is None else _numbers(depths),
        planner=PlannerOptions(refit, seed, time_limit, memory=memory, refine=refine),
        latency=latency,
        heatmap=heatmap,
        threads=threads,
        rounds=rounds,
    )
    with reporting() as report:
        content = explore(source, output, options, force=force, report=report)
    print_table(table(content)).print(
        f"Written to {output}; take one: parallelize convert ... --plan {output}/plans/NN.json", highlight=False
    )


@app.command()
@reports_errors
@takes(healing=HealOptions)
def heal(
    model: Model,
    plan: Annotated[Path, typer.Option(help="The plan.json to rewrite by.", metavar="FILE")],
    output: OutputDirectory,
    inputs: Inputs = None,
    test_inputs: TestInputs = None,
    labels: LabelsName = None,
    mask: MaskName = None,
    *,
    healing: HealOptions,
    metric: Annotated[
        str | None,
        typer.Option(
            help=f"What the report leads with; {listed(NUMBER_METRICS, 'and')} also heal by relative L2 where outputs"
            " could be logits.",
            metavar="NAME|FILE.py:FUNCTION",
            show_default=False,
        ),
    ] = None,
    force: Force = False,
    weights: Weights = None,
    weights_key: WeightsKey = None,
    input_shapes: InputShapes = None,
    allow_pickle: AllowPickle = False,
    threads: Threads = 1,
    rounds: Rounds = 200,
) -> None:
    """Convert by a plan, with self-distillation: the rewrite learns from the model itself; run again to go on."""
    from parallelize.conversion.options import ConvertOptions
    from parallelize.data import parse_inputs
    from parallelize.models.prepare import Source

    options = ConvertOptions(plan=read_plan(plan), metric=metric, threads=threads, rounds=rounds, heal=healing)
    source = Source(
        model,
        inputs,
        test_inputs,
        labels=labels,
        mask=mask,
        weights=weights,
        weights_key=weights_key,
        input_specs=parse_inputs(input_shapes),
        allow_pickle=allow_pickle,
    )
    _convert(source, output, options, force=force)


def _convert(source: Source, output: Path, options: ConvertOptions, *, force: bool) -> None:
    """Convert with a progress line, then print the table, the notes and what was written."""
    from rich.text import Text

    from parallelize.conversion.convert import convert as run
    from parallelize.conversion.notes import facts, notes
    from parallelize.conversion.table import table
    from parallelize.terminal.progress import reporting

    with reporting() as report:
        conversion = run(source, output, options=options, force=force, report=report)
    console = print_facts(facts(conversion.report))
    print_table(table(conversion.report))
    print_notes(notes(conversion.report), console)
    console.print(Text(f"Written to {output}: {', '.join(sorted(path.name for path in output.iterdir()))}"))


def _numbers(text: str) -> tuple[int, ...]:
    from passes.errors import ParallelizeError

    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ParallelizeError(f"The depths {text!r} are no numbers.", "Give them as in --depths 2,3,6.") from None
