"""Write a program as ONNX: dynamic dimensions kept, LayerNormalization as one operator, checked.

Values have unique names in ONNX, so an output that has the name of an input is called NAME_out there, and one that is
an input, a weight or another output is a copy of it. The metadata says whether they were a tensor, a tuple or a
dictionary. What cannot be written is named with its place in the model.
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import onnx_ir

from parallelize.export.onnx_file import PRODUCTS, WIDE
from parallelize.export.refusal import unwritable
from parallelize.export.rewrite_rules import rules_where_they_begin
from parallelize.export.signed import signed
from parallelize.export.state_names import KEY, named_states, to_metadata
from parallelize.export.translations import kept_translations, translated
from parallelize.export.weight_files import SharedWeights, save
from parallelize.machine.device import CPU
from parallelize.models import returned
from parallelize.models.capture import export, from_exported
from parallelize.models.placement import placed
from parallelize.models.program import Program, unique
from parallelize.models.returned import Returned
from passes.errors import ParallelizeError
from passes.graph.dataflow import tensor_value
from passes.stacks.find import find_stacks

if TYPE_CHECKING:
    from torch.onnx import ONNXProgram

OPSET = 18
_BFLOAT16_OPSET = 22  # the first in which convolutions, pooling and sines take bfloat16
_WIDE_WEIGHT = re.compile(r"%[pbc]_(wide_weight\w*)")  # as the exporter spells a parameter of the graph


def write_onnx(program: Program, path: Path, opset: int | None = None, *, shared: SharedWeights | None = None) -> None:
    """Export to ONNX and check the result.

    Args:
        program: what to export.
        path: the .onnx file; weights of 512 MiB and more go to a file beside it.
        opset: at least 18; None is 18, and 22 for a program that computes in bfloat16.
        shared: weights that another file of the same folder has, which are not written again.

    Raises:
        ParallelizeError: an operator has no ONNX form, or the checker refuses the model.
    """
    import onnx
    import torch

    program = placed(program, CPU)
    opset = opset or _least_opset(program)
    with _quiet():
        exported = signed(program, translated(opset)) or export(program)
    try:
        # with gradients on, attention with a learned bias is traced with other strides than it was exported with
        with _quiet(), kept_translations(), rules_where_they_begin(), torch.no_grad():
            result = torch.onnx.export(
                exported,
                (),
                dynamo=True,
                opset_version=opset,
                input_names=[spec.name for spec in program.inputs],
                verbose=False,
            )
            assert result is not None
            _name_outputs(result.model, program)
            _name_dimensions(result.model, program)
            _mark_wide(result.model)
            _forget_origins(result.model)
            _note_states(result)
            result.model.metadata_props[returned.KEY] = Returned.of(program).to_metadata()
            save(result.model, path, shared)
            del result
    except (torch.onnx.OnnxExporterError, RuntimeError) as error:
        raise unwritable(error, program) from error
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ParallelizeError(
            f"The ONNX checker refuses the exported model: {error}", "Please report this with the model."
        ) from error


def output_names(program: Program) -> list[str]:
    """What the outputs are called in ONNX."""
    inputs = [spec.name for spec in program.inputs]
    names: list[str] = []
    for spec in program.outputs:
        name = f"{spec.name}_out" if spec.name in inputs else spec.name
        names.append(unique(name, [*inputs, *names]))
    return names


def _name_outputs(model: onnx_ir.Model, program: Program) -> None:
    """Give each output a value of its own, and its name, which a value inside may have had."""
    graph, names = model.graph, output_names(program)
    kept = {id(value) for value in (*graph.inputs, *graph.initializers.values())}
    for place, value in enumerate(graph.outputs):
        if id(value) in kept:
            copy = onnx_ir.Node("", "Identity", [value])
            copy.outputs[0].shape, copy.outputs[0].type = value.shape, value.type
            graph.append(copy)
            graph.outputs[place] = copy.outputs[0]
        kept.add(id(value))
    outputs = {id(value) for value in graph.outputs}
    inside = [value for node in graph.all_nodes() for value in node.outputs if id(value) not in outputs]
    inside.extend(graph.initializers.values())
    taken = [*names, *(value.name or "" for value in inside)]
    for value in inside:
        if value.name in names:
            value.name = unique(value.name, taken)
    for value, name in zip(graph.outputs, names, strict=True):
        value.name = name


def _least_opset(program: Program) -> int:
    import torch

    values = (tensor_value(node) for node in program.module.graph.nodes)
    is_bfloat16 = any(value is not None and value.dtype == torch.bfloat16 for value in values)
    return _BFLOAT16_OPSET if is_bfloat16 else OPSET


def _name_dimensions(model: onnx_ir.Model, program: Program) -> None:
    """Call dynamic dimensions what the program calls them ("batch"), not what the exporter does ("s77")."""
    names: dict[str, str] = {}
    for value, spec in zip(model.graph.inputs, program.inputs, strict=True):
        for size, word in zip(value.shape or (), spec.shape, strict=True):
            if isinstance(word, str) and not isinstance(size, int) and size.value is not None:
                names[size.value] = word
    for value in [*model.graph.inputs, *(value for node in model.graph.all_nodes() for value in node.outputs)]:
        if value.shape is not None:
            value.shape = onnx_ir.Shape([_named(size, names) for size in value.shape])


def _named(size: int | onnx_ir.SymbolicDim, names: Mapping[str, str]) -> int | str | None:
    if isinstance(size, int) or size.value is None:
        return size if isinstance(size, int) else None
    return re.sub(r"[A-Za-z_]\w*", lambda found: names.get(found[0], found[0]), size.value)


def _mark_wide(model: onnx_ir.Model) -> None:
    """Note at every product that width fusion made which weight it reads, so that an engine's layers can be told."""
    for node in model.graph.all_nodes():
        found = _WIDE_WEIGHT.search(node.metadata_props.get("pkg.torch.onnx.fx_node", ""))
        if found is not None and node.op_type in PRODUCTS:
            node.metadata_props[WIDE] = found[1]


def _forget_origins(model: onnx_ir.Model) -> None:
    """Drop the exporter's notes on each node: they are a fifth of a small file and hold paths of this machine."""
    for node in model.graph.all_nodes():
        for key in [key for key in node.metadata_props if key.startswith("pkg.torch")]:
            del node.metadata_props[key]


def _note_states(result: ONNXProgram) -> None:
    """Say which values are states of residual stacks: the exporter numbered all values anew, in its own last graph."""
    if result.exported_program is None:
        return
    try:
        lowered = from_exported(result.exported_program, "")
    except ParallelizeError:  # an operator of the last graph that no program has: the file is as good without the note
        return
    stacks = named_states(find_stacks(lowered.module).stacks)
    values = {value.name for node in result.model.graph for value in node.outputs}
    values |= {value.name for value in result.model.graph.inputs}
    if stacks and all(state in values for stack in stacks for state in stack.states):
        result.model.metadata_props[KEY] = to_metadata(stacks)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's chatter away from the user's terminal."""
    levels = {name: logging.getLogger(name).level for name in ("torch.onnx", "onnxscript", "onnx_ir")}
    for name in levels:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
