"""What an ONNX file says without being run: inputs, outputs, weighted products, its hash; and whether it is whole."""

from __future__ import annotations

import ast
import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from parallelize.data import readable
from parallelize.data.tensor_spec import TensorSpec
from parallelize.models.returned import KEY, Returned
from passes.errors import ParallelizeError

if TYPE_CHECKING:
    import onnx

WIDE = "parallelize.wide"  # the metadata of a node that width fusion made: the name of its wide weight
PRODUCTS = ("MatMul", "Gemm", "Conv", "ConvTranspose", "Einsum")
_CHUNK = 1 << 20
_NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_HYPHENED = re.compile(r"\w-\w", re.ASCII)  # a name such as "batch-size": an exporter's difference has spaces
_ARITHMETIC = (ast.Expression, ast.BinOp, ast.operator, ast.Name, ast.Load, ast.Constant)


@dataclass(frozen=True)
class Product:
    """A matrix product or convolution with a stored weight.

    Attributes:
        node: name of the ONNX node; one without a name is called as TensorRT calls it, after its first output.
        operator: such as "MatMul".
        shape: of the weight, in the file's layout.
        dtype: of the weight, such as "float16".
        wide: name of the wide weight where width fusion made it, else None.
    """

    node: str
    operator: str
    shape: tuple[int, ...]
    dtype: str
    wide: str | None


@dataclass(frozen=True)
class OnnxFile:
    """An ONNX file that is whole.

    Attributes:
        path: absolute.
        inputs: what it reads; a string in a shape is a free dimension.
        outputs: what it returns.
        products: its weighted products in their order.
        operators: how often each operator occurs, the most frequent first.
        data: files of external weights beside it.
        opset: version of the default operator set.
        returns: what the model that it was written from returned.
    """

    path: Path
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    products: tuple[Product, ...]
    operators: dict[str, int]
    data: tuple[Path, ...]
    opset: int
    returns: Returned

    def sha256(self) -> str:
        """Over the file and its external weights."""
        return file_hash(self.path, *self.data)


def read_onnx(path: Path) -> OnnxFile:
    """Read and check an ONNX file; its weights are not loaded.

    Raises:
        ParallelizeError: the file is missing, is no ONNX model, is truncated, or misses external weights.
    """
    import onnx
    from google.protobuf.message import DecodeError

    path = readable(path).resolve()
    try:
        model = onnx.load(str(path), format="protobuf", load_external_data=False)  # whatever the file is called
    except DecodeError as error:
        raise _broken(path) from error
    if not model.graph.node or not model.graph.output or not model.opset_import:  # the opset is the file's end
        raise _broken(path)
    stored = {tensor.name for tensor in model.graph.initializer}
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    return OnnxFile(
        path,
        _specs(value for value in model.graph.input if value.name not in stored),
        _specs(model.graph.output),
        tuple(_products(model.graph)),
        dict(Counter(node.op_type for node in model.graph.node).most_common()),
        _external(model, path),
        next((opset.version for opset in model.opset_import if opset.domain in ("", "ai.onnx")), 0),
        Returned.from_metadata(metadata.get(KEY), [value.name for value in model.graph.output]),
    )


def file_hash(*paths: Path) -> str:
    """SHA-256 over files, one after another."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(_CHUNK):
                digest.update(block)
    return digest.hexdigest()


def _broken(path: Path) -> ParallelizeError:
    return ParallelizeError(
        f"{path.name} is no ONNX model, or is truncated.", "Export it again, or copy it again and compare the sizes."
    )


def _specs(values: Any) -> tuple[TensorSpec, ...]:
    return tuple(_spec(value) for value in values)


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    kind = value.type.tensor_type
    sizes = [
        int(size.dim_value) if size.HasField("dim_value") else _word(size.dim_param, value.name, axis)
        for axis, size in enumerate(kind.shape.dim)
    ]
    return TensorSpec(value.name, tuple(sizes), _torch_dtype(kind.elem_type, value.name))


def _word(text: str, name: str, axis: int) -> str:
    """The name of a free dimension, or an expression of names; another tool's odd or empty name gets one of ours."""
    return text if _NAME.fullmatch(text) or _is_expression(text) else re.sub(r"\W", "_", f"{name}_{axis}")


def _is_expression(text: str) -> bool:
    """Whether the text is sums, products and quotients of names, such as "2*batch"."""
    if _HYPHENED.search(text) or not text.isascii():
        return False
    try:
        parts = list(ast.walk(ast.parse(text, mode="eval")))
    except (SyntaxError, ValueError):
        return False
    simple = all(isinstance(part, _ARITHMETIC) and not isinstance(part, ast.Pow) for part in parts)
    whole = all(type(part.value) is int for part in parts if isinstance(part, ast.Constant))
    return simple and whole and any(isinstance(part, ast.Name) for part in parts)


def _torch_dtype(element: int, name: str) -> torch.dtype:
    import onnx

    known = onnx.TensorProto.DataType
    spelled = known.Name(element).lower() if element in known.values() else str(element)
    spelled = {"float": "float32", "double": "float64"}.get(spelled, spelled)
    dtype = getattr(torch, spelled, None)
    if not isinstance(dtype, torch.dtype):
        raise ParallelizeError(
            f"The tensor {name!r} has the element type {spelled}, which no tensor of torch has.", "Cast it."
        )
    return dtype


def _products(graph: onnx.GraphProto) -> list[Product]:
    stored = {tensor.name: tensor for tensor in graph.initializer}
    found = []
    for node in graph.node:
        weights = [stored[name] for name in node.input if name in stored and len(stored[name].dims) > 1]
        if node.op_type not in PRODUCTS or not weights:
            continue
        (weight, *_), wide = weights, [p.value for p in node.metadata_props if p.key == WIDE]
        dtype = str(_torch_dtype(weight.data_type, weight.name)).removeprefix("torch.")
        name = node.name or f"node_of_{node.output[0]}"
        found.append(Product(name, node.op_type, tuple(weight.dims), dtype, wide[0] if wide else None))
    return found


def _external(model: onnx.ModelProto, path: Path) -> tuple[Path, ...]:
    """The files of external weights.

    Raises:
        ParallelizeError: one is missing, shorter than the model says, or outside the model's folder.
    """
    ends: dict[str, int] = {}
    for tensor in _stored(model.graph):
        if not tensor.external_data:
            continue
        location, end = _place(tensor, path)
        ends[location] = max(ends.get(location, 0), end)
    for location, end in ends.items():
        file = path.parent / location
        if not file.resolve().is_relative_to(path.parent):
            raise ParallelizeError(
                f"{path.name} keeps weights in {location}, outside its folder.",
                "Save the model with its weights beside it.",
            )
        if not file.is_file():
            raise ParallelizeError(
                f"{path.name} keeps weights in {location}, which is missing.", f"Put {location} into {path.parent}."
            )
        if file.stat().st_size < end:
            raise ParallelizeError(
                f"{location} ends after {file.stat().st_size} bytes; {path.name} needs {end}.", "Copy it again."
            )
    return tuple(path.parent / location for location in sorted(ends))


def _stored(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """The weights of a graph and of the graphs inside its nodes, such as the branches of control flow."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _stored(inner)


def _place(tensor: onnx.TensorProto, path: Path) -> tuple[str, int]:
    """The file that has a weight, and where in it the weight ends."""
    entry = {item.key: item.value for item in tensor.external_data}
    numbers = [entry.get("offset", "0"), entry.get("length", "0")]
    location = entry.get("location", "")
    if not location or "\0" in location or not all(number.isdecimal() for number in numbers):
        raise _broken(path)
    return location, sum(map(int, numbers))
