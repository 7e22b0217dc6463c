"""The commands that run networks: run, compare, bench."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from parallelize.cli.options import Artefact, Artefacts, JsonFile, RealInputs
from parallelize.cli.output import console, echo, print_facts, print_notes, print_table
from parallelize.cli.ranks import ranks_of_run
from parallelize.cli.takes import takes
from parallelize.measuring.options import BenchOptions, CompareOptions
from parallelize.measuring.run_options import RunFileOptions

_STDOUT = Path("-")


@takes(options=RunFileOptions)
def run(
    artefact: Artefact,
    inputs: Annotated[
        Path, typer.Option("--inputs", help="Samples: .npz, one array for each input, first axis samples.")
    ],
    *,
    options: RunFileOptions,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="File for the outputs by name.", metavar="FILE.npz", show_default=False),
    ] = None,
) -> None:
    """Run a network over a file of samples; under torchrun its branches are spread over the processes."""
    from parallelize.measuring.run import run as run_file
    from parallelize.measuring.run_report import facts, notes
    from parallelize.terminal.progress import reporting

    _require_npz(output)
    with ranks_of_run() as ranks, reporting() as report:
        result = run_file(artefact, inputs, output, options=options, report=report, ranks=ranks)
    print_notes(notes(result), print_facts(facts(result)))
    if output is not None:
        echo(f"Written to {output}")


def _require_npz(output: Path | None) -> None:
    from passes.errors import ParallelizeError

    if output is not None and output.suffix != ".npz":
        raise ParallelizeError(f"The file of outputs {output} is no .npz.", "Name it FILE.npz.")


@takes(options=CompareOptions)
def compare(
    artefacts: Artefacts, inputs: RealInputs = None, *, options: CompareOptions, json_file: JsonFile = None
) -> None:
    """Compare the outputs of networks on the same inputs; the first is the reference."""
    from parallelize.measuring.compare import compare as run
    from parallelize.measuring.compare_report import as_dict, notes, tables
    from parallelize.terminal.progress import reporting

    _require_places(json_file)
    with reporting() as report:
        result = run(*artefacts, inputs=inputs, options=options, report=report)
    if json_file is not None:
        _write_json(as_dict(result), json_file)
    if json_file != _STDOUT:
        for table in tables(result):
            print_table(table)
        print_notes(notes(result), console())
    result.check()


@takes(options=BenchOptions)
def bench(
    artefacts: Artefacts,
    inputs: RealInputs = None,
    *,
    options: BenchOptions,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Chart to write.", metavar="FILE.svg", show_default=False)
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """Time networks in turn on the same inputs; speed-ups are against the first."""
    from parallelize.measuring.bench import bench as run
    from parallelize.measuring.bench_report import as_dict, notes, plot, table
    from parallelize.terminal.progress import reporting

    _require_svg(output)
    _require_places(json_file, output)
    with reporting() as report:
        result = run(*artefacts, inputs=inputs, options=options, report=report)
    if json_file is not None:
        _write_json(as_dict(result), json_file)
    if output is not None:
        _write(output, lambda path: plot(result, path))
    if json_file != _STDOUT:
        print_notes(notes(result), print_table(table(result)))


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
