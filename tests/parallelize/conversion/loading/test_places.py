"""Which file a name stands for, and what is said where it stands for none."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from parallelize.conversion.loading.places import find
from passes.errors import ParallelizeError
from tests.parallelize.conversion.small_result import result


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for folder in ("out", "alone", "plans", "empty", "other"):
        (tmp_path / folder).mkdir()
    for name in (
        "out/model.pt2",
        "out/model.onnx",
        "out/b.onnx",
        "alone/model.pt2",
        "a.pt2",
        "a.pt",
        "a.engine",
        "a.txt",
    ):
        (tmp_path / name).touch()
    (tmp_path / "a.engine.json").write_text(json.dumps({"backend": "tensorrt-rtx"}))
    (tmp_path / "plans" / "frontier.json").write_text("{}")
    (tmp_path / "out" / "report.json").write_text(result().to_json())
    return tmp_path


FOUND = {
    ("out", None): ("model.pt2", "torch", True),
    ("out", "onnxruntime"): ("model.onnx", "onnxruntime", True),
    ("out", "torch-compile"): ("model.pt2", "torch-compile", True),
    ("out/model.onnx", None): ("model.onnx", "onnxruntime", True),
    ("out/b.onnx", None): ("b.onnx", "onnxruntime", False),
    ("a.pt2", None): ("a.pt2", "torch", False),
    ("a.pt", None): ("a.pt", "torch", False),
    ("a.pt2", "onnxruntime"): ("a.pt2", "onnxruntime", False),
    ("a.engine", None): ("a.engine", "tensorrt-rtx", False),
    ("a.engine.json", None): ("a.engine", "tensorrt-rtx", False),
}


@pytest.mark.parametrize("asked", FOUND)
def test_a_name_and_a_backend_tell_the_file(home: Path, asked: tuple[str, str | None]) -> None:
    found = find(*asked)
    assert (found.file.name, found.backend.name, found.origin.report is not None) == FOUND[asked]
    assert found.file.is_absolute()


Damage = Callable[[Path], object]
REFUSED: dict[str, tuple[str, str | None, Damage | None]] = {
    "gone does not exist": ("gone", None, None),
    "empty is no conversion: it has no report.json": ("empty", None, None),
    "plans holds plans and no model": ("plans", None, None),
    "alone lacks report.json, a part of every conversion": ("alone", None, None),
    "a.txt is no file that can be loaded": ("a.txt", None, None),
    "out has no model.engine, which tensorrt-rtx runs": ("out", "tensorrt-rtx", None),
    "out has no model.pt2, which torch runs": ("out", None, lambda out: (out / "model.pt2").unlink()),
    "torch does not run b.onnx, which is an ONNX file": ("out/b.onnx", "torch", None),
    "There is no backend 'tpu'": ("out", "tpu", None),
    "out was written by another version: report.json has the schema 'parallelize-report/9', not": (
        "out",
        None,
        lambda out: (out / "report.json").write_text(result().to_json().replace("report/1", "report/9")),
    ),
    "out/report.json is no report of a conversion": ("out", None, lambda out: (out / "report.json").write_text("[")),
    "out/report.json has no 'model'": (
        "out",
        None,
        lambda out: (out / "report.json").write_text(json.dumps({"schema": "parallelize-report/1"})),
    ),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_is_no_conversion_is_refused_in_a_sentence_with_a_hint(home: Path, message: str) -> None:
    reference, backend, damage = REFUSED[message]
    if damage is not None:
        damage(home / "out")
    with pytest.raises(ParallelizeError, match=message) as caught:
        find(reference, backend)
    assert caught.value.hint


def test_a_file_is_loaded_whatever_is_wrong_with_the_report_beside_it(home: Path) -> None:
    (home / "out" / "report.json").write_text("{}")
    assert find("out/model.pt2").origin.report is None
