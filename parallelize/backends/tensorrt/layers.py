"""The layers of a finished engine: what became one kernel, in which dtype, and how many wait for each other.

The list comes from the engine inspector (JSON; TensorRT 10 and 11 spell some fields differently) or, where no GPU is
there to load the engine, from what the builder says at the end of a verbose build (the same facts as text).
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import networkx as nx

NO_KERNELS = ("shape_call", "signal", "wait", "NoOp", "Constant")  # bookkeeping of the host, nothing the GPU runs
_DTYPES = {
    "bfloat16": ("BFloat16", "BF16"),
    "float16": ("Half", "FP16"),
    "float32": ("Float", "FP32"),
    "int64": ("Int64", "INT64"),
    "int32": ("Int32", "INT32"),
    "int8": ("Int8", "INT8"),
    "bool": ("Bool",),
    "fp8": ("FP8",),
}
_TENSOR = re.compile(r"\{ Name: (.*?), .*?Dimensions: \[(.*?)\].*?(?=\{ Name: |$)", re.DOTALL)
_ONNX_NODE = re.compile(r"\[ONNX Layer: (.*?)\](?=\[|\s|$)")  # a name may have brackets
_FIELDS = ("LayerType", "Inputs", "Constants", "Outputs", "TacticName", "StreamId", "EventId", "Metadata")


@dataclass(frozen=True)
class LayerTensor:
    """A tensor that a layer reads or writes; the dtype is None where the library does not tell."""

    name: str
    shape: tuple[int, ...]
    dtype: str | None


@dataclass(frozen=True)
class Layer:
    """One layer of an engine.

    Attributes:
        kind: what the library calls its type, such as "gemm" or "kgen".
        weights: dtypes of its constants of two dimensions and more.
        nodes: ONNX nodes that it computes.
        stream: number of the stream that it runs on.
    """

    name: str
    kind: str
    inputs: tuple[LayerTensor, ...]
    outputs: tuple[LayerTensor, ...]
    weights: tuple[str, ...]
    nodes: tuple[str, ...]
    stream: int

    @property
    def is_kernel(self) -> bool:
        """Whether the GPU runs something for it."""
        return self.kind not in NO_KERNELS


def from_text(text: str) -> tuple[Layer, ...]:
    """Layers out of the builder's verbose listing."""
    body = text.split("\nBindings:", maxsplit=1)[0].split("\nI/O Tensors:", maxsplit=1)[0]
    return tuple(_layer_of_line(line) for line in body.splitlines() if line.startswith("Name: "))


def from_json(text: str) -> tuple[Layer, ...]:
    """Layers out of the engine inspector's JSON; a layer that is a bare name has no details."""
    return tuple(_layer_of_json(value) for value in json.loads(text)["Layers"])


def from_plain(values: Iterable[Mapping[str, Any]]) -> tuple[Layer, ...]:
    """Layers out of what `as_plain` made."""
    return tuple(
        Layer(
            value["name"],
            value["kind"],
            tuple(LayerTensor(t["name"], tuple(t["shape"]), t["dtype"]) for t in value["inputs"]),
            tuple(LayerTensor(t["name"], tuple(t["shape"]), t["dtype"]) for t in value["outputs"]),
            tuple(value["weights"]),
            tuple(value["nodes"]),
            int(value["stream"]),
        )
        for value in values
    )


def as_plain(layers: Iterable[Layer]) -> list[dict[str, Any]]:
    """Layers as values for JSON."""
    return [asdict(layer) for layer in layers]


def critical_layers(layers: Sequence[Layer]) -> int:
    """The most kernels that must wait for each other, by what they read and write."""
    graph = nx.DiGraph()
    writers = defaultdict[str, list[int]](list)  # several layers write one tensor where a concatenation is left out
    for number, layer in enumerate(layers):
        graph.add_node(number)
        graph.add_edges_from((source, number) for tensor in layer.inputs for source in writers[tensor.name])
        for tensor in layer.outputs:
            writers[tensor.name].append(number)
    longest: dict[int, int] = {}
    for number in nx.topological_sort(graph):
        waiting = max((longest[source] for source in graph.predecessors(number)), default=0)
        longest[number] = waiting + layers[number].is_kernel
    return max(longest.values(), default=0)


