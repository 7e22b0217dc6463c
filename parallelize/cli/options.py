"""The options that several commands share, each spelled once."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from parallelize.backends.backend import PROGRAM, FileKind
from parallelize.backends.choice import builders, choices
from parallelize.backends.registry import backends, file_kinds
from parallelize.backends.tensorrt.choices import Precision as EnginePrecision
from parallelize.inspecting.files import READERS
from parallelize.metrics.catalogue import known_metrics
from parallelize.terminal.words import listed
from passes.plan import Refit as RefitStrength

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A .pt2, a Para-Former checkpoint .pt, a Hugging Face directory, timm:NAME, package.module:factory,"
        " file.py:factory, or a pickled .pt.",
    ),
]


def _files(kinds: Iterable[FileKind]) -> list[str]:
    """Such as "an .onnx" and "an .engine"."""
    return [f"{kind.what.split()[0]} {kind.suffix}" for kind in kinds]


Inspected = Annotated[
    str, typer.Argument(metavar="MODEL|FILE", help=f"A MODEL as `convert` takes it, {listed(_files(READERS))}.")
]
Weights = Annotated[
    Path | None,
    typer.Option(
        help="State dict or training checkpoint (.pt, .safetensors, an index of shards or a directory of them) for a"
        " factory or timm:NAME.",
        metavar="FILE",
        show_default=False,
    ),
]
WeightsKey = Annotated[
    str | None,
    typer.Option(
        "--weights-key",
        help="Where in the checkpoint the weights are, such as ema.state_dict, where several would fit.",
        metavar="KEY",
        show_default=False,
    ),
]
InputShapes = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        help="Shape of an input, such as 1x3x224x224 or ids:batchx128@int64; a word is a dynamic dimension.",
        metavar="[NAME:]SHAPE[@DTYPE]",
        show_default=False,
    ),
]
AllowPickle = Annotated[bool, typer.Option("--allow-pickle", help="Load a pickled module; that runs code in the file.")]
Inputs = Annotated[
    Path | None,
    typer.Option(
        help="Calibration data: .npz, one array for each input, first axis samples.", metavar="FILE", show_default=False
    ),
]
_METRICS = known_metrics().values()
_CHOICE = [f"{m.name} (default {m.default.where})" if m.default is not None else m.name for m in _METRICS]
NUMBER_METRICS = [m.name for m in _METRICS if m.reads == "numbers"]
MetricName = Annotated[
    str | None,
    typer.Option(
        "--metric",
        help=f"What the search minimises and --max-error limits: {', '.join(_CHOICE)}, or a function of your own.",
        metavar="NAME|FILE.py:FUNCTION",
        show_default=False,
    ),
]
Refit = Annotated[RefitStrength, typer.Option("--refit", help="The strongest closed-form refit a level may get.")]
TimeLimit = Annotated[
    float | None,
    typer.Option(
        "--time-limit",
        help="Measure no more groups of blocks, and no more changes of --refine, after so many seconds.",
        metavar="SECONDS",
        min=0.0,
        show_default=False,
    ),
]
Refine = Annotated[
    int,
    typer.Option(
        "--refine",
        help="Try N small changes of each depth's best schedule as whole networks, and keep those that are better.",
        metavar="N",
        min=0,
    ),
]
OutputDirectory = Annotated[Path, typer.Option("-o", "--output", help="Directory to make.", metavar="DIR")]
TestInputs = Annotated[
    Path | None,
    typer.Option(
        help=".npz to judge on; without it a fifth of --inputs is kept for that.",
        metavar="FILE",
        show_default=False,
    ),
]
LabelsName = Annotated[
    str | None,
    typer.Option(help="Array of class labels in the .npz that judges, for top-1.", metavar="NAME", show_default=False),
]
Force = Annotated[bool, typer.Option("--force", help="Replace an existing output directory.")]
Threads = Annotated[int, typer.Option(help="Threads of ONNX Runtime while timing.", min=1)]
MaskName = Annotated[
    str | None,
    typer.Option(
        "--mask",
        help="Input that is 0 at padding, which then counts in no metric (default: attention_mask).",
        metavar="NAME",
        show_default=False,
    ),
]
Rounds = Annotated[int, typer.Option(help="How often each network is timed.", min=1)]
Seed = Annotated[int, typer.Option(help="Seeds the split of the data.")]


def _known_backend(name: str) -> str:
    if name not in choices():
        raise typer.BadParameter(f"{name!r} is not one of {', '.join(map(repr, choices()))}.")
    return name


_BACKENDS = f"<{'|'.join(choices())}>"
_BUILDERS = ", ".join(f"{b.name} {'on one' if b.needs_gpu else 'builds without a GPU'}" for b in builders())
Backend = Annotated[
    str,
    typer.Option(
        help=f"What model.onnx is compiled with: {_BUILDERS}; auto takes what runs here.",
        metavar=_BACKENDS,
        callback=_known_backend,
    ),
]
EngineBackend = Annotated[
    str,
    typer.Option(help=f"{_BUILDERS}; auto takes what builds here.", metavar=_BACKENDS, callback=_known_backend),
]
Precision = Annotated[
    EnginePrecision | None,
    typer.Option(
        help="Of model.onnx and the engine; inputs and outputs keep their dtypes, norms stay in fp32 (default: the"
        " model's own).",
        show_default=False,
    ),
]
LeastShapes = Annotated[
    list[str] | None,
    typer.Option(
        "--min-shapes",
        help="Least shape of an input of the engine, such as images:1x3x224x224.",
        metavar="NAME:SHAPE",
        show_default=False,
    ),
]
UsualShapes = Annotated[
    list[str] | None,
    typer.Option("--opt-shapes", help="The shape that it is tuned for.", metavar="NAME:SHAPE", show_default=False),
]
LargestShapes = Annotated[
    list[str] | None,
    typer.Option("--max-shapes", help="The largest shape.", metavar="NAME:SHAPE", show_default=False),
]
ComputeCapabilities = Annotated[
    list[str] | None,
    typer.Option(
        "--compute-capability",
        help="GPU that the engine is for, such as 8.9; repeat for more (tensorrt-rtx; default: all portable ones).",
        metavar="X.Y",
        show_default=False,
    ),
]


_BY_SUFFIX = [kind for kind in file_kinds() if kind != PROGRAM]
Artefacts = Annotated[
    list[str],
    typer.Argument(
        metavar="A [B ...]",
        help=f"A MODEL, {', '.join(_files(_BY_SUFFIX))} or a directory of `convert`; ARTEFACT@RUNNER chooses"
        f" {listed([backend.name for backend in backends()])}.",
    ),
]
RealInputs = Annotated[
    Path | None,
    typer.Option(
        "--inputs",
        help="Real data: .npz, one array for each input, first axis samples; without it random numbers.",
        metavar="FILE",
        show_default=False,
    ),
]
Batch = Annotated[
    int | None, typer.Option("--batch", help="Samples at a time.", metavar="N", min=1, show_default=False)
]
JsonFile = Annotated[
    Path | None,
    typer.Option("--json", help="Write every number to FILE, or to the terminal with -.", metavar="FILE|-"),
]
Trust = Annotated[
    bool,
    typer.Option("--trust-engine", help="Load an engine without a sidecar of its hash; an engine is code and runs."),
]
Device = Annotated[
    str | None,
    typer.Option(help="Of torch: cpu or cuda, the first GPU (default: cuda where there is one).", show_default=False),
]
RunnerThreads = Annotated[int, typer.Option("--threads", help="Of runners on the CPU.", min=1)]
