"""Small ONNX files, written by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from parallelize.export.onnx_file import WIDE

Sizes = Sequence[int | str | None]
ELEMENTS = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}


def value(name: str, shape: Sizes, element: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, element, shape)


def weight(name: str, shape: Sequence[int], dtype: str = "float32") -> onnx.TensorProto:
    """Random numbers, the same for the same shape."""
    numbers = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    if dtype == "bfloat16":
        return helper.make_tensor(name, TensorProto.BFLOAT16, shape, numbers.ravel())
    return numpy_helper.from_array(numbers.astype(dtype), name)


def save(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    weights: Sequence[onnx.TensorProto] = (),
    data: str | None = None,
) -> Path:
    """Write a model of opset 18; its weights go into the file `data` beside it where one is named."""
    graph = helper.make_graph(nodes, "graph", inputs, outputs, weights)
    domains = dict.fromkeys(["", *(node.domain for node in nodes)])
    opsets = [helper.make_opsetid(domain, 1 if domain else 18) for domain in domains]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    onnx.save(model, str(path), save_as_external_data=data is not None, location=data, size_threshold=0)
    return path


def mlp(path: Path, dtype: str = "float32", batch: int | str = "batch", data: str | None = None) -> Path:
    """x (batch, 8) -> first -> relu -> second -> y (batch, 4)."""
    element = ELEMENTS[dtype]
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["a"], name="first"),
        helper.make_node("Relu", ["a"], ["b"], name="relu"),
        helper.make_node("MatMul", ["b", "w2"], ["y"], name="second"),
    ]
    entry = nodes[0].metadata_props.add()
    entry.key, entry.value = WIDE, "w1_and_others"
    weights = [weight("w1", (8, 16), dtype), weight("w2", (16, 4), dtype)]
    return save(path, nodes, [value("x", [batch, 8], element)], [value("y", [batch, 4], element)], weights, data)


def one_node(path: Path, operator: str, name: str = "", domain: str = "") -> Path:
    """x (batch, 8) -> y (batch, 8) by one operator."""
    node = helper.make_node(operator, ["x"], ["y"], name=name, domain=domain)
    return save(path, [node], [value("x", ["batch", 8])], [value("y", ["batch", 8])])
