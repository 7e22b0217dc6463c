"""The command line. Heavy modules are imported inside the commands, so that --help answers at once.

Exit codes: 0 done, 1 a check failed, 2 wrong usage or input, 3 the machine lacks something, 4 a bug.
"""

from __future__ import annotations

import functools
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn, ParamSpec

import typer

from parallelize import __version__
from parallelize.cli_options import (
    AllowPickle,
    Force,
    Inputs,
    InputShapes,
    LabelsName,
    MaskName,
    MetricName,
    Mode,
    Model,
    OutputDirectory,
    Refit,
    RefitName,
    Rounds,
    Seed,
    TestInputs,
    Threads,
    TimeLimit,
    TrainedName,
    Weights,
)
from parallelize.heal_options import DEFAULT_STEPS, HealOptions

P = ParamSpec("P")
BUG = 4
TABLE_WIDTH = 100  # where a terminal is narrower it wraps the lines; rich would cut off numbers

app = typer.Typer(
    name="parallelize",
    help="Turn the depth of neural networks into width, with the cost in accuracy measured.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


class _Settings:
    """Options that hold for every command."""

    debug = False


def _fail(error: Exception, hint: str, code: int) -> NoReturn:
    if _Settings.debug:
        traceback.print_exception(error)
    typer.secho(f"error: {error}", fg=typer.colors.RED, err=True)
    typer.secho(f"hint:  {hint}", err=True)
    raise typer.Exit(code)


def _reports_errors(command: Callable[P, None]) -> Callable[P, None]:
    """One sentence and one hint for what the user can mend; exit code 4 for what is a bug."""

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        from paraformer.errors import ParaFormerError
        from passes.errors import ParallelizeError

        try:
            command(*args, **kwargs)
        except ParallelizeError as error:
            _fail(error, error.hint, error.exit_code)
        except ParaFormerError as error:
            _fail(error, error.hint, ParallelizeError.exit_code)
        except (typer.Exit, typer.Abort):
            raise
        except Exception as error:  # noqa: BLE001  (the one place where a bug is reported)
            text = f"{type(error).__name__}: {error}"
            _fail(
                error if _Settings.debug else RuntimeError(text),
                "This is a bug in parallelize; run again with --debug and report what it prints.",
                BUG,
            )

    return wrapped


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"parallelize {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    del version  # its callback has ended the run where it is set
    _Settings.debug = debug or _Settings.debug


@app.command()
@_reports_errors
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
    refit: Refit = RefitName.full,
    time_limit: TimeLimit = None,
    heal: Annotated[
        bool, typer.Option("--heal", help="Heal the rewrite as well, as `parallelize heal` does by default.")
    ] = False,
    force: Force = False,
    weights: Weights = None,
    input_shapes: InputShapes = None,
    allow_pickle: AllowPickle = False,
    seed: Seed = 0,
    threads: Threads = 1,
    rounds: Rounds = 200,
) -> None:
    """Rewrite a model's depth into width: capture, plan, rewrite, refit, fuse, export, compare, time."""
    from parallelize.conversion import ConvertOptions

    options = ConvertOptions(
        plan=None if plan is None else _read_plan(plan),
        depth=depth,
        max_error=max_error,
        metric=metric,
        refit=refit.value,
        seed=seed,
        threads=threads,
        rounds=rounds,
        time_limit=time_limit,
        heal=HealOptions() if heal else None,
    )
    _convert(
        model,
        output,
        input_shapes,
        inputs=inputs,
        test_inputs=test_inputs,
        labels=labels,
        mask=mask,
        weights=weights,
        allow_pickle=allow_pickle,
        force=force,
        options=options,
    )


