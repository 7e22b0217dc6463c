"""The commands of engines: build, doctor."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from parallelize.backends.choice import AUTO
from parallelize.backends.tensorrt.choices import HardwareCompatibility
from parallelize.backends.tensorrt.choices import Precision as EnginePrecision
from parallelize.cli.app import app, reports_errors
from parallelize.cli.options import (
    ComputeCapabilities,
    EngineBackend,
    LargestShapes,
    LeastShapes,
    UsualShapes,
)
from parallelize.cli.output import console, echo


@app.command()
@reports_errors
def build(
    onnx: Annotated[Path, typer.Argument(metavar="FILE.onnx", help="The ONNX model; external weights beside it.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", help="Engine to write (default: FILE.engine).", metavar="FILE", show_default=False
        ),
    ] = None,
    backend: EngineBackend = AUTO,
    precision: Annotated[
        EnginePrecision | None,
        typer.Option(
            help="What the products must run in: the ONNX must have it and the engine is checked for it; tf32 lets"
            " products of float32 be rounded (default: as the ONNX says, without tf32).",
            show_default=False,
        ),
    ] = None,
    min_shapes: LeastShapes = None,
    opt_shapes: UsualShapes = None,
    max_shapes: LargestShapes = None,
    workspace: Annotated[
        int | None, typer.Option(help="MiB of scratch memory for a layer (default: all).", min=1, show_default=False)
    ] = None,
    optimization_level: Annotated[
        int | None,
        typer.Option(
            "--builder-optimization-level", help="How long to search for tactics.", min=0, max=5, show_default=False
        ),
    ] = None,
    max_aux_streams: Annotated[
        int | None,
        typer.Option(help="Streams beside the main one; 0 is one stream only.", min=0, show_default=False),
    ] = None,
    timing_cache: Annotated[
        Path | None,
        typer.Option(help="Take timings from FILE and keep them there (tensorrt).", metavar="FILE", show_default=False),
    ] = None,
    version_compatible: Annotated[
        bool, typer.Option("--version-compatible", help="Run on later versions too (tensorrt).")
    ] = False,
    hardware_compatibility: Annotated[
        HardwareCompatibility, typer.Option("--hardware-compatibility-level", help="Run on other GPUs too (tensorrt).")
    ] = "none",
    compute_capability: ComputeCapabilities = None,
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
    from parallelize.backends.tensorrt.options import BuildOptions
    from parallelize.backends.tensorrt.profiles import ShapeOptions
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
    options = BuildOptions(
        precision=precision,
        shapes=ShapeOptions.parse(min_shapes, opt_shapes, max_shapes),
        workspace=workspace,
        optimization_level=optimization_level,
        max_aux_streams=max_aux_streams,
        timing_cache=timing_cache,
        version_compatible=version_compatible,
        hardware_compatibility=hardware_compatibility,
        compute_capabilities=tuple(compute_capability or ()),
    )
    choice = choose_engine_backend(backend)
    kept = None if plan is None else json.loads(read_plan(plan).to_json())
    with reporting() as report:
        sidecar = choice.backend.build(onnx, target, options, plan=kept, report=report)
    shown = console()
    shown.print(Text(f"backend {choice.backend.name}: {choice.why}"))
    print_engine(sidecar, target, shown, layers=False)
    shown.print(Text(f"Written to {target} and {target.name}.json"))


@app.command()
@reports_errors
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
