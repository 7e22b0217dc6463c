"""Capture: a PyTorch model becomes a flat ATen graph, a **Program**, by way of `torch.export`.

    nn.Module + example input  --capture-->  Program  --passes-->  Program  --export-->  ExportedProgram (.pt2, ONNX)

The graph of a program has one placeholder for each tensor that the model reads and calls ATen operations only. It is
called with these tensors in the order of `Program.inputs`; it returns one tensor when the model returned a bare tensor,
a dictionary when the model named its outputs, and a tuple otherwise.
"""

from __future__ import annotations

import inspect
import logging
import operator
import re
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

import sympy
import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram, ShapesCollection
from torch.utils import _pytree as pytree

from passes.errors import ParallelizeError, PassError

Dynamic = Literal["batch"] | Sequence[Mapping[int, str]] | None

# Sizes for the first axis of an example: 0 and 1 are special to the exporter, and a prime is seldom a width.
_BATCH_SIZES = (3, 5, 7, 11, 13, 17, 19, 23)
_OTHER_SIZE = 16
_TORCH = Path(torch.__file__).parent
_GUARDS = "_guards_fn"
_FIXED_HINT = "Pass --input with a fixed size in place of the word."
_HINTS = {  # words in what the exporter says -> what to do about it
    "data-dependent": "Control flow must not depend on values in a tensor: take it out of forward, or use torch.cond.",
    "not a known type": "Return tensors, in dictionaries, lists or tuples; a language model must not return its cache.",
    "": "Call torch.export.export on the model alone to see more, or give a wrapper that leaves this part out.",
}


@dataclass(frozen=True)
class TensorSpec:
    """What a program reads or returns.

    Attributes:
        name: unique among the inputs, or among the outputs, of a program.
        shape: sizes; a string is a dimension left free, by its name ("batch") or as an expression of names ("2*batch").
        dtype: element type.
    """

    name: str
    shape: tuple[int | str, ...]
    dtype: torch.dtype

    @property
    def dimensions(self) -> tuple[str, ...]:
        """Names of the free dimensions, in order and each once; expressions are left out."""
        return tuple(dict.fromkeys(size for size in self.shape if isinstance(size, str) and size.isidentifier()))

    def sizes(self, known: Mapping[str, int], other: int = _OTHER_SIZE) -> tuple[int, ...]:
        """The shape in numbers: free dimensions take their size from `known`, the rest of them get `other`."""
        return tuple(size if isinstance(size, int) else _evaluate(size, known, other) for size in self.shape)


@dataclass(frozen=True)
class Program:
    """A captured model.

    Attributes:
        module: the graph. `get_attr` nodes (parameters, buffers, constants) come first, then a placeholder for each
            input, then calls of ATen operations; every node has its value's shape and dtype in `meta["val"]`.
        inputs: what the placeholders take, in their order.
        outputs: the tensors that the graph returns, flattened.
        origin: what the user called the model.
    """

    module: fx.GraphModule
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    origin: str

    def flat_outputs(self, result: object) -> tuple[Tensor, ...]:
        """The tensors in what the graph, or the model it came from, returned, in the order of `outputs`.

        Raises:
            PassError: `result` has another number of tensors than the program has outputs.
        """
        tensors = tuple(leaf for leaf in pytree.tree_leaves(_plain(result)) if isinstance(leaf, Tensor))
        if len(tensors) != len(self.outputs):
            raise PassError(
                f"{self.origin} returned {len(tensors)} tensors where {len(self.outputs)} were captured.",
                "Please report this with the model and the plan.",
            )
        return tensors