@app.command()
@_reports_errors
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
    refit: Refit = RefitName.full,
    time_limit: TimeLimit = None,
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
    input_shapes: InputShapes = None,
    allow_pickle: AllowPickle = False,
    seed: Seed = 0,
    threads: Threads = 1,
    rounds: Rounds = 200,
) -> None:
    """Search only: what each depth costs in accuracy and gains in latency, beside deletion to the same depth."""
    from rich.console import Console

    from parallelize.inputs import parse_input
    from parallelize.planning.exploring import PlanOptions, explore, table
    from parallelize.planning.planner import PlannerOptions
    from parallelize.preparation import Source
    from parallelize.progress import reporting

    source = Source(
        model,
        inputs,
        labels=labels,
        mask=mask,
        weights=weights,
        input_specs=tuple(parse_input(text) for text in input_shapes or ()),
        allow_pickle=allow_pickle,
    )
    options = PlanOptions(
        metric=metric,
        depths=None if depths is None else _numbers(depths),
        planner=PlannerOptions(refit.value, seed, time_limit, memory=memory),
        latency=latency,
        heatmap=heatmap,
        threads=threads,
        rounds=rounds,
    )
    with reporting() as report:
        content = explore(source, output, options, force=force, report=report)
    console = Console(soft_wrap=False)
    Console(width=max(console.width, TABLE_WIDTH)).print(table(content))
    console.print(
        f"Written to {output}; take one: parallelize convert ... --plan {output}/plans/NN.json", highlight=False
    )


