"""A sidecar with something in every field."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from parallelize.backends.tensorrt.layers import Layer, LayerTensor
from parallelize.backends.tensorrt.profiles import Profile
from parallelize.backends.tensorrt.sidecar import INSPECTOR, Sidecar, sidecar_path
from parallelize.data.tensor_spec import TensorSpec
from parallelize.export.onnx_file import Product

CONTENT = b"a serialized engine"
FULL = Sidecar(
    backend="tensorrt",
    version="10.12.0.36",
    targets=("8.6", "8.9"),
    gpu="NVIDIA L4",
    cuda="12.9",
    driver="580.159.04",
    date="2026-01-02T03:04:05+00:00",
    parallelize="0.1.0",
    onnx_sha256="0" * 64,
    engine_sha256=hashlib.sha256(CONTENT).hexdigest(),
    precision="fp16",
    flags={"tf32": False, "workspace_mib": 64, "version_compatible": False, "hardware_compatibility": "none"},
    inputs=(TensorSpec("x", ("batch", 8), torch.float16), TensorSpec("scale", (), torch.int64)),
    outputs=(TensorSpec("y", ("2*batch", 4), torch.bfloat16),),
    profiles=(Profile("x", (1, 8), (2, 8), (4, 8)), Profile("scale", (), (), ())),
    build_seconds=1.5,
    layers=(Layer("a", "gemm", (LayerTensor("x", (-1, 8), "float16"),), (), ("float16",), ("first",), 1),),
    layers_from=INSPECTOR,
    products=(Product("first", "MatMul", (8, 4), "float16", "wide"), Product("b", "Conv", (4, 3, 1, 1), "int8", None)),
    plan={"pairs": [[1, 2]], "of": "model"},
    errors={"onnx against graph": 1e-4},
)


def put(engine: Path, **changes: Any) -> Sidecar:
    """Write CONTENT as an engine with a sidecar beside it."""
    sidecar = replace(FULL, **changes)
    engine.write_bytes(CONTENT)
    sidecar_path(engine).write_text(sidecar.to_json())
    return sidecar
