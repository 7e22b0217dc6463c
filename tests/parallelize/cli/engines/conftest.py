"""A working directory with networks as ONNX, for commands on engines."""

from __future__ import annotations

from pathlib import Path

import pytest

from parallelize.export.onnx import write_onnx
from parallelize.export.precision import cast
from passes.fusion.fuse_width import FuseWidth
from passes.runner import run_passes
from passes.schedule.apply_plan import ApplyPlan
from tests.parallelize.small_models import images, pairs, vision


@pytest.fixture(scope="module", autouse=True)
def _rtx() -> None:
    pytest.importorskip("tensorrt_rtx")


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The ONNX of a network with fused pairs, in fp32 and fp16."""
    folder = tmp_path_factory.mktemp("files")
    pixels = tuple(images(2, 0).arrays.values())
    module, _ = run_passes(vision().module, [ApplyPlan(pairs("none")), FuseWidth()], pixels)
    program = type(vision())(module, vision().inputs, vision().outputs, "pairs")
    write_onnx(program, folder / "a.onnx")
    write_onnx(cast(program, "fp16")[0], folder / "half.onnx")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, bytes]) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    return tmp_path
