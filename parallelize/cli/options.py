"""What several commands take beside the fields of dataclasses: where they read from and write to."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from parallelize.backends.backend import PROGRAM, FileKind
from parallelize.backends.registry import backends, file_kinds
from parallelize.terminal.words import listed


def files_of(kinds: Iterable[FileKind]) -> list[str]:
    """Such as "an .onnx" and "an .engine"."""
    return [f"{kind.what.split()[0]} {kind.suffix}" for kind in kinds]


OutputDirectory = Annotated[Path, typer.Option("-o", "--output", help="Directory to make.", metavar="DIR")]
Force = Annotated[bool, typer.Option("--force", help="Replace an existing output directory.")]


_BY_SUFFIX = [kind for kind in file_kinds() if kind != PROGRAM]
_WHAT = (
    f"A MODEL, {', '.join(files_of(_BY_SUFFIX))} or a directory of `convert`; ARTEFACT@RUNNER chooses"
    f" {listed([backend.name for backend in backends()])}."
)
Artefact = Annotated[str, typer.Argument(metavar="ARTEFACT", help=_WHAT)]
Artefacts = Annotated[list[str], typer.Argument(metavar="A [B ...]", help=_WHAT)]
RealInputs = Annotated[
    Path | None,
    typer.Option(
        "--inputs",
        help="Real data: .npz, one array for each input, first axis samples; without it random numbers.",
        metavar="FILE",
        show_default=False,
    ),
]
JsonFile = Annotated[
    Path | None,
    typer.Option("--json", help="Write every number to FILE, or to the terminal with -.", metavar="FILE|-"),
]
