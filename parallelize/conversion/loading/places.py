"""Which file a name stands for, and what runs it.

    out                a directory that `convert` or `heal` wrote: model.pt2, model.onnx or model.engine, by the backend
    model.pt2, .pt     a program, in torch
    model.onnx         ONNX Runtime
    model.engine       the library that built it, as the model.engine.json beside it says

Refused: what is not there; a directory that no conversion wrote, another version's, and one that lacks a part; a
file of another kind, or one that the wanted backend does not take.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from parallelize.backends.backend import PROGRAM, Backend, FileKind
from parallelize.backends.registry import backends, file_kinds, named, takers
from parallelize.conversion.loading.origin import Origin
from parallelize.conversion.result import SCHEMA, Result
from passes.errors import ParallelizeError

REPORT = "report.json"
_PROGRAMS = (PROGRAM.suffix, ".pt", ".pth")
_FILES = "Name a directory that `parallelize convert` wrote, or a .pt2, .onnx or .engine, or a Para-Former's .pt."


@dataclass(frozen=True)
class Place:
    """A file and what runs it."""

    file: Path
    kind: FileKind
    backend: Backend
    origin: Origin


def find(reference: str | os.PathLike[str], backend: str | None = None) -> Place:
    """The file that a name stands for.

    Args:
        reference: a directory or a file.
        backend: name of what is to run it; None is torch for a directory, and for a file the default of its kind.

    Raises:
        ParallelizeError: see the module's docstring.
    """
    path, wanted = Path(reference), _backend(backend)
    if path.is_dir():
        report = _report(path)
        wanted = wanted or takers(PROGRAM)[0]
        kind = wanted.takes[0]
        file = _part(path, kind, wanted)
        return Place(file.resolve(), kind, _taker(file, kind, wanted), Origin(report.model, file, report))
    if not path.exists():
        raise ParallelizeError(f"{path} does not exist.", _FILES)
    file = _engine_of(path)
    found = _kind(file)
    if found is None:
        raise ParallelizeError(f"{path} is no file that can be loaded.", _FILES)
    report_beside = _report_beside(file, found)
    model = str(reference) if report_beside is None else report_beside.model
    return Place(file.resolve(), found, _taker(file, found, wanted), Origin(model, file, report_beside))


def _backend(name: str | None) -> Backend | None:
    if name is None:
        return None
    found = named(name)
    if found is None:
        known = ", ".join(backend.name for backend in backends())
        raise ParallelizeError(f"There is no backend {name!r}.", f"The backends are {known}.")
    return found


def _report(directory: Path) -> Result:
    """The report of a directory of `convert`.

    Raises:
        ParallelizeError: it is none, or another version's, or its report is missing or damaged.
    """
    path = directory / REPORT
    if path.is_file():
        _require_schema(path)
        return Result.from_json(path.read_text(), str(path))
    if (directory / PROGRAM.product).is_file():
        raise ParallelizeError(
            f"{directory} lacks {REPORT}, a part of every conversion.",
            f"Copy the whole directory, or load {directory / PROGRAM.product} alone.",
        )
    if (directory / "frontier.json").is_file():
        raise ParallelizeError(
            f"{directory} holds plans and no model.", f"Convert by one of them: --plan {directory}/plans/NN.json."
        )
    raise ParallelizeError(f"{directory} is no conversion: it has no {REPORT}.", _FILES)


def _require_schema(path: Path) -> None:
    try:
        schema = json.loads(path.read_text())["schema"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ParallelizeError(f"{path} is no report of a conversion.", "Convert the model again.") from error
    if schema != SCHEMA:
        raise ParallelizeError(
            f"{path.parent} was written by another version: {REPORT} has the schema {schema!r}, not {SCHEMA!r}.",
            f"Convert the model again, or load {path.with_name(PROGRAM.product)} alone.",
        )


def _part(directory: Path, kind: FileKind, backend: Backend) -> Path:
    file = directory / kind.product
    if file.is_file():
        return file
    there = [each.product for each in file_kinds() if (directory / each.product).is_file()]
    hint = f"It has {' and '.join(there)}: name another backend." if there else "Convert the model again."
    raise ParallelizeError(f"{directory} has no {kind.product}, which {backend.name} runs.", hint)


def _engine_of(path: Path) -> Path:
    """The file that a sidecar describes, anything else as it is."""
    described = path.with_suffix("")
    return described if path.suffix == ".json" and _kind(described) is not None else path


def _kind(path: Path) -> FileKind | None:
    suffix = path.suffix.lower()
    return PROGRAM if suffix in _PROGRAMS else next((kind for kind in file_kinds() if kind.suffix == suffix), None)


def _taker(file: Path, kind: FileKind, wanted: Backend | None) -> Backend:
    known = takers(kind)
    if wanted is None:
        return next((backend for backend in known if backend.owns(file)), known[0])
    if kind not in wanted.takes:
        raise ParallelizeError(
            f"{wanted.name} does not run {file.name}, which is {kind.what}.",
            f"Its backends are {', '.join(backend.name for backend in known)}.",
        )
    return wanted


def _report_beside(file: Path, kind: FileKind) -> Result | None:
    """The report of the conversion that a file is a part of, where it lies in its directory."""
    beside = file.with_name(REPORT)
    if file.name != kind.product or not beside.is_file():
        return None
    try:
        return _report(file.parent)
    except ParallelizeError:  # the file stands alone as well
        return None
