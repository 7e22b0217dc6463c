"""The command that trains: train."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from paraformer.training.options import TrainingOptions
from parallelize.cli.output import echo
from parallelize.cli.ranks import ranks_of_run
from parallelize.cli.takes import takes
from parallelize.cli.training_options import Beginning, Processes, Samples, Sizes


@takes(samples=Samples, sizes=Sizes, beginning=Beginning, options=TrainingOptions, processes=Processes)
def train(
    output: Annotated[Path, typer.Option("-o", "--output", help="Checkpoint to write.", metavar="FILE.pt")],
    *,
    samples: Samples,
    sizes: Sizes,
    beginning: Beginning,
    options: TrainingOptions,
    processes: Processes,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda or cuda:N (default: a GPU where there is one).", show_default=False)
    ] = None,
    logs: Annotated[
        Path | None, typer.Option(help="Write curves for TensorBoard here.", metavar="DIR", show_default=False)
    ] = None,
) -> None:
    """Train a Para-Former or its serial twin, in one process or several; run again to go on with a stopped training."""
    from parallelize.cli.training import train_model
    from parallelize.terminal.progress import reporting

    with ranks_of_run() as ranks, reporting() as report:
        chosen = train_model(
            output,
            samples,
            sizes,
            beginning,
            options,
            device=device,
            logs=logs,
            report=report,
            ranks=ranks,
            branch_ranks=processes.branch_ranks,
        )
    if chosen.prefixes:
        echo(f"Top-1 of the first branches: {', '.join(f'{share:.2%}' for share in chosen.prefixes)}")
    echo(f"Written to {output}: top-1 {chosen.top1:.2%} on the test samples")
