"""Models that are converted with an engine, and how."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from parallelize.backends.tensorrt.library import RTX
from parallelize.backends.tensorrt.options import Precision
from parallelize.conversion.convert import Conversion
from parallelize.conversion.options import ConvertOptions, EngineOptions
from parallelize.models.capture import capture
from parallelize.models.program import Program
from tests.parallelize.small_models import Residual, mlp, stack_plan

WITHOUT_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="is about a machine without a GPU")
PRECISIONS: tuple[Precision, ...] = ("fp32", "tf32", "fp16", "bf16")
# A conversion for each takes ten seconds; fp16 stands for all in the quick suite.
TRIED = [p if p == "fp16" else pytest.param(p, marks=pytest.mark.slow) for p in PRECISIONS]
FILES = {
    "model.pt2",
    "model.onnx",
    "model.engine",
    "model.engine.json",
    "plan.json",
    "report.json",
    "report.html",
    "before.svg",
    "after.svg",
}
PAIRS = stack_plan(4, [[[0], [1]], [[2], [3]]], "none")


@functools.cache
def rows() -> Program:
    """The quickest model to convert: four MLPs on vectors."""
    torch.manual_seed(0)
    model = Residual([mlp(8, 16) for _ in range(4)], nn.Linear(8, 3)).eval()
    return capture(model, (torch.zeros(2, 8),), origin="rows")


Converted = Callable[[Precision], Conversion]


def options(**engine: Any) -> ConvertOptions:
    return ConvertOptions(plan=PAIRS, rounds=1, engine=EngineOptions(**{"backend": RTX, **engine}))


def hashed(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