@app.command()
@_reports_errors
def heal(
    model: Model,
    plan: Annotated[Path, typer.Option(help="The plan.json to rewrite by.", metavar="FILE")],
    output: OutputDirectory,
    inputs: Inputs = None,
    test_inputs: TestInputs = None,
    labels: LabelsName = None,
    mask: MaskName = None,
    steps: Annotated[
        int | None,
        typer.Option(
            help=f"Optimizer steps (default: {DEFAULT_STEPS}, without --epochs and --time-limit).",
            min=1,
            show_default=False,
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the data.", min=1, show_default=False)] = None,
    time_limit: Annotated[
        float | None, typer.Option(help="End after so many seconds.", metavar="SECONDS", min=0.0, show_default=False)
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Samples in a step.", min=1)] = HealOptions.batch_size,
    learning_rate: Annotated[
        float, typer.Option(help="Peak of the one-cycle schedule.", min=0.0)
    ] = HealOptions.learning_rate,
    hidden_weight: Annotated[
        float, typer.Option(help="Weight of the states' error beside that of the outputs.", min=0.0)
    ] = HealOptions.hidden_weight,
    weight_decay: Annotated[float, typer.Option(help="Of matrices.", min=0.0)] = HealOptions.weight_decay,
    train: Annotated[
        TrainedName,
        typer.Option(
            help="All weights; norms, out-projections and affine branches; or low-rank adapters, merged in the end."
        ),
    ] = TrainedName.all,
    rank: Annotated[int, typer.Option(help="Of the adapters.", min=1)] = HealOptions.rank,
    evaluate_every: Annotated[
        int, typer.Option(help="Steps between two evaluations on held-out samples.", min=1)
    ] = HealOptions.evaluate_every,
    patience: Annotated[
        int, typer.Option(help="Evaluations in a row without a new best that end the run.", min=1)
    ] = HealOptions.patience,
    device: Annotated[
        str | None,
        typer.Option(help="cpu, cuda or cuda:N (default: a GPU where there is one).", show_default=False),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(
            help="What the report leads with; relative-l2 also heals by that where outputs are logits.",
            metavar="NAME|FILE.py:FUNCTION",
            show_default=False,
        ),
    ] = None,
    force: Force = False,
    weights: Weights = None,
    input_shapes: InputShapes = None,
    allow_pickle: AllowPickle = False,
    seed: Annotated[int, typer.Option(help="Seeds the order of the samples and the adapters.")] = 0,
    threads: Threads = 1,
    rounds: Rounds = 200,
) -> None:
    """Convert by a plan, with self-distillation: the rewrite learns from the model itself; run again to go on."""
    from parallelize.conversion import ConvertOptions

    healing = HealOptions(
        steps=steps,
        epochs=epochs,
        time_limit=time_limit,
        batch_size=batch_size,
        learning_rate=learning_rate,
        hidden_weight=hidden_weight,
        weight_decay=weight_decay,
        train=train.value,
        rank=rank,
        evaluate_every=evaluate_every,
        patience=patience,
        seed=seed,
        device=device,
    )
    options = ConvertOptions(
        plan=_read_plan(plan),
        metric=metric,
        threads=threads,
        rounds=rounds,
        heal=healing,
    )
    _convert(
        model,
        output,
        input_shapes,
        inputs=inputs,
        test_inputs=test_inputs,
        labels=labels,
        mask=mask,
        weights=weights,
        allow_pickle=allow_pickle,
        force=force,
        options=options,
    )


@app.command()
@_reports_errors
def inspect(
    model: Model,
    inputs: Inputs = None,
    weights: Weights = None,
    input_shapes: InputShapes = None,
    allow_pickle: AllowPickle = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """List a model's residual stacks: terms, kinds, signatures, side inputs, and what was refused and why."""
    from rich.console import Console

    from parallelize.cleaning import clean
    from parallelize.inspect import as_dict, print_tables

    program, _ = clean(_load(model, inputs, weights, input_shapes, allow_pickle=allow_pickle))
    if json_output:
        import json

        typer.echo(json.dumps(as_dict(program), indent=1))
        return
    print_tables(program, Console())


@app.command()
@_reports_errors
def draw(
    model: Model,
    output: Annotated[
        Path, typer.Option("-o", "--output", help="File: .svg, .dot, .graphml or .json.", metavar="FILE")
    ],
    plan: Annotated[
        Path | None,
        typer.Option(help="Draw this plan; without it the serial model.", metavar="FILE", show_default=False),
    ] = None,
    inputs: Inputs = None,
    weights: Weights = None,
    input_shapes: InputShapes = None,
    allow_pickle: AllowPickle = False,
    expand: Annotated[bool, typer.Option("--expand", help="Draw every block, repeated ones too.")] = False,
) -> None:
    """Draw a model's schedule as a networkx diagram, level by level, with the critical path marked."""
    from parallelize.cleaning import clean
    from parallelize.diagrams import draw as write
    from parallelize.diagrams import schedule_graph
    from passes.apply_plan import check_fits
    from passes.plan import Plan, serial
    from passes.stacks import find_stacks

    program, _ = clean(_load(model, inputs, weights, input_shapes, allow_pickle=allow_pickle))
    stacks = find_stacks(program.module).stacks
    chosen = Plan(tuple(serial(len(s.terms)) for s in stacks)) if plan is None else _read_plan(plan)
    check_fits(stacks, chosen)
    write(schedule_graph(stacks, chosen, Path(model).name, collapse=not expand), output)
    typer.echo(f"Written to {output}")


@app.command()
@_reports_errors
def passes(name: Annotated[str | None, typer.Argument(help="Show one pass.", show_default=False)] = None) -> None:
    """List the graph passes: what each does, whether it is exact, its parameters."""
    from rich.console import Console

    from parallelize.inspect import print_passes

    print_passes(name, Console())


@app.command()
@_reports_errors
def train(
    output: Annotated[Path, typer.Option("-o", "--output", help="Checkpoint to write.", metavar="FILE.pt")],
    data: Annotated[Path, typer.Option(help="Folder of the Fashion-MNIST IDX files.", metavar="DIR")] = Path(
        "/usr/share/datasets/fashion-mnist"
    ),
    mode: Annotated[Mode, typer.Option(help="Serial, or branches that all read the embedding.")] = Mode.serial,
    branches: Annotated[int, typer.Option(help="Branches of a para-former.", min=1)] = 1,
    depth: Annotated[int, typer.Option(help="Blocks in all.", min=1)] = 12,
    width: Annotated[int, typer.Option(help="Features of the state.", min=1)] = 64,
    heads: Annotated[int, typer.Option(help="Attention heads.", min=1)] = 4,
    hidden: Annotated[int | None, typer.Option(help="Hidden features of an MLP (default: 4 x width).", min=1)] = None,
    patch_size: Annotated[int, typer.Option(help="Pixels of a patch's side.", min=1)] = 4,
    epochs: Annotated[int, typer.Option(help="Passes over the training images.", min=1)] = 18,
    batch_size: Annotated[int, typer.Option(help="Images in a step.", min=1)] = 128,
    learning_rate: Annotated[float, typer.Option(help="Peak of the one-cycle schedule.", min=0.0)] = 2e-3,
    seed: Annotated[int, typer.Option(help="Seeds weights, order and augmentation.")] = 0,
    limit: Annotated[
        int | None, typer.Option(help="Train and test on the first N images only.", min=1, show_default=False)
    ] = None,
) -> None:
    """Train a Para-Former or its serial twin on Fashion-MNIST; run again to go on with a stopped training."""
    from parallelize.progress import reporting
    from parallelize.training import train_model

    sizes = {
        "depth": depth,
        "width": width,
        "heads": heads,
        "hidden": hidden or 4 * width,
        "patch_size": patch_size,
        "mode": mode.value,
        "branches": branches,
    }
    schedule = {"epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate, "seed": seed}
    with reporting() as report:
        top1 = train_model(output, data, sizes, schedule, limit, report)
    typer.echo(f"Written to {output}: top-1 {top1:.2%} on the test images")


def _convert(model: str, output: Path, shapes: list[str] | None, **options: Any) -> None:
    """Convert with a progress line, then print the table, the notes and what was written."""
    from rich.console import Console

    from parallelize.conversion import convert as run
    from parallelize.inputs import parse_input
    from parallelize.progress import reporting
    from parallelize.report import notes, table

    specs = tuple(parse_input(text) for text in shapes or ())
    with reporting() as report:
        conversion = run(model, output, input_specs=specs, report=report, **options)
    console = Console(soft_wrap=False)
    Console(width=max(console.width, TABLE_WIDTH)).print(table(conversion.report))
    for note in notes(conversion.report):
        console.print(f"note: {note}", style="yellow", highlight=False, markup=False)
    console.print(f"Written to {output}: {', '.join(sorted(path.name for path in output.iterdir()))}", highlight=False)


def _numbers(text: str) -> tuple[int, ...]:
    from passes.errors import ParallelizeError

    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ParallelizeError(f"The depths {text!r} are no numbers.", "Give them as in --depths 2,3,6.") from None


def _load(
    model: str, inputs: Path | None, weights: Path | None, shapes: list[str] | None, *, allow_pickle: bool
) -> Any:
    from parallelize.inputs import parse_input, read_arrays
    from parallelize.references import LoadOptions, load_program

    specs = tuple(parse_input(text) for text in shapes or ())
    samples = None if inputs is None else read_arrays(inputs)
    return load_program(model, LoadOptions(weights, specs, allow_pickle), samples)


def _read_plan(path: Path) -> Any:
    from passes.errors import ParallelizeError
    from passes.plan import Plan

    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ParallelizeError(f"The plan {path} cannot be read: {error}.", "Name a plan.json with --plan.") from error
    return Plan.from_json(text)


def _terminated(_signal: int, _frame: FrameType | None) -> NoReturn:
    """Let clean-up run when the process is asked to end."""
    sys.exit(128 + signal.SIGTERM)


def main() -> None:
    """Run the command line."""
    signal.signal(signal.SIGTERM, _terminated)
    if "--debug" in sys.argv:  # accepted behind the command as well
        sys.argv.remove("--debug")
        _Settings.debug = True
    app()
