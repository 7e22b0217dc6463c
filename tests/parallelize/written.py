"""Files of small models, written once for all tests that read them."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import torch

from parallelize.backends.tensorrt.build import build
from parallelize.export.onnx import write_onnx
from parallelize.models.capture import export
from tests.parallelize.small_models import vision


@functools.cache
def _files(depth: int, suffix: str) -> dict[str, bytes]:
    """What belongs to the vision transformer of some depth in a form, by what follows its name."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if suffix == ".pt2":
            torch.export.save(export(vision(depth)), folder / "a.pt2")
        if suffix == ".onnx":
            write_onnx(vision(depth), folder / "a.onnx")
        if suffix == ".engine":
            write(folder / "a.onnx", depth)
            build(folder / "a.onnx", folder / "a.engine", "tensorrt-rtx")
            (folder / "a.onnx").unlink()
        return {path.name.removeprefix("a"): path.read_bytes() for path in folder.iterdir()}


def write(path: Path, depth: int = 4) -> Path:
    """Write `vision(depth)` as its suffix says, .pt2, .onnx, or .engine for TensorRT for RTX with its sidecar."""
    for suffix, content in _files(depth, path.suffix).items():
        (path.parent / f"{path.stem}{suffix}").write_bytes(content)
    return path
