"""What a conversion must be faster than, built again from its plan and the model: serial, unfused, fused, deleted.

Rivals of an engine are engines of the same library, precision and shapes. Branches that stay side by side are built a
second time with auxiliary streams, which is what TensorRT offers for them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from parallelize.backends.tensorrt.build import build
from parallelize.backends.tensorrt.engine import Engine
from parallelize.backends.tensorrt.library import RTX
from parallelize.backends.tensorrt.options import BuildOptions
from parallelize.backends.tensorrt.profiles import ShapeOptions
from parallelize.backends.tensorrt.sidecar import Sidecar
from parallelize.onnx_export import write_onnx
from parallelize.plan_file import read_plan
from parallelize.precision import cast
from parallelize.preparation import Prepared, choose_metric, prepare
from parallelize.program import Program
from parallelize.progress import Report
from parallelize.runners.artefact import Artefact, RunnerOptions
from parallelize.variants import UNFUSED, build_variants
from passes.apply_plan import ApplyPlan, check_fits
from passes.errors import ParallelizeError
from passes.infra import run_passes
from passes.plan import Plan

_THREE = ("least", "usual", "largest")  # shapes of a profile


def rivals(
    product: Artefact, model: str | None, options: RunnerOptions, folder: Path, report: Report
) -> Iterator[Artefact]:
    """The networks of a conversion, each for the runner of its product.

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
    prepared = prepare(Artefact(model, model, "program", "torch").loading(options), plan.seed, report)
    check_fits(prepared.stacks.stacks, plan)
    networks = _networks(prepared, plan, report)
    if product.kind != "engine":
        return (Artefact(name, program, "program", product.runner) for name, program in networks)
    with Engine(Path(str(product.source)), trust=options.trust, backend=product.runner) as engine:
        sidecar = engine.sidecar
    if sidecar is None:
        raise ParallelizeError(
            f"{product.label} has no sidecar, which tells how its rivals are to be built.", "Leave out --rivals."
        )
    return _engines(networks, sidecar, folder, report)


def _networks(prepared: Prepared, plan: Plan, report: Report) -> Iterator[tuple[str, Program]]:
    program, data = prepared.program, prepared.data
    metric = choose_metric(None, prepared)
    built = build_variants(program, plan, data.fit, data.held_out, metric, report=lambda what: report(what, None)).items
    yield from ((variant.name, variant.program) for variant in built)
    if all(variant.name != UNFUSED for variant in built):
        module, _ = run_passes(program.module, [ApplyPlan(plan)])
        yield UNFUSED, replace(program, module=module)


def _engines(
    networks: Iterator[tuple[str, Program]], sidecar: Sidecar, folder: Path, report: Report
) -> Iterator[Artefact]:
    """Engines of all networks, as the product's was built."""
    shapes = ShapeOptions(*({p.name: getattr(p, which) for p in sidecar.profiles} for which in _THREE))
    options = BuildOptions(
        precision=sidecar.precision,  # type: ignore[arg-type]  # a sidecar is read from a file
        shapes=shapes,
        compute_capabilities=sidecar.targets if sidecar.backend == RTX else (),
    )
    for number, (name, program) in enumerate(networks):
        report(f"building the engine of {name}", None)
        onnx = folder / f"{number}.onnx"
        half = sidecar.precision in ("fp16", "bf16")
        write_onnx(cast(program, sidecar.precision)[0] if half else program, onnx)  # type: ignore[arg-type]
        for title, streams in ((name, 0), (f"{name}, auxiliary streams", None)):
            if streams is None and name != UNFUSED:
                continue
            path = folder / f"{number}-{streams}.engine"
            build(onnx, path, sidecar.backend, replace(options, max_aux_streams=streams), report=report)
            yield Artefact(title, str(path), "engine", sidecar.backend)