def capture(
    module: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None = None,
    *,
    dynamic: Dynamic = "batch",
    origin: str = "",
) -> Program:
    """Capture a model with `torch.export`.

    Only shapes and dtypes of the example's tensors matter, and the sizes of free dimensions do not: a first axis that
    is free is given a size of its own, so an example batch of one will do. Tensors may be nested in lists and
    dictionaries; whatever is no tensor becomes a constant of the program.

    Args:
        module: the model, all of it in eval mode.
        args: positional example input.
        kwargs: example input by name.
        dynamic: which dimensions stay free: one mapping {dimension: name} for each tensor, in the order in which `args`
            and then `kwargs` hold them; or "batch": the first axis of every tensor that is as long there as the
            first tensor; or None: every size is fixed.
        origin: what the user called the model, for messages.

    Raises:
        ParallelizeError: a module in training mode, a model that does not run on the example, that `torch.export`
            cannot capture, or that fixes a dimension which was to stay free.
    """
    named = origin or type(module).__name__
    _refuse_training(module, named)
    leaves, structure = pytree.tree_flatten((tuple(args), dict(kwargs or {})))
    examples = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    if not examples:
        raise ParallelizeError(f"{named} got no tensor to read.", "Give an example input with at least one tensor.")
    dims = _dynamic_dims(examples, dynamic, named)
    resized = iter(_resize(examples, dims))
    call_args, call_kwargs = pytree.tree_unflatten(
        [next(resized) if isinstance(leaf, Tensor) else leaf for leaf in leaves], structure
    )
    try:
        exported = _torch_export(module, call_args, call_kwargs, dims)
    except Exception as error:  # the exporter and the model's own code may raise anything
        raise _capture_error(module, call_args, call_kwargs, error, named) from error
    program = _program(exported, named, dims)
    _refuse_specialised(program, exported, dims)
    return program


def from_exported(ep: ExportedProgram, origin: str) -> Program:
    """Read a program out of an exported one. The first axis is named "batch" where it is free, another axis k "dim_k".

    Raises:
        ParallelizeError: the program was exported in training mode, or cannot be turned back into a module.
    """
    program = _program(ep, origin, ())
    for node in program.module.graph.nodes:
        if _trains(node):
            raise ParallelizeError(
                f"{origin} was exported in training mode: the operation {node.name} behaves as in training.",
                "Call .eval() on the model, then export it again.",
            )
    return program


def export(program: Program) -> ExportedProgram:
    """Export a program, rewritten or not, with the inputs and the free dimensions that it was captured with.

    Raises:
        PassError: the graph cannot be exported, or a rewrite fixed a dimension that was free.
    """
    known = _example_sizes(program)
    values = [node.meta["val"] for node in program.module.graph.find_nodes(op="placeholder")]
    examples = tuple(
        torch.zeros(spec.sizes(known), dtype=spec.dtype, device=value.device)
        for spec, value in zip(program.inputs, values, strict=True)
    )
    dims = [{i: size for i, size in enumerate(spec.shape) if isinstance(size, str)} for spec in program.inputs]
    try:
        exported = _torch_export(program.module, examples, {}, dims)
    except Exception as error:  # a rewrite may have broken the graph in any way
        raise PassError(
            f"The graph of {program.origin} cannot be exported again: {first_sentence(error)}.",
            "Please report this with the model and the plan.",
        ) from error
    for spec, after in zip(program.inputs, _program(exported, program.origin, dims).inputs, strict=True):
        if after.shape != spec.shape:
            raise PassError(
                f"The rewrite of {program.origin} fixed the input {spec.name!r}: {spec.shape} is now {after.shape}.",
                "Please report this with the model and the plan.",
            )
    return exported


# ---------------------------------------------------------------------------------------------------- what goes in


def _refuse_training(module: nn.Module, origin: str) -> None:
    """Dropout and batch statistics would be captured as they are in training."""
    training = next((name for name, part in module.named_modules() if part.training), None)
    if training is None:
        return
    where = f"its module {training!r} is" if training else "it is"
    raise ParallelizeError(
        f"{origin} cannot be captured: {where} in training mode.", "Call .eval() on the model first."
    )


def _dynamic_dims(examples: Sequence[Tensor], dynamic: Dynamic, origin: str) -> list[dict[int, str]]:
    """One mapping {dimension: name} for each example tensor."""
    if dynamic is None:
        return [{} for _ in examples]
    if isinstance(dynamic, str):
        length = next((len(tensor) for tensor in examples if tensor.ndim), None)
        return [{0: "batch"} if tensor.ndim and len(tensor) == length else {} for tensor in examples]
    if len(dynamic) != len(examples):
        raise ParallelizeError(
            f"{origin} reads {len(examples)} tensors, but free dimensions are given for {len(dynamic)}.",
            "Give one mapping of dimensions to names for each tensor; {} for a tensor of fixed shape.",
        )
    return [dict(names) for names in dynamic]


