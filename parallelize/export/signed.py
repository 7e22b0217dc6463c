"""A program's graph as an exported program, without tracing it again.

Every node of a program has its value in `meta["val"]`; what an exported program has besides, its signature and the
ranges of its free sizes, is written down here. Tracing the graph anew finds the same and takes longer than all the rest
of an export to ONNX. It must be traced where it holds more than that: branches of control flow, results that are no
tensors, weights that were cast since their values were computed.
"""

from __future__ import annotations

import operator
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram, ExportGraphSignature
from torch.export.exported_program import ModuleCallEntry, ModuleCallSignature
from torch.export.graph_signature import InputKind, InputSpec, OutputKind, OutputSpec, TensorArgument
from torch.utils import _pytree as pytree

from parallelize.models.program import Program
from passes.graph.dataflow import tensor_value
from passes.graph.operators import aten
from passes.precision.islands import CONVERSIONS

_COMPOSITE = torch._C.DispatchKey.CompositeImplicitAutograd
_CASTS = CONVERSIONS | {aten.to.other}


class SignedProgram(ExportedProgram):
    """An exported program that is not traced again only to learn that nothing in it is to be decomposed."""

    translated: frozenset[Any] = frozenset()  # operations with an ONNX form of their own

    def run_decompositions(self, decomp_table: Any = None, *args: Any, **options: Any) -> ExportedProgram:
        """The program itself where the table has nothing for it and a trace would keep each operation whole."""
        if decomp_table is not None and all(self._stays(node.target, decomp_table) for node in self.graph.nodes):
            return self
        lowered: ExportedProgram = super().run_decompositions(decomp_table, *args, **options)
        return lowered

    def _stays(self, target: Any, decomp_table: Any) -> bool:
        if target in self.translated or not isinstance(target, torch._ops.OpOverload):
            return True
        return target not in decomp_table and not target.has_kernel_for_dispatch_key(_COMPOSITE)


def signed(program: Program, translated: Collection[Any]) -> ExportedProgram | None:
    """Sign a copy of a program's graph; the weights are shared with it.

    Args:
        program: whose graph.
        translated: the operations that the reader of the result takes as they are, decomposition or not.

    Returns:
        None where the graph must be traced to be exported.
    """
    source = program.module.graph
    results, structure = pytree.tree_flatten(source.output_node().args[0])
    stored = source.find_nodes(op="get_attr")
    if not all(isinstance(result, fx.Node) for result in results) or not all(
        _is_known(program.module, node) for node in stored
    ):
        return None
    signing = _Signing(program.module)
    for node in source.nodes:  # parameters first, then inputs, then what is computed
        signing.copy(node)
    returned = [signing.copies[result] for result in results]
    signing.graph.output(tuple(returned))
    names = [spec.name for spec in program.inputs]
    call = ModuleCallSignature([], [], pytree.tree_structure((tuple(names), {})), structure, names)
    result = SignedProgram(
        signing.weights,
        signing.graph,
        ExportGraphSignature(
            signing.inputs,
            [OutputSpec(OutputKind.USER_OUTPUT, TensorArgument(node.name), None) for node in returned],
        ),
        signing.weights,
        _ranges(source),
        [ModuleCallEntry("", call)],
    )
    result.translated = frozenset(translated)
    return result


class _Signing:
    """A graph in the making whose weights are inputs, and the spec of each input."""

    def __init__(self, module: fx.GraphModule) -> None:
        self.module = module
        self.graph = fx.Graph()
        self.copies: dict[fx.Node, fx.Node] = {}
        self.inputs: list[InputSpec] = []
        self.weights: dict[str, Tensor] = {}
        self._places: dict[int, fx.Node] = {}  # of each weight, by its identity: one that has two names is one input

    def copy(self, node: fx.Node) -> None:
        if node.op == "get_attr":
            self.copies[node] = self._weight(node)
        elif node.op != "output":
            self.copies[node] = self.graph.node_copy(node, self.copies.__getitem__)
        if node.target in _CASTS:
            _spell_as_traced(self.copies[node])
        if node.op == "placeholder":
            self.inputs.append(InputSpec(InputKind.USER_INPUT, TensorArgument(self.copies[node].name), None))

    def _weight(self, node: fx.Node) -> fx.Node:
        name = str(node.target)
        value = operator.attrgetter(name)(self.module)
        if id(value) not in self._places:
            kind = InputKind.PARAMETER if isinstance(value, nn.Parameter) else InputKind.BUFFER
            place = self.graph.placeholder(f"{kind.name[0].lower()}_{node.name}")  # p_ and b_, as torch.export has it
            place.meta.update(node.meta)
            persistent = None if kind is InputKind.PARAMETER else True
            self.inputs.append(InputSpec(kind, TensorArgument(place.name), name, persistent))
            self.weights[name] = value
            self._places[id(value)] = place
        return self._places[id(value)]


def _spell_as_traced(cast: fx.Node) -> None:
    """A cast by the one operation that a trace makes of all its spellings."""
    cast.target = aten._to_copy.default
    cast.args, cast.kwargs = cast.args[:1], {"dtype": cast.meta["val"].dtype}


def _is_known(module: fx.GraphModule, node: fx.Node) -> bool:
    """Whether what is stored is a tensor, as it was when the values after it were computed; no branch, and not cast."""
    known, held = tensor_value(node), operator.attrgetter(str(node.target))(module)
    return known is not None and isinstance(held, Tensor) and (known.dtype, known.shape) == (held.dtype, held.shape)


def _ranges(graph: fx.Graph) -> dict[Any, Any]:
    """The least and the largest value of each free size of the inputs."""
    shapes = [node.meta["val"].shape for node in graph.find_nodes(op="placeholder")]
    sizes = [size.node for shape in shapes for size in shape if isinstance(size, torch.SymInt)]
    return {symbol: size.shape_env.var_to_range[symbol] for size in sizes for symbol in size.expr.free_symbols}
