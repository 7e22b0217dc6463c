"""The command line. Heavy modules are imported inside the commands, so that --help answers at once."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer

from parallelize.cli.app import app, register
from parallelize.cli.engines import build, doctor
from parallelize.cli.measuring import bench, compare, run
from parallelize.cli.options import files_of
from parallelize.cli.output import console, descriptor_alone, echo, print_notes, silent
from parallelize.cli.ranks import first_word_to_rank_0
from parallelize.cli.rewriting import convert, heal, plan
from parallelize.cli.takes import takes
from parallelize.cli.targets import profile_gpu
from parallelize.cli.train import train
from parallelize.files.plan import read_plan
from parallelize.inspecting.files import READERS, reader
from parallelize.machine.launch import is_silent
from parallelize.machine.waiting import wait_asleep
from parallelize.models.source import Source
from parallelize.terminal.option_field import Spelling, argument
from parallelize.terminal.words import listed

__all__ = ["app", "main"]

_OF_DATA = ("test_inputs", "labels", "mask")  # what is only looked at is not judged


@dataclass(frozen=True)
class _Inspected(Source):
    """A model, or a file that is read as it is."""

    model: str = argument(
        f"A MODEL as `convert` takes it, {listed(files_of(READERS))}.", metavar="MODEL|FILE", spelling=Spelling(str)
    )


@takes(source=_Inspected, without=_OF_DATA)
def inspect(
    source: Source,
    json_output: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """List a model's residual stacks and what was refused and why; an ONNX file's operators; an engine's layers."""
    path = Path(str(source.model))
    read = reader(path)
    if read is not None:
        _require_no_capture(source)
        reading = read(path)
        _echo_json(reading.content) if json_output else reading.show(console())
        return
    from parallelize.inspecting.network import as_dict, print_tables
    from parallelize.models.clean import clean
    from parallelize.models.prepare import looked_at

    raw, notes = looked_at(source)
    program, _ = clean(raw)
    if json_output:
        _echo_json({**as_dict(program), "notes": notes})
        return
    print_tables(program, console())
    print_notes(notes, console())


def _require_no_capture(source: Source) -> None:
    from passes.errors import ParallelizeError

    given = {"--inputs": source.inputs, "--weights": source.weights, "--input": source.input_specs}
    for option in (option for option, value in given.items() if value):
        raise ParallelizeError(
            f"{option} is for a model that is captured, and {source.model} is read as it is.", f"Leave {option} out."
        )


def _echo_json(value: Any) -> None:
    import json

    echo(json.dumps(value, indent=1))


@takes(source=Source, without=_OF_DATA)
def draw(
    source: Source,
    output: Annotated[
        Path, typer.Option("-o", "--output", help="File: .svg, .dot, .graphml or .json.", metavar="FILE")
    ],
    plan: Annotated[
        Path | None,
        typer.Option(help="Draw this plan; without it the serial model.", metavar="FILE", show_default=False),
    ] = None,
    expand: Annotated[bool, typer.Option("--expand", help="Draw every block, repeated ones too.")] = False,
) -> None:
    """Draw a model's schedule as a networkx diagram, level by level, with the critical path marked."""
    from parallelize.inspecting.diagrams import check_suffix, schedule_graph
    from parallelize.inspecting.diagrams import draw as write
    from parallelize.models.clean import clean
    from parallelize.models.prepare import looked_at
    from passes.plan import Plan, serial
    from passes.schedule.apply_plan import check_fits
    from passes.stacks.find import find_stacks

    check_suffix(output)
    raw, notes = looked_at(source)
    program, _ = clean(raw)
    stacks = find_stacks(program.module).stacks
    chosen = Plan(tuple(serial(len(s.terms)) for s in stacks)) if plan is None else read_plan(plan)
    check_fits(stacks, chosen)
    write(schedule_graph(stacks, chosen, Path(str(source.model)).name, collapse=not expand), output)
    print_notes(notes, console())
    echo(f"Written to {output}")


def passes(name: Annotated[str | None, typer.Argument(help="Show one pass.", show_default=False)] = None) -> None:
    """List the graph passes: what each does, whether it is exact, its parameters."""
    from parallelize.inspecting.network import print_passes

    print_passes(name, console())


register(build, doctor, run, compare, bench, convert, plan, heal, inspect, draw, passes, train, profile_gpu)


def _terminated(_signal: int, _frame: FrameType | None) -> NoReturn:
    """Let clean-up run when the process is asked to end."""
    sys.exit(128 + signal.SIGTERM)


def main() -> None:
    """Run the command line."""
    signal.signal(signal.SIGTERM, _terminated)
    if "bench" not in sys.argv[1:]:  # which times torch as it is used elsewhere
        wait_asleep(os.environ)
    hush = silent() if is_silent() and "--debug" not in sys.argv else contextlib.nullcontext()
    with hush, descriptor_alone(), first_word_to_rank_0():
        app()