def _resize(examples: Sequence[Tensor], dims: Sequence[Mapping[int, str]]) -> list[Tensor]:
    """The examples with free dimensions as long as the exporter needs: at least 2, and one name is one size.

    A first axis gets a size that no other dimension has, or the model might take the one for the other.
    """
    taken = {size for tensor, names in zip(examples, dims, strict=True) for size in _without(tensor.shape, names)}
    sizes: dict[str, int] = {}
    for names in dims:
        if 0 in names and names[0] not in sizes:
            sizes[names[0]] = next(size for size in _free_sizes() if size not in taken)
            taken.add(sizes[names[0]])
    for tensor, names in zip(examples, dims, strict=True):
        for axis, name in names.items():
            sizes.setdefault(name, tensor.shape[axis] if tensor.shape[axis] > 1 else _OTHER_SIZE)
    return [_resized(tensor, names, sizes) for tensor, names in zip(examples, dims, strict=True)]


def _free_sizes() -> Iterator[int]:
    yield from _BATCH_SIZES
    yield from range(_BATCH_SIZES[-1] + 1, 10**6)


def _without(shape: Sequence[int], names: Mapping[int, str]) -> list[int]:
    """Every size but a free first axis."""
    return list(shape[1:] if 0 in names else shape)


def _resized(tensor: Tensor, names: Mapping[int, str], sizes: Mapping[str, int]) -> Tensor:
    """Repeat or cut along the free dimensions, so that token numbers stay token numbers."""
    shape = tuple(sizes[names[axis]] if axis in names else size for axis, size in enumerate(tensor.shape))
    if tensor.numel() == 0:
        return torch.zeros(shape, dtype=tensor.dtype, device=tensor.device)
    result = tensor.detach().clone()  # an object of its own, even when the caller passes one tensor twice
    for axis in names:
        index = torch.arange(shape[axis], device=tensor.device) % tensor.shape[axis]
        result = result.index_select(axis, index)
    return result


def _torch_export(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], dims: Sequence[Mapping[int, str]]
) -> ExportedProgram:
    """Call the exporter with its log off: its errors are reported once, by the caller.

    `Dim.AUTO` lets it find out how large a free dimension may be; a named dimension must know that beforehand. What it
    fixed shows in the result. Only a first axis that several inputs share is named, so that it is one symbol even in a
    model that never brings these inputs together.
    """
    firsts = [names[0] for names in dims if 0 in names]
    shared = {name: Dim(name) for name in firsts if firsts.count(name) > 1}
    if not shared:
        return _export_with(module, args, kwargs, dims, {})
    try:
        return _export_with(module, args, kwargs, dims, shared)
    except Exception:  # noqa: BLE001  (the exporter has many words for a dimension less free than its name promises)
        return _export_with(module, args, kwargs, dims, {})


def _export_with(
    module: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    dims: Sequence[Mapping[int, str]],
    shared: Mapping[str, Any],
) -> ExportedProgram:
    shapes: Any = ShapesCollection()  # type: ignore[no-untyped-call]  # torch does not annotate it
    tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    for tensor, names in zip(tensors, dims, strict=True):
        if names:
            shapes[tensor] = {axis: shared.get(name, Dim.AUTO) for axis, name in names.items()}
    hook = module.register_forward_hook(lambda _module, _args, result: _plain(result))
    try:
        with quiet_logs(), torch.no_grad():
            dynamic = shapes.dynamic_shapes(module, args, kwargs) if len(shapes) else None
            return torch.export.export(module, args, kwargs, dynamic_shapes=dynamic, strict=False)
    finally:
        hook.remove()


@contextmanager
def quiet_logs() -> Iterator[None]:
    """Hold back log records: the exporter and the loader log whole tracebacks before they raise them."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def _plain(value: Any) -> Any:
    """Dataclasses that pytree does not know, as dictionaries; anything else as it is."""

    def leaf(item: Any) -> Any:
        if not is_dataclass(item) or isinstance(item, type):
            return item
        return {field.name: _plain(getattr(item, field.name)) for field in fields(item)}

    return pytree.tree_map(leaf, value)


# ------------------------------------------------------------------------------------------------ what can go wrong


def _capture_error(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], error: Exception, origin: str
) -> ParallelizeError:
    """Tell a model that does not run on the example from one that runs and still cannot be captured."""
    try:
        with torch.no_grad():
            module(*args, **kwargs)
    except Exception as own:  # noqa: BLE001  (the model's own code may raise anything)
        shapes = " and ".join(
            "x".join(map(str, leaf.shape)) + f"@{str(leaf.dtype).removeprefix('torch.')}"
            for leaf in pytree.tree_leaves((args, kwargs))
            if isinstance(leaf, Tensor)
        )
        cause = f"{type(own).__name__}: {first_sentence(own)}{_place(own)}"
        return ParallelizeError(
            f"{origin} does not run on an input of {shapes}: {cause}.",
            "Give the shape and dtype that the model reads, for example --input batchx3x224x224@float32.",
        )
    hint = next((hint for words, hint in _HINTS.items() if words in str(error)), _HINTS[""])
    return ParallelizeError(f"torch.export cannot capture {origin}: {first_sentence(error)}{_place(error)}.", hint)


def first_sentence(error: BaseException) -> str:
    """The first sentence of an exception's text, without its full stop."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return re.split(r"(?<=\w)\. (?=[A-Z])", line)[0].rstrip(".:")


