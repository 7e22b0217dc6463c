"""The commands of engines: build, doctor."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from parallelize.backends.choice import AUTO, choices, where_built
from parallelize.backends.tensorrt.options import BuildOptions
from parallelize.cli.output import console, echo
from parallelize.cli.takes import takes
from parallelize.terminal.option_field import option


@dataclass(frozen=True)
class _Library:
    """What builds the engine."""

    backend: str = option(AUTO, f"{where_built()}; auto takes what builds here.", choices=choices())


@takes(library=_Library, options=BuildOptions)
def build(
    onnx: Annotated[Path, typer.Argument(metavar="FILE.onnx", help="The ONNX model; external weights beside it.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", help="Engine to write (default: FILE.engine).", metavar="FILE", show_default=False
        ),
    ] = None,
    *,
    library: _Library,
    options: BuildOptions,
    plan: Annotated[
        Path | None, typer.Option(help="Keep this plan.json in the sidecar.", metavar="FILE", show_default=False)
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace an existing engine and what has the name of its sidecar.")
    ] = False,
) -> None:
    """Build a TensorRT engine from an ONNX model, check its dtypes, and write it with a sidecar that describes it."""
    import json

    from rich.text import Text

    from parallelize.backends.choice import choose_engine_backend
    from parallelize.backends.tensorrt.sidecar import sidecar_path
    from parallelize.files.plan import read_plan
    from parallelize.inspecting.engine import print_engine
    from parallelize.terminal.progress import reporting
    from passes.errors import ParallelizeError

    target = output or onnx.with_suffix(".engine")
    for path in (target, sidecar_path(target)):
        if path.resolve() == onnx.resolve():
            raise ParallelizeError(f"{path} is the model itself.", "Choose another name for the engine with -o.")
        if path.exists() and not force:
            raise ParallelizeError(f"{path} exists.", "Choose another with -o, or add --force to replace it.")
    choice = choose_engine_backend(library.backend)
    kept = None if plan is None else json.loads(read_plan(plan).to_json())
    with reporting() as report:
        sidecar = choice.backend.build(onnx, target, options, plan=kept, report=report)
    shown = console()
    shown.print(Text(f"backend {choice.backend.name}: {choice.why}"))
    print_engine(sidecar, target, shown, layers=False)
    shown.print(Text(f"Written to {target} and {target.name}.json"))


def doctor(
    json_output: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Say what this machine can do: PyTorch, ONNX Runtime, TensorRT, the GPU; and what to install for the rest."""
    import json

    from parallelize.cli.doctor import examine, print_findings

    findings = examine()
    if json_output:
        echo(json.dumps([vars(finding) for finding in findings], indent=1))
        return
    print_findings(findings, console())
