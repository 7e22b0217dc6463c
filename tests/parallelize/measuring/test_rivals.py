"""Rivals of a product are cast as it was, which its report tells."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from parallelize.backends.artefact import Artefact
from parallelize.backends.backend import ONNX
from parallelize.backends.onnxruntime.backend import ONNXRUNTIME
from parallelize.measuring.rivals import _cast
from passes.errors import ParallelizeError
from tests.parallelize.conversion.small_result import result
from tests.parallelize.small_models import vision


def _dtypes(folder: Path) -> set[torch.dtype]:
    """Of the weights of a network that is a rival of the product in a directory."""
    (folder / ONNX.product).touch()
    product = Artefact("out", str(folder / ONNX.product), ONNX, ONNXRUNTIME)
    ((name, program),) = _cast(iter([("serial", vision())]), product)
    assert name == "serial"
    return {value.dtype for value in program.module.state_dict().values() if value.is_floating_point()}


def _report(folder: Path, **precision: object) -> None:
    content = result().as_dict()
    content["backend"]["precision"] |= precision
    (folder / "report.json").write_text(json.dumps(content))


def test_networks_are_cast_as_the_report_of_the_product_says(tmp_path: Path) -> None:
    assert _dtypes(tmp_path) == {torch.float32}
    _report(tmp_path)
    assert _dtypes(tmp_path) == {torch.float32}
    _report(tmp_path, dtype="bf16", kept_in_fp32={"norms": True, "softmax": True, "state": False})
    assert torch.bfloat16 in _dtypes(tmp_path)


def test_a_report_of_another_form_is_refused_by_its_place(tmp_path: Path) -> None:
    _report(tmp_path, kept_in_fp32={"norms": 3})
    with pytest.raises(ParallelizeError, match=r"report\.json\.backend\.precision\.kept_in_fp32\.norms is 3"):
        _dtypes(tmp_path)