def _place(error: BaseException) -> str:
    """` (file:line)` of the last line of code outside of PyTorch that the error names or passed through."""
    named = [(name, int(line)) for name, line in re.findall(r'File "([^"]+)", line (\d+)', str(error))]
    passed = [(frame.filename, frame.lineno or 0) for frame in traceback.extract_tb(error.__traceback__)]
    for name, line in (*reversed(named), *reversed(passed)):
        if Path(name).is_file() and _TORCH not in Path(name).parents and Path(name) != Path(__file__):
            return f" ({name}:{line})"
    return ""


def _refuse_specialised(program: Program, ep: ExportedProgram, dims: Sequence[Mapping[int, str]]) -> None:
    """A free dimension that became a number, or a batch that may not be 1, would surprise at run time."""
    smallest = _smallest_sizes(ep)
    for spec, names in zip(program.inputs, dims, strict=True):
        for axis, name in names.items():
            size = spec.shape[axis]
            if isinstance(size, int):
                raise ParallelizeError(
                    f"{program.origin} fixes dimension {axis} ({name!r}) of its input {spec.name!r} to {size}.",
                    _FIXED_HINT,
                )
            if axis == 0 and smallest[spec.name] > 2:  # the exporter itself assumes 2 and more
                raise ParallelizeError(
                    f"{program.origin} takes another path when dimension 0 ({name!r}) of its input {spec.name!r}"
                    f" is below {smallest[spec.name]}.",
                    _FIXED_HINT,
                )


def _smallest_sizes(ep: ExportedProgram) -> dict[str, int]:
    """The smallest first axis of each tensor input that the exporter's conditions allow."""
    smallest: dict[str, int] = {}
    for node in ep.graph.find_nodes(op="placeholder"):
        value = node.meta.get("val")
        if isinstance(value, Tensor) and value.ndim and isinstance(value.shape[0], torch.SymInt):
            bounds = ep.range_constraints.get(value.shape[0].node.expr)
            smallest[node.name] = int(bounds.lower) if bounds is not None else 0
    return smallest


def _trains(node: fx.Node) -> bool:
    """Whether an operation behaves as in training: dropout that drops, a batch norm that reads its batch."""
    position = {"aten::dropout": 2, "aten::batch_norm": 5, "aten::feature_dropout": 2}
    if not isinstance(node.target, torch._ops.OpOverload):
        return False
    name = node.target._schema.name
    return name in position and len(node.args) > position[name] and node.args[position[name]] is True


# -------------------------------------------------------------------------------------------------- what comes out


def _program(ep: ExportedProgram, origin: str, dims: Sequence[Mapping[int, str]]) -> Program:
    """Flatten an exported program; `dims` are the user's names for free dimensions, one mapping for each input."""
    try:
        source = _unlift(ep)
    except Exception as error:  # the format allows much that the exporter's own code refuses
        raise ParallelizeError(
            f"The exported program {origin} cannot be turned into a module: {first_sentence(error)}.",
            "Export it again with the installed version of PyTorch.",
        ) from error
    graph = fx.Graph()
    results = tuple(_copy(source, "", {}, graph))
    names = _output_names(ep.call_spec.out_spec, results)
    kept = {name: value for name, value in zip(names, results, strict=True) if _is_tensor(value)}
    output = graph.output(_structure(ep.call_spec.out_spec, kept))
    output.meta["val"] = fx.map_arg(output.args[0], lambda node: node.meta["val"])
    _drop_unused_submodules(graph, source)
    module = fx.GraphModule(source, graph).eval()
    _complete_metadata(module)
    labels = _Labels()
    placeholders = graph.find_nodes(op="placeholder")
    for node, chosen in zip(placeholders, dims, strict=False):
        labels.choose(node.meta["val"], chosen)
    inputs = tuple(labels.spec(str(node.target), node.meta["val"]) for node in placeholders)
    outputs = tuple(labels.spec(name, node.meta["val"]) for name, node in kept.items())
    return Program(module, inputs, outputs, origin)


