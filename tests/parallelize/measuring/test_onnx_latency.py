"""ONNX files are timed in turn, all open at once while they are small, each loaded for its turns otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest

from parallelize.measuring import onnx_latency
from parallelize.measuring.onnx_latency import onnx_latencies
from parallelize.measuring.timing import TURNS
from tests.parallelize.small_models import images
from tests.parallelize.written import write


@pytest.mark.parametrize(("most", "opened"), [(1 << 30, ["a", "b"]), (0, ["a", "b"] * TURNS)])
def test_files_are_opened_once_while_they_are_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int, opened: list[str]
) -> None:
    seen: list[str] = []

    class Session(onnx_latency.OnnxRuntime):
        def __init__(self, model: Path, threads: int) -> None:
            seen.append(model.stem)
            super().__init__(model, threads)

    monkeypatch.setattr(onnx_latency, "OnnxRuntime", Session)
    monkeypatch.setattr(onnx_latency, "AT_ONCE", most)
    files = {name: write(tmp_path / f"{name}.onnx") for name in "ab"}
    found, reloaded = onnx_latencies(files, images(2, 0), 3, 1)
    assert seen == opened
    assert reloaded == (most == 0)
    assert {name: latency.rounds for name, latency in found.items()} == {"a": 3, "b": 3}
