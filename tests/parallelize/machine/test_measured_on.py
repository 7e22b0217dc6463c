"""Where and when numbers were measured, as they stand in reports."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch

import parallelize
from parallelize.machine.measured_on import _processor, machine, this_machine


def test_this_machine_is_told_with_the_versions_that_compute() -> None:
    found = this_machine(3)
    assert (found.onnxruntime_threads, found.parallelize) == (3, parallelize.__version__)
    assert (found.torch, found.onnxruntime) == (torch.__version__, onnxruntime.__version__)
    assert found.processor
    assert machine(3).keys() == vars(found).keys()
    assert json.loads(json.dumps(machine(3)))["python"] == found.python


def test_the_date_is_of_now_in_utc_to_the_second() -> None:
    date = dt.datetime.fromisoformat(this_machine(1).date)
    assert date.utcoffset() == dt.timedelta(0)
    assert date.microsecond == 0


@pytest.mark.parametrize(
    ("text", "name"),
    [("processor : 0\nmodel name\t: Fast: 3 GHz\nmodel name\t: other\n", "Fast: 3 GHz"), ("Features : fp\n", "arm64")],
)
def test_the_processor_is_the_first_that_the_kernel_names_else_the_architecture(
    monkeypatch: pytest.MonkeyPatch, text: str, name: str
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    monkeypatch.setattr(Path, "read_text", lambda _: text)
    assert _processor() == name


def test_where_the_kernel_tells_nothing_the_system_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: Any) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", absent)
    monkeypatch.setattr("platform.processor", lambda: "")
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    assert _processor() == "arm64"
