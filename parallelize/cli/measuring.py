"""The commands that measure: compare, bench."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from parallelize.cli.app import app, reports_errors
from parallelize.cli.options import (
    AllowPickle,
    Artefacts,
    Batch,
    Device,
    InputShapes,
    JsonFile,
    RealInputs,
    RunnerThreads,
    Trust,
    Weights,
    WeightsKey,
)
from parallelize.cli.output import console, echo, print_notes, print_table

_STDOUT = Path("-")


@app.command()
@reports_errors
def compare(
    artefacts: Artefacts,
    inputs: RealInputs = None,
    atol: Annotated[
        float | None,
        typer.Option(help="Fail where |d| is over ATOL + RTOL |reference|.", metavar="ATOL", min=0, show_default=False),
    ] = None,
    rtol: Annotated[float | None, typer.Option(help="See --atol.", metavar="RTOL", min=0, show_default=False)] = None,
    quantile: Annotated[float, typer.Option(help="Of the errors, beside their median.", min=0, max=1)] = 0.99,
    batch: Batch = None,
    by_level: Annotated[
        bool, typer.Option("--by-level", help="Compare the states of residual stacks and name the first that differs.")
    ] = False,
    threshold: Annotated[
        float, typer.Option(help="Relative L2 error over which a state counts as different.", min=0)
    ] = 1e-3,
    json_file: JsonFile = None,
    weights: Weights = None,
    weights_key: WeightsKey = None,
    input_shapes: InputShapes = None,
    allow_pickle: AllowPickle = False,
    trust: Trust = False,
    device: Device = None,
    threads: RunnerThreads = 1,
    seed: Annotated[int, typer.Option(help="Seeds random inputs.")] = 0,
) -> None:
    """Compare the outputs of networks on the same inputs; the first is the reference."""
    from parallelize.measuring.compare import CompareOptions
    from parallelize.measuring.compare import compare as run
    from parallelize.measuring.compare_report import as_dict, notes, tables
    from parallelize.terminal.progress import reporting

    _require_places(json_file)
    options = CompareOptions(
        atol=atol,
        rtol=rtol,
        quantile=quantile,
        batch=batch,
        seed=seed,
        by_level=by_level,
        threshold=threshold,
        runner=_runner(
            weights, weights_key, input_shapes, threads, device, allow_pickle=allow_pickle, trust=trust, tf32=False
        ),
    )
    with reporting() as report:
        result = run(*artefacts, inputs=inputs, options=options, report=report)
    if json_file is not None:
        _write_json(as_dict(result), json_file)
    if json_file != _STDOUT:
        for table in tables(result):
            print_table(table)
        print_notes(notes(result), console())
    result.check()


@app.command()
@reports_errors
def bench(
    artefacts: Artefacts,
    inputs: RealInputs = None,
    batch: Batch = None,
    warm_up: Annotated[float, typer.Option(help="Of each network, not counted.", metavar="MS", min=0)] = 200,
    duration: Annotated[
        float, typer.Option(help="Of each network, counted; ten calls at least.", metavar="SECONDS", min=0)
    ] = 3,
    percentile: Annotated[str, typer.Option(help="Of the times.", metavar="P,P,...")] = "50,90,99",
    cuda_graph: Annotated[
        bool, typer.Option("--cuda-graph/--no-cuda-graph", help="Hold a call's kernels in a CUDA graph on a GPU.")
    ] = True,
    rivals: Annotated[
        bool,
        typer.Option("--rivals", help="Of a directory of `convert`: time serial, unfused, fused and deleted as well."),
    ] = False,
    model: Annotated[
        str | None,
        typer.Option(help="What that directory was converted from, for --rivals.", metavar="MODEL", show_default=False),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Chart to write.", metavar="FILE.svg", show_default=False)
    ] = None,
    json_file: JsonFile = None,
    weights: Weights = None,
    weights_key: WeightsKey = None,
    input_shapes: InputShapes = None,
    allow_pickle: AllowPickle = False,
    trust: Trust = False,
    device: Device = None,
    threads: RunnerThreads = 1,
    seed: Annotated[int, typer.Option(help="Seeds random inputs.")] = 0,
) -> None:
    """Time networks in turn on the same inputs; speed-ups are against the first."""
    from parallelize.measuring.bench import BenchOptions
    from parallelize.measuring.bench import bench as run
    from parallelize.measuring.bench_report import as_dict, notes, plot, table
    from parallelize.terminal.progress import reporting

    _require_svg(output)
    _require_places(json_file, output)
    options = BenchOptions(
        warm_up=warm_up,
        duration=duration,
        percentiles=_percentiles(percentile),
        batch=batch,
        cuda_graph=cuda_graph,
        seed=seed,
        rivals=rivals,
        model=model,
        runner=_runner(
            weights, weights_key, input_shapes, threads, device, allow_pickle=allow_pickle, trust=trust, tf32=True
        ),
    )
    with reporting() as report:
        result = run(*artefacts, inputs=inputs, options=options, report=report)
    if json_file is not None:
        _write_json(as_dict(result), json_file)
    if output is not None:
        _write(output, lambda path: plot(result, path))
    if json_file != _STDOUT:
        print_notes(notes(result), print_table(table(result)))


def _runner(
    weights: Path | None,
    weights_key: str | None,
    shapes: list[str] | None,
    threads: int,
    device: str | None,
    *,
    allow_pickle: bool,
    trust: bool,
    tf32: bool,
) -> Any:
    from parallelize.backends.runner import RunnerOptions
    from parallelize.data import parse_inputs

    return RunnerOptions(
        threads=threads,
        device=device,
        tf32=tf32,
        trust=trust,
        weights=weights,
        weights_key=weights_key,
        input_specs=parse_inputs(shapes),
        allow_pickle=allow_pickle,
    )


def _percentiles(text: str) -> tuple[float, ...]:
    from passes.errors import ParallelizeError

    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or not all(0 <= share <= 100 for share in found):
        raise ParallelizeError(f"The percentiles {text!r} are not numbers from 0 to 100.", "Use --percentile 50,90,99.")
    return found


def _require_svg(output: Path | None) -> None:
    from passes.errors import ParallelizeError

    if output is not None and output.suffix != ".svg":
        raise ParallelizeError(f"The chart {output} is no .svg.", "Name it FILE.svg.")


def _require_places(*files: Path | None) -> None:
    """Refuse before the run what cannot be written after it."""
    from parallelize.files.whole_file import require_place

    for file in files:
        if file is not None and file != _STDOUT:
            require_place(file, _failed(file))


def _failed(file: Path) -> str:
    return f"{file} cannot be written"


def _write_json(content: Mapping[str, Any], file: Path) -> None:
    import json

    text = json.dumps(content, indent=1, allow_nan=False)
    if file == _STDOUT:
        echo(text)
        return
    _write(file, lambda path: path.write_text(f"{text}\n"))


def _write(file: Path, write: Callable[[Path], object]) -> None:
    from parallelize.files.whole_file import output_file

    with output_file(file, _failed(file)) as temporary:
        write(temporary)
    typer.echo(f"Written to {file}", err=True)