def kernels(layers: Iterable[Layer]) -> int:
    """How many layers the GPU runs something for."""
    return sum(layer.is_kernel for layer in layers)


def streams(layers: Iterable[Layer]) -> int:
    """On how many streams they run."""
    return len({layer.stream for layer in layers})


def layers_of(layers: Iterable[Layer], node: str) -> tuple[Layer, ...]:
    """The layers that compute an ONNX node."""
    return tuple(layer for layer in layers if node in layer.nodes)


def _layer_of_line(line: str) -> Layer:
    """`Name: a, LayerType: gemm, Inputs: [ { Name: x, Dimensions: [1,2], ... Datatype: Half ...}], ...`."""
    places = [(line.find(f", {field}: "), field) for field in _FIELDS]
    found = sorted((place, field) for place, field in places if place >= 0)
    ends = [place for place, _ in found[1:]] + [len(line)]
    parts = {field: line[p + len(field) + 4 : end] for (p, field), end in zip(found, ends, strict=True)}
    name = line[len("Name: ") : found[0][0]] if found else line[len("Name: ") :]
    constants = _tensors_of_text(parts.get("Constants", ""))
    return Layer(
        name=name,
        kind=parts.get("LayerType", ""),
        inputs=_tensors_of_text(parts.get("Inputs", "")),
        outputs=_tensors_of_text(parts.get("Outputs", "")),
        weights=_weights(constants),
        nodes=tuple(_ONNX_NODE.findall(parts.get("Metadata", ""))),
        stream=int(parts.get("StreamId", "0").strip() or 0),
    )


def _tensors_of_text(text: str) -> tuple[LayerTensor, ...]:
    return tuple(
        LayerTensor(found[1], _sizes(found[2]), _dtype(found[0].partition(f"[{found[2]}]")[2]))
        for found in _TENSOR.finditer(text)
    )


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(int(size) for size in text.split(",") if size.strip().lstrip("-").isdigit())


def _layer_of_json(value: str | Mapping[str, Any]) -> Layer:
    if isinstance(value, str):
        return Layer(value, "", (), (), (), (), 0)
    stored = value.get("Weights")
    weights = [str(stored["Type"])] if isinstance(stored, Mapping) and "Type" in stored else []
    return Layer(
        name=str(value["Name"]),
        kind=str(value.get("LayerType", "")),
        inputs=_tensors_of_json(value.get("Inputs", ())),
        outputs=_tensors_of_json(value.get("Outputs", ())),
        weights=_weights(_tensors_of_json(value.get("Constants", ())))
        + tuple(dtype for name in weights if (dtype := _dtype(name)) is not None),
        nodes=tuple(_ONNX_NODE.findall(str(value.get("Metadata", "")))),
        stream=int(value.get("StreamId", 0)),
    )


def _tensors_of_json(values: Iterable[Mapping[str, Any]]) -> tuple[LayerTensor, ...]:
    return tuple(
        LayerTensor(
            str(value["Name"]),
            tuple(int(size) for size in value.get("Dimensions", ())),
            _dtype(str(value.get("Datatype") or value.get("Format/Datatype") or value.get("Format") or "")),
        )
        for value in values
    )


def _dtype(text: str) -> str | None:
    """The dtype that a field names; the two libraries spell it as "Half" or within "Row major linear FP16 format"."""
    words = set(re.findall(r"\w+", text))
    return next((name for name, spellings in _DTYPES.items() if words & set(spellings)), None)


def _weights(constants: Iterable[LayerTensor]) -> tuple[str, ...]:
    """Dtypes of the constants that are matrices or kernels; scalars such as a GEMM's alpha do not count."""
    return tuple(c.dtype for c in constants if c.dtype is not None and len([s for s in c.shape if s != 1]) > 1)
