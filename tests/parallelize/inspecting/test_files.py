"""Files that are read as they are: which reader a name has, and what it tells as JSON and as tables."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from parallelize.backends.backend import ONNX
from parallelize.backends.tensorrt.backend import ENGINE
from parallelize.inspecting.files import READERS, Reading, reader
from passes.errors import ParallelizeError
from tests.parallelize.backends.tensorrt.sidecars import FULL, put
from tests.parallelize.onnx_models import mlp


def read(path: Path) -> Reading:
    found = reader(path)
    assert found is not None
    return found(path)


def shown(reading: Reading) -> str:
    console = Console(file=io.StringIO(), width=200)
    reading.show(console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_reader_goes_by_the_end_of_the_name_and_what_is_captured_has_none() -> None:
    assert reader(Path("a.onnx")) is reader(Path("B.ONNX")) is READERS[ONNX]
    assert reader(Path("a.engine")) is READERS[ENGINE]
    assert [reader(Path(name)) for name in ("a.pt2", "a", "onnx", "a.onnx.json", "a.engine.json")] == [None] * 5


def test_an_onnx_file_is_read_with_its_products(tmp_path: Path) -> None:
    reading = read(mlp(tmp_path / "a.onnx"))
    assert [product["node"] for product in reading.content["products"]] == ["first", "second"]
    assert "first" in shown(reading)


def test_an_engine_is_told_by_its_sidecar_which_must_be_its_own(tmp_path: Path) -> None:
    put(tmp_path / "a.engine")
    reading = read(tmp_path / "a.engine")
    assert reading.content["version"] == FULL.version
    assert FULL.version in shown(reading)
    (tmp_path / "a.engine").write_bytes(b"another engine")
    with pytest.raises(ParallelizeError, match=r"a\.engine"):
        read(tmp_path / "a.engine")


@pytest.mark.parametrize("name", ["absent.onnx", "absent.engine"])
def test_a_file_that_is_not_there_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ParallelizeError, match=name):
        read(tmp_path / name)
