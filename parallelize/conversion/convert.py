"""The main job: a model, data and a budget become a directory with the rewritten model and the evidence.

    make       capture -> plan -> rewrite -> refit -> (heal) -> width fusion -> measure      (making)
    build      cast -> ONNX -> (engine)                                                      (engines)
    write      report, diagrams, plan, model                                                 (evidence, writing)

Everything that is reported is measured here: scores on samples that neither fitted nor chose the plan, latencies in
turn in one run, and the ONNX files against the graphs that they were written from.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from paraformer.training.resuming import forget_state
from parallelize.conversion.engines import Built, Work, write_product
from parallelize.conversion.evidence import Evidence
from parallelize.conversion.making import Asked, Made, States, healer_of, heals_together, make
from parallelize.conversion.measured import write_serial
from parallelize.conversion.options import ConvertOptions
from parallelize.conversion.prefix_files import other_products
from parallelize.conversion.result import Result
from parallelize.conversion.scheduling import assist as assist_search
from parallelize.conversion.scheduling import chosen_schedule
from parallelize.conversion.writing import write
from parallelize.data.split import Split
from parallelize.files.whole_directory import beside, output_directory, refuse_foreign
from parallelize.machine.device import CPU
from parallelize.machine.mapped import let_go
from parallelize.machine.ranks import ALONE, Ranks
from parallelize.machine.torch_settings import whole_float32
from parallelize.models.placement import placed
from parallelize.models.program import Program
from parallelize.models.saving import BRANCHES, save_program
from parallelize.models.source import Source
from parallelize.planning.memory import SEARCH_FILE, remove_memory
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
    source, asked = Source.of(model, **data), Asked.of(options)
    target = Path(output)
    states = States(beside(target, "resume"), beside(target, SEARCH_FILE))
    refuse_foreign(target, "report.json", "a conversion")
    with output_directory(target, force=force) as directory:
        job = asked.begin(source, report, ranks)
        made = make(job, report, partial(write_serial, directory=directory, report=report), states, branch_ranks)
        built = _build(made, directory, report)
        report("writing the model", None)
        let_go()
        product = placed(made.variants.product.program, CPU)
        save_program(product, directory / "model.pt2")
        if made.variants.apart is not None and asked.options.branches:
            save_program(placed(made.variants.apart, CPU), directory / BRANCHES)
        report("writing the report", None)
        result = Evidence(job, made.schedule, made.variants, made.measured, built, made.prefixes).result()
        write(result, job.graph, directory)
    _remove(states, asked.options)
    return Conversion(target, product, made.schedule.plan, result)


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
    job = Asked.of(options).begin(source, _silent, ranks)
    if output is not None and heals_together(job):
        plan, data = chosen_schedule(job, _silent).plan, job.prepared.data
        healer = healer_of(job, plan, beside(Path(output), "resume"), _silent, branch_ranks)
        assert healer is not None
        healer(refit(job.prepared.program.module, plan, data.fit, data.held_out))
    assist_search(job)


def _silent(_what: str, _share: float | None) -> None:
    """Report nothing."""


def _remove(states: States, options: ConvertOptions) -> None:
    """What was kept for a run that does not come."""
    if options.heal is not None and states.healing is not None:
        forget_state(states.healing)
    if states.search is not None:
        remove_memory(states.search)


def _build(made: Made, directory: Path, report: Report) -> Built:
    """Write the product anew in the precision that was asked for, and build the engine where one was.

    That is work of the host: half precision is judged by its arithmetic, whatever device has searched.
    """
    job, variants, data = made.job, made.variants, made.job.prepared.data
    work = Work(
        product=placed(variants.product.program, CPU),
        serial=placed(job.prepared.program, CPU),
        directory=directory,
        options=job.options.engine,
        choice=job.choice,
        data=Split(data.fit.on(CPU), data.held_out.on(CPU), data.judge.on(CPU)),
        onnx_error=made.measured.comparisons[variants.product.name].error,
        plan=json.loads(variants.plan.to_json()),
        others=other_products(made.prefixes, variants.apart),
    )
    return write_product(work, report)
