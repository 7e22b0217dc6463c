"""The main job: a model, data and a budget become a directory with the rewritten model and the evidence.

    begin      capture -> clean -> find stacks                                    (job)
    schedule   plan, by search or as it was asked for                             (scheduling)
    networks   rewrite -> refit -> (heal) -> width fusion, and what to compare with, one after another
    measure    scores, ONNX of each, latency of all                               (measured)
    build      cast -> ONNX -> (engine)                                           (engines)
    write      report, diagrams, plan, model                                      (evidence, writing)

Where there is nothing to schedule, as in a network that is parallel already, the steps from plan to heal are left out.

Everything that is reported is measured here: scores on samples that neither fitted nor chose the plan, latencies in
turn in one run, and the ONNX files against the graphs that they were written from.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from paraformer.training.resuming import forget_state
from parallelize.baselines.networks import Heal, Networks, Variants, each_network, fused_networks
from parallelize.baselines.prefixes import Prefixes
from parallelize.conversion.engine_options import require_timing, settle
from parallelize.conversion.engines import Built, Work, write_product
from parallelize.conversion.evidence import Evidence
from parallelize.conversion.goal import Replay, goal_of
from parallelize.conversion.job import Job, begin
from parallelize.conversion.measured import Measured, measure, write_serial
from parallelize.conversion.options import ConvertOptions
from parallelize.conversion.prefix_files import find_prefixes, other_products, stems
from parallelize.conversion.prefix_options import asked_prefixes
from parallelize.conversion.result import Result
from parallelize.conversion.scheduling import Schedule, chosen_schedule
from parallelize.conversion.scheduling import assist as assist_search
from parallelize.conversion.writing import write
from parallelize.data.split import Split
from parallelize.files.whole_directory import beside, output_directory, refuse_foreign
from parallelize.healing.heal import Healed, heal
from parallelize.machine.device import CPU
from parallelize.machine.mapped import let_go
from parallelize.machine.ranks import ALONE, Ranks
from parallelize.machine.torch_settings import whole_float32
from parallelize.metrics import find_metric
from parallelize.metrics.choice import choose_metric
from parallelize.models.network import NetworkFacts
from parallelize.models.placement import placed
from parallelize.models.program import Program
from parallelize.models.saving import BRANCHES, save_program
from parallelize.models.source import Source
from parallelize.planning.memory import SEARCH_FILE, remove_memory
from parallelize.refitting.records import Refitted
from parallelize.refitting.refit import refit
from parallelize.terminal.progress import Report
from passes.plan import Plan

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from parallelize.models.source import Data, Model


@dataclass(frozen=True)
class Conversion:
    """What a conversion made.

    Attributes:
        output: the directory.
        program: the rewritten, refitted and fused model.
        plan: its plan.
        report: what was found, as it stands in report.json.
    """

    output: Path
    program: Program
    plan: Plan
    report: Result


@whole_float32()
def convert(
    model: Model | Source,
    output: str | os.PathLike[str],
    *,
    options: ConvertOptions | None = None,
    force: bool = False,
    report: Report = lambda _what, _share: None,
    ranks: Ranks = ALONE,
    branch_ranks: int = 1,
    **data: Unpack[Data],
) -> Conversion:
    """Rewrite a model's depth into width and write the result with its evidence to a directory.

    Args:
        model: a reference as on the command line, a captured program, or a module in eval mode with `example`; or a
            `parallelize.Source`, which holds the data too.
        output: directory to make.
        options: plan, budget and the rest. What a search measures and the state of a healing are kept in files beside
            `output`, named after it with `.search.resume` and `.resume` behind, so that the same call goes on with a
            run that was killed; a conversion that succeeds removes them.
        force: replace an existing directory.
        report: told what is being done.
        ranks: the processes that measure what a search asks for, or heal by a plan that is given, of which this is the
            first; the others call `assist`.
        branch_ranks: how many of them share the branches in a healing; all by so many share the samples of each step.
        data: what a `parallelize.Source` has beside the model: `inputs`, .npz of calibration samples, `test_inputs`,
            `labels`, `mask`, `example`, `weights`, `weights_key`, `input_specs` and `allow_pickle`.

    Raises:
        ParallelizeError: with one sentence and a hint; `output` is then as it was before.
    """
    source, options = Source.of(model, **data), _with_metric(options or ConvertOptions())
    goal, choice = goal_of(options), settle(options.engine)
    require_timing(goal, choice, options.target)
    asked_prefixes(options)  # what is spelled wrong is refused before the long work
    target = Path(output)
    state_file, search_file = beside(target, "resume"), beside(target, SEARCH_FILE)
    refuse_foreign(target, "report.json", "a conversion")
    with output_directory(target, force=force) as directory:
        job = begin(source, goal, options, choice, report, ranks)
        shared = write_serial(job.prepared.program, directory, report)
        schedule = chosen_schedule(job, report, search_file)
        if not _heals_together(job):
            ranks.dismiss()
        prefixes = find_prefixes(job, schedule)
        healer = _healer(job, schedule.plan, state_file, report, branch_ranks)
        networks = _networks(job, schedule, prefixes, healer, report)
        variants, measured = measure(job, networks, shared, directory, report, stems(prefixes))
        let_go()
        built = _build(job, variants, prefixes, measured, directory, report)
        report("writing the model", None)
        let_go()
        product = placed(variants.product.program, CPU)
        save_program(product, directory / "model.pt2")
        if options.branches:
            save_program(placed(variants.apart, CPU), directory / BRANCHES)
        report("writing the report", None)
        result = Evidence(job, schedule, variants, measured, built, prefixes).result()
        write(result, job.graph, directory)
    if options.heal is not None:
        forget_state(state_file)
    remove_memory(search_file)
    return Conversion(target, product, schedule.plan, result)


@whole_float32()
def assist(
    source: Source,
    options: ConvertOptions,
    ranks: Ranks,
    output: str | os.PathLike[str] | None = None,
    branch_ranks: int = 1,
) -> None:
    """On another rank than the first: measure what the search of `convert` hands out there, or heal with it.

    Args:
        source: the same model and data as there.
        options: the same as there.
        ranks: the processes.
        output: the directory that is made there, where a healing is shared.
        branch_ranks: the same as there.

    Raises:
        ParallelizeError: what `convert` would raise before its search, or another model or other data than there.
    """
    options = _with_metric(options)
    goal, choice = goal_of(options), settle(options.engine)
    require_timing(goal, choice, options.target)
    job = begin(source, goal, options, choice, _silent, ranks)
    if output is not None and _heals_together(job):
        plan, data = chosen_schedule(job, _silent).plan, job.prepared.data
        healer = _healer(job, plan, beside(Path(output), "resume"), _silent, branch_ranks)
        assert healer is not None
        healer(refit(job.prepared.program.module, plan, data.fit, data.held_out))
    assist_search(job)


def _silent(_what: str, _share: float | None) -> None:
    """Report nothing."""


def _heals_together(job: Job) -> bool:
    """Whether all ranks heal; behind a search the first does so alone."""
    return job.ranks.size > 1 and job.options.heal is not None and isinstance(job.goal, Replay)


def _with_metric(options: ConvertOptions) -> ConvertOptions:
    """Load a metric of the user's own before anything takes time."""
    return options if options.metric is None else replace(options, metric=find_metric(options.metric))