def _unlift(ep: ExportedProgram) -> fx.GraphModule:
    """Parameters become attributes again. PyTorch 2.10 and later write guards into the graph unless told not to."""
    if "check_guards" in inspect.signature(ep.module).parameters:
        return ep.module(check_guards=False)
    module = ep.module()
    assert isinstance(module, fx.GraphModule)
    return module


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
        if node.op == "call_module" and node.target == _GUARDS:
            continue
        if node.target is torch.ops.aten._assert_tensor_metadata.default:
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
        values[node] = graph.node_copy(node, lambda old: values[old])
        if node.op == "get_attr":
            values[node].target = f"{prefix}{node.target}"
    raise AssertionError("a graph without an output node")


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
        names.append(_unique(re.sub(r"\W", "_", name), names))
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


def _unique(name: str, taken: Sequence[str]) -> str:
    if name not in taken:
        return name
    return next(other for number in range(1, 10**6) if (other := f"{name}_{number}") not in taken)


def _structure(spec: pytree.TreeSpec | None, kept: Mapping[str, Any]) -> Any:
    """What the graph returns: a tensor for a bare tensor, a dictionary for named outputs, else a tuple.

    Containers of other libraries are not kept: a file that names them loads only where those libraries are imported.
    """
    nodes = tuple(kept.values())
    if spec is not None and spec.is_leaf() and len(nodes) == 1:
        return nodes[0]
    if all(re.fullmatch(r"output(_\d+)?", name) for name in kept):
        return nodes
    return dict(kept)


class _Labels:
    """Names for the symbols that stand for free dimensions; one symbol has one name everywhere."""

    def __init__(self) -> None:
        self.names: dict[Any, str] = {}

    def choose(self, value: Tensor, dims: Mapping[int, str]) -> None:
        """Take the user's names for the dimensions of one input; the first name of a symbol stays."""
        for axis, name in dims.items():
            size = value.shape[axis]
            if isinstance(size, torch.SymInt) and size.node.expr.is_Symbol:
                self.names.setdefault(size.node.expr, name)

    def spec(self, name: str, value: Tensor) -> TensorSpec:
        """The spec of one input or output."""
        return TensorSpec(name, tuple(self._size(size, axis) for axis, size in enumerate(value.shape)), value.dtype)

    def _size(self, size: int | torch.SymInt, axis: int) -> int | str:
        if not isinstance(size, torch.SymInt):
            return int(size)
        expression = size.node.expr
        if expression.is_number:
            return int(expression)
        for symbol in sorted(expression.free_symbols, key=str):
            if symbol not in self.names:
                self.names[symbol] = "batch" if axis == 0 else _unique(f"dim_{axis}", tuple(self.names.values()))
        return str(expression.xreplace({symbol: sympy.Symbol(name) for symbol, name in self.names.items()}))


def _evaluate(expression: str, known: Mapping[str, int], other: int) -> int:
    """The size that an expression of dimension names stands for."""
    if expression.isidentifier():
        return known.get(expression, other)
    words = re.findall(r"[A-Za-z_]\w*", expression)
    return int(sympy.sympify(expression, locals={word: sympy.Integer(known.get(word, other)) for word in words}))


def _example_sizes(program: Program) -> dict[str, int]:
    """A size for each free dimension: the one it was captured with, where the graph still knows it."""
    sizes: dict[str, int] = {}
    batch = next(size for size in _free_sizes() if all(size not in spec.shape for spec in program.inputs))
    for spec, node in zip(program.inputs, program.module.graph.find_nodes(op="placeholder"), strict=True):
        for axis, (word, size) in enumerate(zip(spec.shape, node.meta["val"].shape, strict=True)):
            if isinstance(word, str) and word.isidentifier():
                hint = getattr(size.node, "hint", None) if isinstance(size, torch.SymInt) else None
                sizes.setdefault(word, hint if isinstance(hint, int) else batch if axis == 0 else _OTHER_SIZE)
    return sizes
