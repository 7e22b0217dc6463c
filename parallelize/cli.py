"""The command line. Heavy modules are imported inside the commands, so that --help answers at once.

Exit codes: 0 done, 1 a check failed, 2 wrong usage or input, 3 the machine lacks something, 4 a bug.
"""

from __future__ import annotations

import functools
import signal
import sys
import traceback
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn, ParamSpec

import typer

from parallelize import __version__

P = ParamSpec("P")
BUG = 4

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


class MetricName(str, Enum):
    """Spelled as in parallelize.metrics, without importing torch."""

    kl = "kl"
    relative_l2 = "relative-l2"
    disagreement = "disagreement"
    top1_drop = "top1-drop"


class RefitName(str, Enum):
    """Spelled as in passes.plan."""

    none = "none"
    affine = "affine"
    full = "full"


class Mode(str, Enum):
    """Modes of a Para-Former."""

    serial = "serial"
    para_former = "para-former"


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


Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A .pt2, a Para-Former checkpoint .pt, a Hugging Face directory, timm:NAME, package.module:factory,"
        " file.py:factory, or a pickled .pt.",
    ),
]
Weights = Annotated[
    Path | None,
    typer.Option(
        help="State dict (.pt or .safetensors) for a factory or timm:NAME.", metavar="FILE", show_default=False
    ),
]
InputShapes = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        help="Shape of an input, such as 1x3x224x224 or ids:batchx128@int64; a word is a dynamic dimension.",
        metavar="[NAME:]SHAPE[@DTYPE]",
        show_default=False,
    ),
]
AllowPickle = Annotated[bool, typer.Option("--allow-pickle", help="Load a pickled module; that runs code in the file.")]
Inputs = Annotated[
    Path | None,
    typer.Option(
        help="Calibration data: .npz, one array for each input, first axis samples.", metavar="FILE", show_default=False
    ),
]


@app.command()
@_reports_errors
def convert(
    model: Model,
    output: Annotated[Path, typer.Option("-o", "--output", help="Directory to make.", metavar="DIR")],
    inputs: Inputs = None,
    test_inputs: Annotated[
        Path | None,
        typer.Option(
            help=".npz to judge on; without it a fifth of --inputs is kept for that.",
            metavar="FILE",
            show_default=False,
        ),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            help="Array of class labels in the .npz that judges, for top-1.", metavar="NAME", show_default=False
        ),
    ] = None,
    depth: Annotated[
        int | None, typer.Option(help="The best schedule of at most N blocks.", metavar="N", min=1, show_default=False)
    ] = None,
    max_error: Annotated[
        float | None,
        typer.Option(
            help="The shallowest schedule whose --metric is at most E on held-out data (default: 0.02).",
            metavar="E",
            min=0.0,
            show_default=False,
        ),
    ] = None,
    plan: Annotated[Path | None, typer.Option(help="Replay a plan.json.", metavar="FILE", show_default=False)] = None,
    metric: Annotated[
        MetricName | None,
        typer.Option(
            help="What the search minimises and --max-error limits (default: kl for logits, else relative-l2).",
            show_default=False,
        ),
    ] = None,
    refit: Annotated[RefitName, typer.Option(help="The strongest closed-form refit a level may get.")] = RefitName.full,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing output directory.")] = False,
    weights: Weights = None,
    input_shapes: InputShapes = None,
    allow_pickle: AllowPickle = False,
    seed: Annotated[int, typer.Option(help="Seeds the split of the data.")] = 0,
    threads: Annotated[int, typer.Option(help="Threads of ONNX Runtime while timing.", min=1)] = 1,
    rounds: Annotated[int, typer.Option(help="How often each network is timed.", min=1)] = 200,
) -> None:
    """Rewrite a model's depth into width: capture, plan, rewrite, refit, fuse, export, compare, time."""
    from rich.console import Console

    from parallelize.conversion import ConvertOptions
    from parallelize.conversion import convert as run
    from parallelize.inputs import parse_input
    from parallelize.progress import reporting
    from parallelize.report import notes, table

    options = ConvertOptions(
        plan=None if plan is None else _read_plan(plan),
        depth=depth,
        max_error=max_error,
        metric=None if metric is None else metric.value,
        refit=refit.value,
        seed=seed,
        threads=threads,
        rounds=rounds,
    )
    with reporting() as report:
        conversion = run(
            model,
            output,
            inputs=inputs,
            test_inputs=test_inputs,
            labels=labels,
            weights=weights,
            input_specs=tuple(parse_input(text) for text in input_shapes or ()),
            allow_pickle=allow_pickle,
            force=force,
            options=options,
            report=report,
        )
    console = Console(soft_wrap=False)
    console.print(table(conversion.report))
    for note in notes(conversion.report):
        console.print(f"note: {note}", style="yellow", highlight=False, markup=False)
    console.print(
        f"Written to {output}: {', '.join(sorted(path.name for path in Path(output).iterdir()))}", highlight=False
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