def _networks(job: Job, schedule: Schedule, prefixes: Prefixes | None, healer: Heal | None, report: Report) -> Networks:
    """The rewrite in its stages and what it is compared with, or the fused network where nothing is scheduled."""
    program, data, search = job.prepared.program, job.prepared.data, schedule.search
    if schedule.unscheduled is not None:
        return fused_networks(program, schedule.plan, data.held_out, prefixes)
    return each_network(
        program,
        schedule.plan,
        data.fit,
        data.held_out,
        None if job.prepared.random else job.metric,
        search.chosen.refitted if search is not None and job.options.refit != "none" else None,
        lambda what: report(what, None),
        healer,
        prefixes,
    )


def _healer(job: Job, plan: Plan, state_file: Path, report: Report, branch_ranks: int) -> Heal | None:
    """Heals a rewrite as the options say, on the samples that fit; those held out choose its weights.

    By KL where the metric reads logits; a metric of the user's own does not say, so there the outputs decide.
    """
    if job.options.heal is None:
        return None
    program, data = job.prepared.program, job.prepared.data
    like = job.metric if job.metric.function is None else choose_metric(None, program, data.judge)
    healing = partial(
        heal,
        teacher=program.module,
        plan=plan,
        fit=data.fit,
        held_out=data.held_out,
        options=job.options.heal,
        device=job.device,
        logits=like.reads_logits,
        state_file=state_file,
        report=report,
    )
    if not _heals_together(job):
        return healing

    def together(refitted: Refitted) -> Healed:
        from paraformer.training.joined_shares import JoinedShares

        with job.ranks.together():
            healed = healing(refitted, shares=JoinedShares(job.device, branch_ranks), local=job.ranks.local)
        if job.ranks.rank == 0:
            job.ranks.dismiss()
        return healed

    return together


def _build(
    job: Job,
    variants: Variants[NetworkFacts],
    prefixes: Prefixes | None,
    measured: Measured,
    directory: Path,
    report: Report,
) -> Built:
    """Write the product anew in the precision that was asked for, and build the engine where one was.

    That is work of the host: half precision is judged by its arithmetic, whatever device has searched.
    """
    data = job.prepared.data
    work = Work(
        product=placed(variants.product.program, CPU),
        serial=placed(job.prepared.program, CPU),
        directory=directory,
        options=job.options.engine,
        choice=job.choice,
        data=Split(data.fit.on(CPU), data.held_out.on(CPU), data.judge.on(CPU)),
        onnx_error=measured.comparisons[variants.product.name].error,
        plan=json.loads(variants.plan.to_json()),
        others=other_products(prefixes, variants.apart),
    )
    return write_product(work, report)
