"""What a conversion must be faster than, built again from its plan and the model: serial, unfused, fused, deleted.

Rivals of an engine are engines of the same library, precision and shapes. Branches that stay side by side are built a
second time with auxiliary streams, which is what TensorRT offers for them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from parallelize.backends.artefact import Artefact
from parallelize.backends.backend import PROGRAM
from parallelize.backends.runner_options import RunnerOptions
from parallelize.backends.tensorrt.backend import EngineBackend
from parallelize.backends.tensorrt.options import BuildOptions
from parallelize.backends.tensorrt.profiles import ShapeOptions
from parallelize.backends.tensorrt.sidecar import Sidecar
from parallelize.baselines.networks import UNFUSED, each_network
from parallelize.export.onnx import write_onnx
from parallelize.export.precision import cast
from parallelize.export.precision_result import PrecisionResult
from parallelize.files.plan import read_plan
from parallelize.files.typed_json import from_plain
from parallelize.machine.device import choose_device
from parallelize.metrics.choice import choose_metric
from parallelize.models.prepare import Prepared, prepare
from parallelize.models.program import Program
from parallelize.terminal.progress import Report
from passes.errors import ParallelizeError
from passes.plan import Plan
from passes.runner import run_passes
from passes.schedule.apply_plan import ApplyPlan, check_fits

_THREE = ("least", "usual", "largest")  # shapes of a profile


@dataclass(frozen=True)
class _Built:
    """What of a report tells how the product was cast."""

    precision: PrecisionResult


@dataclass(frozen=True)
class _Report:
    """The part of a conversion's report.json that is read; `parallelize.conversion.result` has all of it."""

    backend: _Built


def rivals(
    product: Artefact, model: str | None, options: RunnerOptions, folder: Path, report: Report
) -> Iterator[Artefact]:
    """The networks of a conversion, each for the backend of its product.

    Args:
        product: a directory that `convert` wrote.
        model: what was converted.
        options: how that is loaded; `inputs` are the samples that refits are fitted on.
        folder: where engines are built.
        report: told what is being done.

    Raises:
        EnvironmentLackError: the product is an engine, and there is no GPU that runs it.
        ParallelizeError: no plan, no model, a plan that does not fit it, or one that asks for a refit without data.
    """
    if product.plan is None:
        raise ParallelizeError(
            f"{product.label} has no plan.json, which --rivals need.", "Name a directory of `parallelize convert`."
        )
    if model is None:
        raise ParallelizeError("--rivals need the model that was converted.", "Name it with --model.")
    plan = read_plan(product.plan)
    if options.inputs is None and any(part.refit != "none" for part in plan.stacks):
        raise ParallelizeError(
            "The plan asks for a refit, which needs data.", "Give the calibration samples with --inputs."
        )
    prepared = prepare(options.loading(model), plan.seed, report, choose_device(options.device))
    check_fits(prepared.stacks.stacks, plan)
    networks = _cast(_networks(prepared, plan, report), product)
    backend = product.backend
    if PROGRAM in backend.takes:
        return (Artefact(name, program, PROGRAM, backend) for name, program in networks)
    if not isinstance(backend, EngineBackend):
        raise ParallelizeError(
            f"{backend.name} runs no program, so that there are no rivals of {product.label}.", "Leave out --rivals."
        )
    with backend.load(Path(str(product.source)), trust=options.trust) as engine:
        sidecar = engine.sidecar
    if sidecar is None:
        raise ParallelizeError(
            f"{product.label} has no sidecar, which tells how its rivals are to be built.", "Leave out --rivals."
        )
    branches = max((len(level.chains) for part in plan.stacks for level in part.levels), default=1)
    return _engines(networks, backend, sidecar, branches - 1, folder, report)


def _cast(networks: Iterator[tuple[str, Program]], product: Artefact) -> Iterator[tuple[str, Program]]:
    """The networks in the precision of a product that is no program, with the same parts in fp32, by its report."""
    assert product.path is not None
    report = product.path.with_name("report.json")
    if product.kind == PROGRAM or not report.is_file():
        return networks
    precision = from_plain(_Report, json.loads(report.read_text()), str(report)).backend.precision
    kept = precision.kept_in_fp32
    if kept is None:
        return networks
    return ((name, cast(program, precision.dtype, None, [kept])[0]) for name, program in networks)


def _networks(prepared: Prepared, plan: Plan, report: Report) -> Iterator[tuple[str, Program]]:
    program, data = prepared.program, prepared.data
    metric = choose_metric(None, prepared.program, prepared.data.judge)
    names = []
    for network in each_network(program, plan, data.fit, data.held_out, metric, report=lambda what: report(what, None)):
        names.append(network.name)
        yield network.name, network.program
        del network  # before the next one is made
    if UNFUSED not in names:
        module, _ = run_passes(program.module, [ApplyPlan(plan)])
        yield UNFUSED, replace(program, module=module)


def _engines(
    networks: Iterator[tuple[str, Program]],
    backend: EngineBackend,
    sidecar: Sidecar,
    streams: int,
    folder: Path,
    report: Report,
) -> Iterator[Artefact]:
    """Engines of all networks, as the product's was built; branches side by side also with so many more streams."""
    shapes = ShapeOptions(*({p.name: getattr(p, which) for p in sidecar.profiles} for which in _THREE))
    flags = sidecar.flags
    options = BuildOptions(
        precision=sidecar.precision,
        shapes=shapes,
        workspace=flags["workspace_mib"],
        optimization_level=flags["optimization_level"],
        max_aux_streams=flags["max_aux_streams"],
        version_compatible=flags["version_compatible"],
        hardware_compatibility=flags["hardware_compatibility"],
        compute_capabilities=sidecar.targets if not backend.needs_gpu else (),
    )
    for number, (name, program) in enumerate(networks):
        report(f"building the engine of {name}", None)
        onnx = folder / f"{number}.onnx"
        write_onnx(program, onnx)
        ways = {name: options}
        if name == UNFUSED:
            ways = {f"{name}, {n} auxiliary streams": replace(options, max_aux_streams=n) for n in (0, streams)}
        for title, way in ways.items():
            path = folder / f"{number}-{way.max_aux_streams}{backend.builds.suffix}"
            backend.build(onnx, path, way, report=report)
            yield Artefact(title, str(path), backend.builds, backend)
