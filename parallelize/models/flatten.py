"""An exported program as one flat, functional graph: parameters are attributes, what inference does not need is gone.

Regions without effect in inference are inlined. Writes in place become new values, because a rewrite moves nodes, and
what a node reads must not depend on when it runs.
"""

from __future__ import annotations

import operator
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind, OutputSpec
from torch.utils import _pytree as pytree

from parallelize.models.program import is_unnamed, unique
from passes.errors import ParallelizeError
from passes.graph.operators import aten, writes_in_place


def flatten(ep: ExportedProgram) -> tuple[fx.GraphModule, dict[str, fx.Node]]:
    """Flatten an exported program.

    Returns:
        The module, and the nodes of the tensors that it returns, by name and in order.

    Raises:
        ParallelizeError: the program changes a buffer of the model when it runs.
    """
    ep = _functional(ep)
    source, graph = ep.graph_module, fx.Graph()
    returned = _copy(source, "", _parameters(ep, graph), graph)
    results = tuple(
        value for value, spec in zip(returned, ep.graph_signature.output_specs, strict=True) if _is_user(spec)
    )
    names = _output_names(ep.call_spec.out_spec, results)
    kept = {name: value for name, value in zip(names, results, strict=True) if _is_tensor(value)}
    output = graph.output(_structure(ep.call_spec.out_spec, kept))
    output.meta["val"] = fx.map_arg(output.args[0], lambda node: node.meta["val"])
    _drop_unused_submodules(graph, source)
    module = fx.GraphModule(_attributes(ep, graph), graph).eval()
    _complete_metadata(module)
    return module, kept


def _functional(ep: ExportedProgram) -> ExportedProgram:
    """The program without writes in place, and with the casts of autocasting written out.

    An input that it overwrites is left as it was: no output depends on that.

    Raises:
        ParallelizeError: the program changes a buffer, so that its second answer may differ from its first.
    """
    graphs = [module.graph for module in ep.graph_module.modules() if isinstance(module, fx.GraphModule)]
    functional = ep
    if any(writes_in_place(node) or _autocasts(node) for graph in graphs for node in graph.nodes):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # PyTorch's own, about its pytree module
            functional = ep.run_decompositions({})
    changed = sorted(functional.graph_signature.buffers_to_mutate.values())
    if changed:
        raise ParallelizeError(
            f"The model changes its buffer {changed[0]!r} when it runs.",
            "Leave counters and caches out of forward in eval mode.",
        )
    return functional


def _parameters(ep: ExportedProgram, graph: fx.Graph) -> dict[fx.Node, fx.Node]:
    """Parameters, buffers and constants, which are inputs of an exported program, as attributes.

    `ep.module()` does this too, in time that grows with the square of the number of modules.

    Raises:
        ParallelizeError: the program has side effects that it keeps in order by tokens.
    """
    found: dict[fx.Node, fx.Node] = {}
    for node, spec in zip(ep.graph.find_nodes(op="placeholder"), ep.graph_signature.input_specs, strict=True):
        if spec.kind is InputKind.TOKEN:
            raise ParallelizeError(
                "The model has operators with side effects.", "Leave printing and the like out of forward."
            )
        if spec.kind is not InputKind.USER_INPUT:
            found[node] = graph.create_node("get_attr", str(spec.target))
            found[node].meta.update(node.meta)
    return found


def _attributes(ep: ExportedProgram, graph: fx.Graph) -> dict[str, Any]:
    """What the get_attr nodes of the flat graph name: what the program holds, else parts of its graph."""
    held = {**ep.constants, **ep.state_dict}
    held.update({name: ep.constants[name] for name in ep.graph_signature.non_persistent_buffers})
    names = {str(node.target) for node in graph.find_nodes(op="get_attr")}
    return {name: held[name] if name in held else operator.attrgetter(name)(ep.graph_module) for name in names}


def _is_user(spec: OutputSpec) -> bool:
    """Whether the model returns an output; others are inputs that it overwrites."""
    return spec.kind is OutputKind.USER_OUTPUT


def _is_tensor(value: object) -> bool:
    return isinstance(value, fx.Node) and isinstance(value.meta.get("val"), Tensor)


def _copy(source: fx.GraphModule, prefix: str, values: dict[fx.Node, Any], graph: fx.Graph) -> Any:
    """Copy the nodes of `source` to the end of `graph` and return what its output node returns.

    Left out are constant inputs, the exporter's assertions, and regions that only switch gradients or autocasting
    off: inference has neither, so their inside is copied in their place.
    """
    for node in source.graph.nodes:
        if node.op == "output":
            return _mapped(node.args[0], values)
        if node.op == "placeholder" and (node in values or not isinstance(node.meta.get("val"), Tensor)):
            continue
        if node.target is aten._assert_tensor_metadata.default:
            continue
        if node.target is aten._native_batch_norm_legit_no_training.default:
            values[node] = (_batch_norm(node, values, graph),)
            continue
        if node.target is operator.getitem and isinstance(values.get(node.args[0]), tuple | list):
            values[node] = values[node.args[0]][node.args[1]]
            continue
        region = _transparent_region(node)
        if region is not None:
            inner, inputs = region
            nested = source.get_submodule(str(inner.target))
            assert isinstance(nested, fx.GraphModule)
            bound = dict(zip(nested.graph.find_nodes(op="placeholder"), _mapped(inputs, values), strict=True))
            values[node] = _copy(nested, f"{prefix}{inner.target}.", bound, graph)
            continue
        values[node] = _copy_node(node, prefix, values, graph)
    raise AssertionError("a graph without an output node")


