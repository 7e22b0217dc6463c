"""Files that `inspect` reads as they are, each kind in its way: no capture, no GPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from parallelize.backends.backend import ONNX, FileKind
from parallelize.backends.tensorrt.backend import ENGINE


@dataclass(frozen=True)
class Reading:
    """What was read of a file.

    Attributes:
        content: for JSON.
        show: prints it as tables.
    """

    content: Mapping[str, Any]
    show: Callable[[Console], None]


def _onnx(path: Path) -> Reading:
    from parallelize.export.onnx_file import read_onnx
    from parallelize.inspecting.engine import onnx_as_dict, print_onnx

    model = read_onnx(path)
    return Reading(onnx_as_dict(model), lambda console: print_onnx(model, console))


def _engine(path: Path) -> Reading:
    """By its sidecar, which has its hash."""
    from parallelize.backends.tensorrt.sidecar import read_sidecar
    from parallelize.inspecting.engine import engine_as_dict, print_engine

    sidecar = read_sidecar(path)
    return Reading(engine_as_dict(sidecar), lambda console: print_engine(sidecar, path, console))


READERS: Mapping[FileKind, Callable[[Path], Reading]] = {ONNX: _onnx, ENGINE: _engine}


def reader(path: Path) -> Callable[[Path], Reading] | None:
    """What reads a file of this suffix; None where it is to be captured."""
    return next((read for kind, read in READERS.items() if kind.suffix == path.suffix.lower()), None)
