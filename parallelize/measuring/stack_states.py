"""The states x_0, x_1, ... of each residual stack of a network, and how they are read in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from parallelize.export.state_names import KEY, StackStates, from_metadata, named_states
from parallelize.models.clean import clean
from parallelize.models.program import Program
from parallelize.models.states import placeholders, run_segment
from passes.errors import ParallelizeError
from passes.graph.segment import extract
from passes.stacks.find import find_stacks

Read = Callable[[Sequence[Tensor]], Sequence[Tensor]]


@dataclass(frozen=True, eq=False)
class States:
    """All stacks of one network, and how values are read in it.

    Attributes:
        label: what the user called the network.
        stacks: in the order in which they run.
        reader: names of values -> inputs -> these values.
    """

    label: str
    stacks: tuple[StackStates, ...]
    reader: Callable[[Sequence[str]], Read]


def program_states(label: str, program: Program) -> States:
    """States of a captured program, which is cleaned for that."""
    module = clean(program)[0].module

    def reader(names: Sequence[str]) -> Read:
        by_name = {node.name: node for node in module.graph.nodes}
        segment = extract(module, placeholders(module), [by_name[name] for name in names])
        return lambda inputs: run_segment(segment, inputs)

    return States(label, named_states(find_stacks(module).stacks), reader)


def onnx_states(label: str, path: Path, threads: int) -> States:
    """States of an ONNX file.

    Raises:
        ParallelizeError: the file does not say where its states are.
    """
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    text = next((entry.value for entry in model.metadata_props if entry.key == KEY), None)
    stacks = None if text is None else from_metadata(text)
    if stacks is None:
        raise ParallelizeError(
            f"{label} does not say which of its values are states.",
            "Only ONNX files that this version of parallelize writes do; name the model.pt2 instead.",
        )
    return States(label, stacks, lambda names: _onnx_reader(model, path, names, threads))


def _onnx_reader(model: Any, path: Path, names: Sequence[str], threads: int) -> Read:
    """A session on the same graph with other outputs, optimised as ONNX Runtime does."""
    import onnx

    from parallelize.backends.onnxruntime.session import OnnxRuntime

    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    inferred = {info.name: info for info in [*changed.graph.value_info, *changed.graph.input, *changed.graph.output]}
    del changed.graph.output[:]
    changed.graph.output.extend(inferred.get(name) or onnx.ValueInfoProto(name=name) for name in dict.fromkeys(names))
    session = OnnxRuntime(changed.SerializeToString(), threads, weights=path.parent)
    places = [[spec.name for spec in session.outputs].index(name) for name in names]

    def read(inputs: Sequence[Tensor]) -> list[Tensor]:
        values = session(inputs)
        return [values[place] for place in places]

    return read
