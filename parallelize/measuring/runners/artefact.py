"""An artefact: what a user names to be compared or timed, and the runner that is to run it.

    model.pt2   out/   timm:vit_tiny_patch16_224   model.onnx   model.engine       in the runner of its kind
    model.pt2@torch-compile   model.onnx@onnxruntime-cuda   out@onnxruntime        in a runner by its name

A directory that `convert` wrote stands for its model.pt2, model.onnx or model.engine, whichever the runner takes. An
engine runs in the library that built it: @tensorrt names either library, @tensorrt-rtx that one alone.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from parallelize.backends.tensorrt.library import TENSORRT
from parallelize.backends.tensorrt.sidecar import sidecar_path
from parallelize.data import InputSpec
from parallelize.models.prepare import Source
from parallelize.models.program import Program
from passes.errors import ParallelizeError

FileKind = Literal["program", "onnx", "engine"]
TAKES: dict[str, tuple[FileKind, ...]] = {
    "torch": ("program",),
    "torch-compile": ("program",),
    "onnxruntime": ("onnx", "program"),
    "onnxruntime-cuda": ("onnx", "program"),
    "tensorrt": ("engine",),
    "tensorrt-rtx": ("engine",),
}
RUNNERS = tuple(TAKES)
_DEFAULT: dict[FileKind, str] = {"program": "torch", "onnx": "onnxruntime"}
_IN_DIRECTORY: dict[FileKind, str] = {"program": "model.pt2", "onnx": "model.onnx", "engine": "model.engine"}
_LATER_GPU = re.compile(r"cuda:0*[1-9]\d*", re.ASCII)
_SPELLED = re.compile(r"(?P<reference>.+)@(?P<runner>[a-z][a-z-]*)", re.DOTALL)


@dataclass(frozen=True)
class RunnerOptions:
    """How artefacts are loaded and run.

    Attributes:
        threads: of runners on the CPU.
        device: of torch: cpu or cuda; None is a GPU where there is one. A GPU is the first one, which engines and
            ONNX Runtime take too, and whose clock is read.
        tf32: whether float32 products on a GPU may be rounded to TF32.
        trust: load engines that no sidecar vouches for.
        inputs: .npz that tells the shapes of a factory's inputs.
        weights: state dict for a factory or timm:NAME.
        weights_key: the key under which `weights` holds them, where several would fit.
        input_specs: shapes of the inputs of a factory.
        allow_pickle: load a pickled module.

    Raises:
        ParallelizeError: a device that is another GPU than the first.
    """

    threads: int = 1
    device: str | None = None
    tf32: bool = False
    trust: bool = False
    inputs: Path | None = None
    weights: Path | None = None
    input_specs: tuple[InputSpec, ...] = ()
    allow_pickle: bool = False
    weights_key: str | None = None

    def __post_init__(self) -> None:
        if self.device is not None and _LATER_GPU.fullmatch(self.device):
            raise ParallelizeError(
                f"Networks are compared and timed on the first GPU, not on {self.device!r}.",
                "Use --device cuda, and choose the GPU by CUDA_VISIBLE_DEVICES in the environment.",
            )


@dataclass(frozen=True)
class Artefact:
    """What is to be run.

    Attributes:
        label: what the user called it.
        source: a program, or a path or reference.
        kind: what runners take it.
        runner: the one that runs it.
    """

    label: str
    source: Program | str
    kind: FileKind
    runner: str

    @property
    def path(self) -> Path | None:
        """The file, where it is one."""
        return Path(self.source) if isinstance(self.source, str) and Path(self.source).is_file() else None

    @property
    def plan(self) -> Path | None:
        """The plan.json that `convert` wrote beside the model."""
        beside = None if self.path is None else self.path.with_name("plan.json")
        is_product = self.path is not None and self.path.name in _IN_DIRECTORY.values()
        return beside if is_product and beside is not None and beside.is_file() else None

    def loading(self, options: RunnerOptions) -> Source:
        """The program to capture; options that only a reference to code can use are for those."""
        plain = isinstance(self.source, Program) or self.source.endswith(".pt2")
        weights, specs = (None, ()) if plain else (options.weights, options.input_specs)
        return Source(
            self.source,
            options.inputs,
            weights=weights,
            weights_key=options.weights_key,
            input_specs=specs,
            allow_pickle=options.allow_pickle,
        )


def parse_artefact(given: str | os.PathLike[str] | Program) -> Artefact:
    """Tell what a user named.

    Raises:
        ParallelizeError: an unknown runner, one that does not take this kind, or a file that does not exist.
    """
    if isinstance(given, Program):
        return Artefact(given.origin, given, "program", "torch")
    text = os.fspath(given)
    reference, runner = _split(text)
    directory = Path(reference)
    if (directory / "report.json").is_file() or (directory / "model.pt2").is_file():
        kind: FileKind = "program" if runner is None else TAKES[runner][0]
        return _existing(text, directory / _IN_DIRECTORY[kind], kind, runner)
    suffix = directory.suffix.lower()
    if suffix in (".onnx", ".engine"):
        return _existing(text, directory, "onnx" if suffix == ".onnx" else "engine", runner)
    return _fits(Artefact(text, reference, "program", runner or "torch"))


def _split(text: str) -> tuple[str, str | None]:
    """A reference and the runner behind its @, where there is one."""
    found = _SPELLED.fullmatch(text)
    if found is None or Path(text).exists():
        return text, None
    if found["runner"] not in TAKES:
        raise ParallelizeError(
            f"There is no runner {found['runner']!r}.", f"Spell it as MODEL@RUNNER with one of {', '.join(RUNNERS)}."
        )
    return found["reference"], found["runner"]


def _existing(label: str, path: Path, kind: FileKind, runner: str | None) -> Artefact:
    if not path.is_file():
        raise ParallelizeError(f"{path} does not exist.", "Check the path.")
    if runner is None or (runner == TENSORRT and kind == "engine"):
        runner = _library(path) if kind == "engine" else _DEFAULT[kind]
    return _fits(Artefact(label, str(path), kind, runner))


def _library(engine: Path) -> str:
    """The library that an engine's sidecar names; without one, the one that most engines are of."""
    try:
        backend = json.loads(sidecar_path(engine).read_text())["backend"]
    except (OSError, ValueError, KeyError, TypeError):
        return TENSORRT  # whoever opens the engine says what is wrong with the sidecar
    return backend if backend in TAKES else TENSORRT


def _fits(artefact: Artefact) -> Artefact:
    if artefact.kind in TAKES[artefact.runner]:
        return artefact
    takers = ", ".join(name for name, kinds in TAKES.items() if artefact.kind in kinds)
    what = {"program": "a program", "onnx": "an ONNX file", "engine": "an engine"}[artefact.kind]
    raise ParallelizeError(
        f"{artefact.runner} does not run {artefact.label}, which is {what}.", f"Its runners are {takers}."
    )
