"""What a conversion must be faster than, built again from its plan and the model: serial, unfused, fused, deleted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from parallelize.plan_file import read_plan
from parallelize.preparation import Prepared, choose_metric, prepare
from parallelize.program import Program
from parallelize.progress import Report
from parallelize.runners.artefact import Artefact, RunnerOptions
from parallelize.variants import UNFUSED, build_variants
from passes.apply_plan import ApplyPlan, check_fits
from passes.errors import ParallelizeError
from passes.infra import run_passes
from passes.plan import Plan


def rivals(product: Artefact, model: str | None, options: RunnerOptions, report: Report) -> Iterator[Artefact]:
    """The networks of a conversion, each for the runner of its product.

    Args:
        product: a directory that `convert` wrote.
        model: what was converted.
        options: how that is loaded; `inputs` are the samples that refits are fitted on.
        report: told what is being done.

    Raises:
        ParallelizeError: no plan, no model, a plan that does not fit it, or one that asks for a refit without data.
    """
    if product.plan is None:
        raise ParallelizeError(
            f"{product.label} has no plan.json, which --rivals need.", "Name a directory of `parallelize convert`."
        )
    if product.kind == "engine":
        raise ParallelizeError(
            "Rivals of an engine are engines, which are built apart.",
            "Name the directory, or build the rivals and name each .engine.",
        )
    if model is None:
        raise ParallelizeError("--rivals need the model that was converted.", "Name it with --model.")
    plan = read_plan(product.plan)
    if options.inputs is None and any(part.refit != "none" for part in plan.stacks):
        raise ParallelizeError(
            "The plan asks for a refit, which needs data.", "Give the calibration samples with --inputs."
        )
    prepared = prepare(Artefact(model, model, "program", product.runner).loading(options), plan.seed, report)
    check_fits(prepared.stacks.stacks, plan)
    return (Artefact(name, program, "program", product.runner) for name, program in _networks(prepared, plan, report))


def _networks(prepared: Prepared, plan: Plan, report: Report) -> Iterator[tuple[str, Program]]:
    program, data = prepared.program, prepared.data
    metric = choose_metric(None, prepared)
    built = build_variants(program, plan, data.fit, data.held_out, metric, report=lambda what: report(what, None)).items
    yield from ((variant.name, variant.program) for variant in built)
    if all(variant.name != UNFUSED for variant in built):
        module, _ = run_passes(program.module, [ApplyPlan(plan)])
        yield UNFUSED, replace(program, module=module)
