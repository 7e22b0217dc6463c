"""Capture: a PyTorch model becomes a flat ATen graph, a **Program**, by way of `torch.export`.

    nn.Module + example input  --capture-->  Program  --passes-->  Program  --export-->  ExportedProgram (.pt2, ONNX)

The graph of a program has one placeholder for each tensor that the model reads and calls ATen operations only. It is
called with these tensors in the order of `Program.inputs`; it returns one tensor when the model returned a bare tensor,
a dictionary when the model named its outputs, and a tuple otherwise.
"""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram, ShapesCollection
from torch.fx._lazy_graph_module import _LazyGraphModule
from torch.utils import _pytree as pytree

from parallelize.data.tensor_spec import OTHER_SIZE
from parallelize.machine.quiet import quiet_logs
from parallelize.models.capture_examples import Dynamic, dynamic_dims, free_sizes, multiple, resize
from parallelize.models.flatten import flatten
from parallelize.models.keywords import written_out
from parallelize.models.printed_graphs import without_graphs
from parallelize.models.program import Labels, Program, original_of, plain
from passes.errors import ParallelizeError, PassError
from passes.graph.editing import eliminate_dead_code

_TORCH = Path(torch.__file__).parent
_CONTROL_FLOW = ("cond", "while_loop", "map_impl", "scan", "associative_scan")
_FIXED_HINT = "Pass --input with a fixed size in place of the word."
_HINTS = {  # words in what the exporter says -> what to do about it
    "data-dependent": "Control flow must not depend on values in a tensor: take it out of forward, or use torch.cond.",
    "not a known type": "Return tensors, in dictionaries, lists or tuples; a language model must not return its cache.",
    "": "Call torch.export.export on the model alone to see more, or give a wrapper that leaves this part out.",
}


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
    dims = dynamic_dims(examples, dynamic, named)
    resized = iter(resize(examples, dims))
    call_args, call_kwargs = pytree.tree_unflatten(
        [next(resized) if isinstance(leaf, Tensor) else leaf for leaf in leaves], structure
    )
    try:
        exported = _torch_export(module, call_args, call_kwargs, dims)
    except Exception as error:  # the exporter and the model's own code may raise anything
        raise _capture_error(module, call_args, call_kwargs, error, named) from error
    program = _program(exported, named, dims)
    _refuse_specialised(program, exported, dims)
    return replace(program, original=original_of(module, leaves, structure, program.inputs))


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
    _LazyGraphModule.force_recompile(program.module)  # the exporter reads the signature of `forward`
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


def _torch_export(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], dims: Sequence[Mapping[int, str]]
) -> ExportedProgram:
    """Call the exporter with its log off: its errors are reported once, by the caller.

    `Dim.AUTO` lets it find out how large a free dimension may be; a named dimension must know that beforehand. What it
    fixed shows in the result. Only a first axis that several inputs share is named, so that it is one symbol even in a
    model that never brings these inputs together.
    """
    firsts = [multiple(names[0]) for names in dims if 0 in names]
    words = [word for _, word in firsts]
    bases = {word: Dim(word) for word in words if words.count(word) > 1 or any(n > 1 for n, w in firsts if w == word)}
    shared = {f"{n}*{word}" if n > 1 else word: n * bases[word] for n, word in firsts if word in bases}
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
    hook = module.register_forward_hook(lambda _module, _args, result: plain(result))
    try:
        with quiet_logs(), without_graphs(), written_out(module, kwargs), torch.no_grad():
            dynamic = shapes.dynamic_shapes(module, args, kwargs) if len(shapes) else None
            exported = torch.export.export(module, args, kwargs, dynamic_shapes=dynamic, strict=False)
    finally:
        hook.remove()
    _forget_branches(exported)
    return exported


def _forget_branches(exported: ExportedProgram) -> None:
    """Branches and loops are traced by the compiler of PyTorch, which keeps the module and its weights for good."""
    compiler = sys.modules.get("torch._dynamo")
    targets = (node.target for node in exported.graph.nodes)
    operators = (target for target in targets if isinstance(target, torch._ops.HigherOrderOperator))
    if compiler is not None and any(str(operator) in _CONTROL_FLOW for operator in operators):
        compiler.reset()


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
            "Give the shape and dtype that the model reads, for example --input batchx3x224x224@float32; several"
            " rows for each sample are spelled 4*batchx128.",
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
            if axis == 0 and smallest[spec.name] > 2 * multiple(name)[0]:  # the exporter itself assumes 2 and more
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
        module, results = flatten(ep)
    except ParallelizeError:
        raise
    except Exception as error:  # the format allows much that the exporter's own code refuses
        raise ParallelizeError(
            f"The exported program {origin} cannot be turned into a module: {first_sentence(error)}.",
            "Export it again with the installed version of PyTorch.",
        ) from error
    eliminate_dead_code(module)  # such as the last text state of two coupled ones, which no output reads
    labels = Labels()
    placeholders = module.graph.find_nodes(op="placeholder")
    for node, chosen in zip(placeholders, dims, strict=False):
        labels.choose(node.meta["val"], chosen)
    inputs = tuple(labels.spec(str(node.target), node.meta["val"]) for node in placeholders)
    outputs = tuple(labels.spec(name, node.meta["val"]) for name, node in results.items())
    return Program(module, inputs, outputs, origin)


def _example_sizes(program: Program) -> dict[str, int]:
    """A size for each free dimension: the one it was captured with, where the graph still knows it."""
    sizes: dict[str, int] = {}
    batch = next(size for size in free_sizes() if all(size not in spec.shape for spec in program.inputs))
    for spec, node in zip(program.inputs, program.module.graph.find_nodes(op="placeholder"), strict=True):
        for axis, (word, size) in enumerate(zip(spec.shape, node.meta["val"].shape, strict=True)):
            if isinstance(word, str) and word.isidentifier():
                hint = getattr(size.node, "hint", None) if isinstance(size, torch.SymInt) else None
                sizes.setdefault(word, hint if isinstance(hint, int) else batch if axis == 0 else OTHER_SIZE)
    return sizes
