"""The commands that rewrite a model: convert, plan, heal."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from parallelize.cli.options import Force, OutputDirectory
from parallelize.cli.output import print_facts, print_notes, print_table
from parallelize.cli.ranks import ranks_of_run
from parallelize.cli.takes import takes
from parallelize.cli.training_options import Processes
from parallelize.conversion.options import ConvertOptions
from parallelize.exploring.options import PlanOptions
from parallelize.files.plan import read_plan
from parallelize.healing.options import HealOptions
from parallelize.machine.ranks import Ranks
from parallelize.measuring.options import OWN_METRIC, MeasureOptions
from parallelize.metrics.catalogue import known_metrics
from parallelize.metrics.metric import Metric
from parallelize.models.source import Source
from parallelize.planning.options import MemoryOptions
from parallelize.terminal.option_field import Spelling, option
from parallelize.terminal.words import listed


@takes(source=Source, options=ConvertOptions)
def convert(source: Source, output: OutputDirectory, *, options: ConvertOptions, force: Force = False) -> None:
    """Rewrite a model's depth into width: capture, plan, rewrite, refit, fuse, export, compare, time."""
    with ranks_of_run() as ranks:
        if ranks.rank:
            from parallelize.conversion.convert import assist

            assist(source, options, ranks)
        else:
            _convert(source, output, options, force=force, ranks=ranks)


@takes(source=Source, options=PlanOptions, without=("test_inputs",))
def plan(source: Source, output: OutputDirectory, *, options: PlanOptions, force: Force = False) -> None:
    """Search only: what each depth costs in accuracy and gains in latency, beside deletion to the same depth."""
    with ranks_of_run() as ranks:
        if ranks.rank:
            from parallelize.exploring.explore import assist

            assist(source, options, ranks)
        else:
            _plan(source, output, options, force=force, ranks=ranks)


def _plan(source: Source, output: Path, options: PlanOptions, *, force: bool, ranks: Ranks) -> None:
    """Search with a progress line, then print the table."""
    from parallelize.exploring.explore import explore, table
    from parallelize.terminal.progress import reporting

    with reporting() as report:
        content = explore(source, output, options, force=force, report=report, ranks=ranks)
    print_table(table(content)).print(
        f"Written to {output}; take one: parallelize convert ... --plan {output}/plans/NN.json", highlight=False
    )


_NUMBERS = [metric.name for metric in known_metrics().values() if metric.reads == "numbers"]


@dataclass(frozen=True, kw_only=True)
class _HealedMeasures(MeasureOptions, MemoryOptions):
    """A plan is given, so the metric decides nothing."""

    metric: Metric | str | None = option(
        None,
        f"What the report leads with; {listed(_NUMBERS, 'and')} also heal by relative L2 where outputs could be"
        " logits.",
        metavar=OWN_METRIC,
        spelling=Spelling(str | None),
    )


@takes(source=Source, healing=HealOptions, measures=_HealedMeasures, processes=Processes)
def heal(
    source: Source,
    plan: Annotated[Path, typer.Option(help="The plan.json to rewrite by.", metavar="FILE")],
    output: OutputDirectory,
    *,
    healing: HealOptions,
    measures: MeasureOptions,
    processes: Processes,
    force: Force = False,
) -> None:
    """Convert by a plan, with self-distillation: the rewrite learns from the model itself; run again to go on."""
    with ranks_of_run() as ranks:
        from paraformer.training.shares import check_ranks

        check_ranks(ranks.size, processes.branch_ranks)
        options = ConvertOptions(read_plan(plan), heal=healing, device=healing.device, **vars(measures))
        if ranks.rank:
            from parallelize.conversion.convert import assist

            assist(source, options, ranks, output, processes.branch_ranks)
        else:
            _convert(source, output, options, force=force, ranks=ranks, branch_ranks=processes.branch_ranks)


def _convert(
    source: Source, output: Path, options: ConvertOptions, *, force: bool, ranks: Ranks, branch_ranks: int = 1
) -> None:
    """Convert with a progress line, then print the table, the notes and what was written."""
    from rich.text import Text

    from parallelize.conversion.convert import convert as run
    from parallelize.conversion.notes import facts, notes
    from parallelize.conversion.table import table
    from parallelize.terminal.progress import reporting

    with reporting() as report:
        conversion = run(
            source, output, options=options, force=force, report=report, ranks=ranks, branch_ranks=branch_ranks
        )
    console = print_facts(facts(conversion.report))
    print_table(table(conversion.report))
    print_notes(notes(conversion.report), console)
    console.print(Text(f"Written to {output}: {', '.join(sorted(path.name for path in output.iterdir()))}"))
