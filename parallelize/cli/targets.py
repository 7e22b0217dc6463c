"""The command that makes a target: profile-gpu."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from parallelize.cli.output import console


def profile_gpu(
    output: Annotated[Path, typer.Option("-o", "--output", help="Target to write.", metavar="FILE.json")],
    device: Annotated[
        str | None, typer.Option(help="Such as cuda:1 (default: the first GPU).", metavar="GPU", show_default=False)
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
) -> None:
    """Measure what decides latency on this machine's GPU, for --target on a machine without it; about two minutes."""
    from rich.text import Text

    from parallelize.files.whole_file import require_place
    from parallelize.predicting.profile import profile_gpu as run
    from parallelize.terminal.progress import reporting
    from passes.errors import ParallelizeError

    require_place(output, f"The target {output} cannot be written")
    if output.exists() and not force:
        raise ParallelizeError(f"{output} exists.", "Choose another with -o, or add --force to replace it.")
    with reporting() as report:
        target = run(device, report=report)
    target.write(output)
    shown = console()
    shown.print(Text(f"{target.gpu}: {target.sms} SMs, {', '.join(target.precisions)}", "bold"))
    shown.print(Text(f"Median error {target.error:.1%} on {target.error_of}"))
    shown.print(Text(f"Written to {output}"))
