"""Cast graphs, and what the tests of casts ask about them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
import torch
from torch import fx

from passes.graph.operators import aten
from passes.graph.parameters import read_parameter
from passes.precision.cast_precision import CastPrecision, Precision
from tests.passes.models import run

CAST = aten.to.dtype
ROUNDING = {"fp16": 5e-3, "bf16": 4e-2}
DTYPES = pytest.mark.parametrize("dtype", ["fp16", "bf16"])
KEEP_NOTHING = {"norms": False, "softmax": False, "state": False}


def nodes_of(graph: fx.GraphModule, *targets: object) -> list[fx.Node]:
    return [node for node in graph.graph.nodes if node.target in targets]


def dtypes_of(graph: fx.GraphModule, *targets: object) -> set[torch.dtype]:
    """The dtypes that the operators compute in; of an operator, that of every tensor it reads too."""
    read = {source.meta["val"].dtype for node in nodes_of(graph, *targets) for source in node.all_input_nodes}
    return read | {node.meta["val"].dtype for node in nodes_of(graph, *targets)}


def bytes_of(graph: fx.GraphModule) -> int:
    values = [read_parameter(graph, node) for node in graph.graph.find_nodes(op="get_attr")]
    return sum({value.data_ptr(): value.numel() * value.element_size() for value in values}.values())


def needless_casts(graph: fx.GraphModule) -> Iterator[str]:
    """Casts of casts, and values that are cast twice to one dtype."""
    casts = nodes_of(graph, CAST)
    yield from (node.name for node in casts if node.args[0].target == CAST)
    counts = Counter((node.args[0], node.args[1]) for node in casts)
    yield from (source.name for (source, _), count in counts.items() if count > 1)


def cast_graph(graph: fx.GraphModule, dtype: Precision, **keep: bool) -> fx.GraphModule:
    return run(graph, CastPrecision(dtype, **keep))[0]


def reasons_of(graph: fx.GraphModule, dtype: Precision = "fp16", **keep: bool) -> dict[str, str]:
    return {skip.node: skip.reason for skip in run(graph, CastPrecision(dtype, **keep))[1].skipped}
