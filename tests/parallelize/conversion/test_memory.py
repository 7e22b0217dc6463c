"""A conversion of a model that is mostly weights takes a bounded multiple of them, whatever it compares."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

BUFFER = 64 << 20
SLACK = 224 << 20  # bytes for libraries that are loaded meanwhile, graphs, and a weight or two that are at work
_RUN = """
import json, sys, tempfile
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmarks.resident import forget_peak, resident
from parallelize import ConvertOptions, Source, convert
from parallelize.export import weight_files
from parallelize.measuring import onnx_latency
from parallelize.models import on_disk
from passes.plan import Plan, grouped
from tests.parallelize.small_models import Residual, mlp

# what is done with models of gigabytes
onnx_latency.AT_ONCE = on_disk.LEAST = weight_files.INLINE_LIMIT = 1 << 20

dtype, buffer, width = getattr(torch, sys.argv[1]), int(sys.argv[2]), 1024
with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    torch.manual_seed(0)
    module = Residual([mlp(width, 4 * width) for _ in range(3)], scale=None).to(dtype).eval()
    weights = sum(parameter.nbytes for parameter in module.parameters())
    dynamic = [{0: torch.export.Dim.AUTO}]
    example = torch.zeros(2, width, dtype=dtype)
    torch.export.save(torch.export.export(module, (example,), dynamic_shapes=dynamic), folder / "m.pt2")
    del module
    np.savez(folder / "data.npz", x=np.random.default_rng(0).standard_normal((40, width), dtype=np.float32))
    plan = Plan((grouped(3, [[(0,), (1,)], [(2,)]], refit="affine"),))
    forget_peak()
    before = resident("VmRSS")
    options = ConvertOptions(plan=plan, rounds=2, buffer=buffer)
    made = convert(str(folder / "m.pt2"), folder / "out", inputs=folder / "data.npz", options=options)
    assert "loaded anew" in made.report.warnings[-1], made.report.warnings
    print(json.dumps([weights, resident("VmHWM") - before]))
"""


@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_a_conversion_takes_two_and_a_half_times_the_weights_and_the_buffer(dtype: str) -> None:
    done = subprocess.run([sys.executable, "-c", _RUN, dtype, str(BUFFER)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    weights, peak = json.loads(done.stdout.splitlines()[-1])
    assert weights >= 48 << 20
    assert peak < 2.5 * weights + BUFFER + SLACK
