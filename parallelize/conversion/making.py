"""The way from a model to its networks, measured: what `convert` writes to files and `rewrite` keeps in memory.

    begin      capture -> clean -> find stacks                                    (job)
    schedule   plan, by search or as it was asked for                             (scheduling)
    networks   rewrite -> refit -> (heal) -> width fusion, and what to compare with, one after another
    measure    scores; of files also ONNX against graph, and latency              (measured)

Where there is nothing to schedule, as in a network that is parallel already, the steps from plan to heal are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from parallelize.backends.backend import Backend
from parallelize.backends.choice import Choice
from parallelize.baselines.networks import Heal, Networks, Variants, each_network, fused_networks
from parallelize.baselines.prefixes import Prefixes
from parallelize.conversion.engine_options import require_timing, settle
from parallelize.conversion.goal import Goal, Replay, goal_of
from parallelize.conversion.job import Job, begin
from parallelize.conversion.measured import Measured, OnnxFiles, measure
from parallelize.conversion.options import ConvertOptions
from parallelize.conversion.prefix_files import find_prefixes, stems
from parallelize.conversion.prefix_options import asked_prefixes
from parallelize.conversion.scheduling import Schedule, chosen_schedule
from parallelize.healing.heal import Healed, heal
from parallelize.machine.mapped import let_go
from parallelize.machine.ranks import ALONE, Ranks
from parallelize.metrics import find_metric
from parallelize.metrics.choice import choose_metric
from parallelize.models.network import NetworkFacts
from parallelize.models.program import Program
from parallelize.models.source import Source
from parallelize.refitting.records import Refitted
from parallelize.terminal.progress import Report
from passes.plan import Plan


@dataclass(frozen=True)
class Asked:
    """What is asked for, with all refused that needs no model.

    Attributes:
        options: with a metric of the user's own loaded.
        choice: the backend, and why it was taken.
    """

    goal: Goal
    options: ConvertOptions
    choice: Choice[Backend]

    @staticmethod
    def of(options: ConvertOptions | None) -> Asked:
        """What these options ask for.

        Raises:
            EnvironmentLackError: this machine lacks what they need.
            ParallelizeError: they contradict each other.
        """
        options = options or ConvertOptions()
        if options.metric is not None:
            options = replace(options, metric=find_metric(options.metric))
        goal, choice = goal_of(options), settle(options.engine)
        require_timing(goal, choice, options.target)
        asked_prefixes(options)  # what is spelled wrong is refused before the long work
        return Asked(goal, options, choice)

    def begin(self, source: Source, report: Report, ranks: Ranks = ALONE) -> Job:
        """Prepare model and data."""
        return begin(source, self.goal, self.options, self.choice, report, ranks)


@dataclass(frozen=True)
class States:
    """Files in which a run that is killed leaves what the next one goes on from; None keeps nothing."""

    healing: Path | None = None
    search: Path | None = None


@dataclass(frozen=True)
class Made:
    """The networks of a job, what was measured of them, and the prefixes that were asked for among them."""

    job: Job
    schedule: Schedule
    variants: Variants[NetworkFacts]
    measured: Measured
    prefixes: Prefixes | None = None


def make(
    job: Job,
    report: Report,
    files: Callable[[Program], OnnxFiles] | None = None,
    states: States = States(),  # frozen
    branch_ranks: int = 1,
) -> Made:
    """Schedule, rewrite, refit, heal, fuse and measure.

    Args:
        job: what to make.
        report: told what is being done.
        files: begins the ONNX files with the serial network; None writes none.
        states: what to keep meanwhile; the caller removes it.
        branch_ranks: how many of the job's processes share the branches in a healing.

    Raises:
        ParallelizeError: with one sentence and a hint.
    """
    begun = None if files is None else files(job.prepared.program)
    schedule = chosen_schedule(job, report, states.search)
    if not heals_together(job):
        job.ranks.dismiss()
    prefixes = find_prefixes(job, schedule)
    healer = healer_of(job, schedule.plan, states.healing, report, branch_ranks)
    networks = _networks(job, schedule, prefixes, healer, report)
    variants, measured = measure(job, networks, begun, report, stems(prefixes))
    let_go()
    return Made(job, schedule, variants, measured, prefixes)


def heals_together(job: Job) -> bool:
    """Whether all ranks heal; behind a search the first does so alone."""
    return job.ranks.size > 1 and job.options.heal is not None and isinstance(job.goal, Replay)


def _networks(job: Job, schedule: Schedule, prefixes: Prefixes | None, healer: Heal | None, report: Report) -> Networks:
    """The rewrite in its stages and what it is compared with, or the fused network where nothing is scheduled."""
    program, data, search = job.prepared.program, job.prepared.data, schedule.search
    keeps_apart = job.options.branches or prefixes is not None
    if schedule.unscheduled is not None:
        return fused_networks(program, schedule.plan, data.held_out, prefixes, keeps_apart=keeps_apart)
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
        keeps_apart=keeps_apart,
    )


def healer_of(job: Job, plan: Plan, state_file: Path | None, report: Report, branch_ranks: int) -> Heal | None:
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
    if not heals_together(job):
        return healing

    def together(refitted: Refitted) -> Healed:
        from paraformer.training.joined_shares import JoinedShares

        with job.ranks.together():
            healed = healing(refitted, shares=JoinedShares(job.device, branch_ranks), local=job.ranks.local)
        if job.ranks.rank == 0:
            job.ranks.dismiss()
        return healed

    return together
