"""Where the states x_0, x_1, ... of each residual stack are in a graph: the names of the values that hold them.

A program's stacks are found in its graph. An ONNX file that `write_onnx` wrote says where they are in its metadata: the
exporter numbers its values anew, so that `add_23` of a file is another value than `add_23` of the graph that it came
from, and names tell nothing by themselves.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from parallelize.cleaning import clean
from parallelize.program import Program
from parallelize.states import placeholders, run_segment
from passes.errors import ParallelizeError
from passes.segment import extract
from passes.stacks import Stack, find_stacks

KEY = "parallelize.states"
Read = Callable[[Sequence[Tensor]], Sequence[Tensor]]


@dataclass(frozen=True)
class StackStates:
    """One stack.

    Attributes:
        name: of the stack.
        kinds: of its terms, in order.
        modules: the module path of each term, where it is known.
        states: names of the values x_0 ... x_n, one more than there are terms.
    """

    name: str
    kinds: tuple[str, ...]
    modules: tuple[str, ...]
    states: tuple[str, ...]


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


def named_states(stacks: Sequence[Stack]) -> tuple[StackStates, ...]:
    """Names of the states of stacks that were found in a graph."""
    return tuple(
        StackStates(
            stack.name,
            tuple(term.kind for term in stack.terms),
            tuple(term.module for term in stack.terms),
            (stack.entry.name, *(term.result.name for term in stack.terms)),
        )
        for stack in stacks
    )


def program_states(label: str, program: Program) -> States:
    """States of a captured program, which is cleaned for that."""
    module = clean(program)[0].module

    def reader(names: Sequence[str]) -> Read:
        by_name = {node.name: node for node in module.graph.nodes}
        segment = extract(module, placeholders(module), [by_name[name] for name in names])
        return lambda inputs: run_segment(segment, inputs)

    return States(label, named_states(find_stacks(module).stacks), reader)


def to_metadata(stacks: Sequence[StackStates]) -> str:
    """What stands in an ONNX file under KEY."""
    return json.dumps([asdict(stack) for stack in stacks], separators=(",", ":"))


def onnx_states(label: str, path: Path, threads: int) -> States:
    """States of an ONNX file.

    Raises:
        ParallelizeError: the file does not say where its states are.
    """
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    text = next((entry.value for entry in model.metadata_props if entry.key == KEY), None)
    stacks = None if text is None else _from_metadata(text)
    if stacks is None:
        raise ParallelizeError(
            f"{label} does not say which of its values are states.",
            "Only ONNX files that this version of parallelize writes do; name the model.pt2 instead.",
        )
    return States(label, stacks, lambda names: _onnx_reader(model, path, names, threads))


def _from_metadata(text: str) -> tuple[StackStates, ...] | None:
    try:
        stacks: list[dict[str, Any]] = json.loads(text)
        return tuple(StackStates(s["name"], *(tuple(s[k]) for k in ("kinds", "modules", "states"))) for s in stacks)
    except (ValueError, KeyError, TypeError):
        return None


def _onnx_reader(model: Any, path: Path, names: Sequence[str], threads: int) -> Read:
    """A session on the same graph with other outputs, optimised as ONNX Runtime does."""
    import onnx

    from parallelize.backends.onnxruntime import OnnxRuntime

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