def _copy_node(node: fx.Node, prefix: str, values: Mapping[fx.Node, Any], graph: fx.Graph) -> fx.Node:
    """Copy one node; a view becomes a reshape, because it holds for the order in memory that its input now has only."""
    copied = graph.node_copy(node, lambda old: values[old])
    if node.target is aten.view.default:
        copied.target = aten.reshape.default
    if node.op == "get_attr":
        copied.target = f"{prefix}{node.target}"
    return copied


def _batch_norm(node: fx.Node, values: Mapping[fx.Node, Any], graph: fx.Graph) -> fx.Node:
    """The operator that exporting writes where it does not decompose, so that passes know one batch norm."""
    state, gain, shift, mean, variance, momentum, epsilon = _mapped(node.args, values)
    arguments = (state, gain, shift, mean, variance, False, momentum, epsilon, False)
    result = graph.create_node("call_function", aten.batch_norm.default, arguments, name=node.name)
    result.meta.update(node.meta)
    result.meta["val"] = node.meta["val"][0]
    return result


def _mapped(argument: Any, values: Mapping[fx.Node, Any]) -> Any:
    return fx.map_arg(argument, values.get)


def _transparent_region(node: fx.Node) -> tuple[fx.Node, tuple[Any, ...]] | None:
    """The subgraph and the arguments of a region that changes nothing in inference."""
    operators = torch.ops.higher_order
    if node.target is operators.wrap_with_set_grad_enabled:
        return _subgraph(node.args[1]), node.args[2:]
    if node.target is operators.wrap_with_autocast and node.args[2] is False:
        return _subgraph(node.args[4]), node.args[5:]
    return None


def _autocasts(node: fx.Node) -> bool:
    """Whether a node is a region with autocasting on, in which operators read casts that do not stand in the graph."""
    return node.target is torch.ops.higher_order.wrap_with_autocast and node.args[2] is not False


def _subgraph(argument: Any) -> fx.Node:
    assert isinstance(argument, fx.Node)
    return argument


def _drop_unused_submodules(graph: fx.Graph, source: fx.GraphModule) -> None:
    """The subgraphs of regions that were copied in are no longer called."""
    modules = {name for name, _ in source.named_modules() if name}
    for node in graph.find_nodes(op="get_attr"):
        if not node.users and node.target in modules:
            graph.erase_node(node)


def _complete_metadata(module: fx.GraphModule) -> None:
    """Give the constants that came without a shape theirs."""
    first = next(iter(module.graph.find_nodes(op="placeholder")), None)
    for node in module.graph.nodes:
        if "val" in node.meta or first is None:
            continue
        attribute = operator.attrgetter(str(node.target))(module) if node.op == "get_attr" else None
        is_tensor = isinstance(attribute, Tensor)
        node.meta["val"] = first.meta["val"].fake_mode.from_tensor(attribute, static_shapes=True) if is_tensor else None


def _output_names(spec: pytree.TreeSpec | None, results: Sequence[object]) -> list[str]:
    """Names of all leaves of the result: keys of dictionaries, fields of dataclasses, else "output" or "output_i"."""
    found: dict[int, str] = {}
    if spec is not None:
        try:
            found = dict(_walk(pytree.tree_unflatten(list(range(len(results))), spec), ""))
        except (TypeError, ValueError, KeyError, AttributeError):  # a container of someone else that checks its values
            found = {}
    single = sum(map(_is_tensor, results)) == 1
    names: list[str] = []
    for index in range(len(results)):
        name = found.get(index) or ("output" if single else f"output_{index}")
        names.append(unique(re.sub(r"\W", "_", name), names))
    return names


def _walk(value: Any, name: str) -> Iterator[tuple[int, str]]:
    """Pairs (number of the leaf, its name) of a result whose leaves were replaced by their numbers.

    The places of a list without a name count only below a name: {"hidden": [a, b]} has hidden_0 and hidden_1.
    """
    if isinstance(value, int):
        yield value, name
        return
    items: Iterable[tuple[object, Any]] = ()
    if isinstance(value, Mapping):
        items = value.items()
    elif is_dataclass(value) and not isinstance(value, type):
        items = ((field.name, getattr(value, field.name)) for field in fields(value))
    elif hasattr(value, "_asdict"):
        items = value._asdict().items()
    elif isinstance(value, list | tuple):
        items = enumerate(value) if name else ((None, item) for item in value)
    for key, item in items:
        yield from _walk(item, "_".join(str(part) for part in (name, key) if part not in ("", None)))


def _structure(spec: pytree.TreeSpec | None, kept: Mapping[str, Any]) -> Any:
    """What the graph returns: a tensor for a bare tensor, a dictionary for named outputs, else a tuple.

    Containers of other libraries are not kept: a file that names them loads only where those libraries are imported.
    """
    nodes = tuple(kept.values())
    if spec is not None and spec.is_leaf() and len(nodes) == 1:
        return nodes[0]
    if all(map(is_unnamed, kept)):
        return nodes
    return dict(kept)
