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

from paraformer.modes import Merge, Mode, Pooling
from parallelize.cli.app import app, register
from parallelize.cli.engines import build, doctor
from parallelize.cli.measuring import bench, compare
from parallelize.cli.options import files_of
from parallelize.cli.output import console, descriptor_alone, echo, print_notes, silent
from parallelize.cli.ranks import first_word_to_rank_0
from parallelize.cli.rewriting import convert, heal, plan
from parallelize.cli.takes import takes
from parallelize.cli.targets import profile_gpu
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


def train(
    output: Annotated[Path, typer.Option("-o", "--output", help="Checkpoint to write.", metavar="FILE.pt")],
    data: Annotated[
        Path, typer.Option(help="IDX files, CIFAR-10, pictures by class, .npz, or texts.", metavar="DIR|FILE")
    ] = Path("/usr/share/datasets/fashion-mnist"),
    mode: Annotated[Mode, typer.Option(help="Serial, or branches that all read the embedding.")] = "serial",
    branches: Annotated[int, typer.Option(help="Branches of a para-former.", min=1)] = 1,
    depth: Annotated[int | None, typer.Option(help="Blocks in all (default: 12).", min=1, show_default=False)] = None,
    branch_depth: Annotated[
        int | None, typer.Option(help="Blocks of each branch, in place of --depth.", min=1, show_default=False)
    ] = None,
    merge: Annotated[
        Merge, typer.Option(help="x and what branches add; their outputs, each with its own x; or their mean.")
    ] = "added",
    pooling: Annotated[Pooling, typer.Option(help="What the head reads: the mean, or a learned token.")] = "mean",
    width: Annotated[int, typer.Option(help="Features of the state.", min=1)] = 64,
    heads: Annotated[int, typer.Option(help="Attention heads.", min=1)] = 4,
    hidden: Annotated[int | None, typer.Option(help="Hidden features of an MLP (default: 4 x width).", min=1)] = None,
    patch_size: Annotated[
        int | None, typer.Option(help="Pixels of a patch's side (default: 4).", min=1, show_default=False)
    ] = None,
    epochs: Annotated[int, typer.Option(help="Passes over the training samples.", min=1)] = 18,
    batch_size: Annotated[int, typer.Option(help="Samples in a step.", min=1)] = 128,
    learning_rate: Annotated[float, typer.Option(help="Peak of the one-cycle schedule.", min=0.0)] = 2e-3,
    seed: Annotated[int, typer.Option(help="Seeds weights, order and augmentation.")] = 0,
    limit: Annotated[
        int | None, typer.Option(help="Train and test on the first N samples only.", min=1, show_default=False)
    ] = None,
) -> None:
    """Train a Para-Former or its serial twin; run again to go on with a stopped training."""
    from parallelize.cli.training import blocks_in_all, train_model
    from parallelize.terminal.progress import reporting

    sizes = {
        "depth": blocks_in_all(depth, branches, branch_depth),
        "width": width,
        "heads": heads,
        "hidden": hidden or 4 * width,
        "patch_size": patch_size,
        "mode": mode,
        "branches": branches,
        "merge": merge,
        "pooling": pooling,
    }
    schedule = {"epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate, "seed": seed}
    with reporting() as report:
        top1 = train_model(output, data, sizes, schedule, limit, report)
    echo(f"Written to {output}: top-1 {top1:.2%} on the test samples")


register(build, doctor, compare, bench, convert, plan, heal, inspect, draw, passes, train, profile_gpu)


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
