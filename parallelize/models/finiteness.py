"""A teacher must be made of numbers: NaN at a position that counts is told with the parameter or node where it begins.

Cases:
    1. a parameter that is NaN somewhere is refused before anything runs, by its name;
    2. an output that is NaN at a real position is refused with the first sample that shows it, and with the stored
       tensor or the operator in which NaN begins: its inputs are numbers, its result is none.

Infinity in an output is not refused: logits of forbidden classes are -inf. Neither is what is NaN at padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from parallelize.data import Samples
from parallelize.data.padding import layouts, mask_position, output_nodes, real_parts
from parallelize.models.answers import Answering
from parallelize.models.blame import blaming
from parallelize.models.program import Program
from parallelize.models.states import batch_size
from passes.errors import ParallelizeError
from passes.graph.dataflow import carries_tensors, described
from passes.graph.outputs import flat_outputs
from passes.graph.parameters import is_learned, read_parameter

_DIVERGED = "A training that diverged leaves such numbers: take another checkpoint, or mend this one."


def refuse_not_finite(
    program: Program, samples: Samples, what: str = "sample", most: int = 100, captured: Program | None = None
) -> Samples:
    """Run a program on samples and refuse it where it is NaN.

    Args:
        program: the captured model, or what clean-up made of it.
        samples: real ones, or random ones.
        what: what one of them is called in the sentence.
        most: samples at a time.
        captured: the model as it was captured, whose nodes are named; None where that is the program.

    Returns:
        The samples with what the program answers to them, where that is small.

    Raises:
        ParallelizeError: naming the parameter that is NaN, or the sample and the node where NaN begins.
    """
    refuse_nan_parameters(captured or program)
    return samples.room.fitting(lambda: _without_nan(program, samples, what, most, captured or program))


def _without_nan(program: Program, samples: Samples, what: str, most: int, captured: Program) -> Samples:
    place, found = mask_position(samples), layouts(program.module, samples)
    start, most = 0, samples.size(batch_size(program.module, most))
    answering = Answering(program.module, samples)
    for batch, count in zip(samples.batches(most), samples.counts(most), strict=True):
        size = samples.fixed or count
        with blaming(captured, samples, start, size, what):
            outputs = flat_outputs(program.module, batch)
        real = real_parts(found, outputs, batch, place)
        if _nan_outputs(outputs, real):
            for told in (captured, program):
                refuse_nan_outputs(told, batch, flat_outputs(told.module, batch), real, start, size, what)
        answering.take(outputs, size, count)
        start += count
    return answering.answered()


def refuse_nan_parameters(program: Program) -> None:
    """Case 1 of the module's docstring.

    Raises:
        ParallelizeError: naming the parameter.
    """
    for node in program.module.graph.find_nodes(op="get_attr"):
        if not node.users or not carries_tensors(node) or not is_learned(program.module, node):
            continue
        value = read_parameter(program.module, node)
        if value.isnan().any():
            raise ParallelizeError(
                f"The parameter {node.target} of {program.origin} is NaN in {_share(value.isnan())}.", _DIVERGED
            )


def refuse_nan_outputs(
    program: Program,
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    real: Sequence[Tensor | None],
    start: int = 0,
    size: int = 1,
    what: str = "sample",
) -> None:
    """Case 2 of the module's docstring, for one batch that has run.

    Args:
        program: the captured model.
        inputs: the batch.
        outputs: what the program's graph made of it.
        real: for each output where it is real, as `parallelize.data.padding.real_parts` gives it.
        start: how many samples came before the batch.
        size: how many samples it has.
        what: what a sample is called in the sentence.

    Raises:
        ParallelizeError: naming the output, the sample, and the node or the stored tensor where NaN begins.
    """
    for place, bad in _nan_outputs(outputs, real).items():
        name = program.outputs[place].name if place < len(program.outputs) else str(place)
        rows = bad.reshape(len(bad), -1).any(1) if bad.ndim else bad.reshape(1)
        number = int(rows.int().argmax()) * size // max(len(rows), 1)
        begins = _beginning(program.module, output_nodes(program.module)[place], inputs)
        raise ParallelizeError(
            f"The output {name!r} of {program.origin} is NaN in {what} {start + number}: {begins}.",
            "Mend the model or leave out such samples; where they are padding or see nothing, name the mask of"
            " padding with --mask.",
        )


def _nan_outputs(outputs: Sequence[Tensor], real: Sequence[Tensor | None]) -> dict[int, Tensor]:
    """The places of outputs that are NaN somewhere where they are real, and where."""
    pairs = zip(outputs, real, strict=True)
    bad = {place: value.isnan() if mask is None else value.isnan() & mask for place, (value, mask) in enumerate(pairs)}
    return {place: there for place, there in bad.items() if there.any()}


def _beginning(module: fx.GraphModule, output: fx.Node, inputs: Sequence[Tensor]) -> str:
    """Where the NaN of an output begins, as the end of a sentence."""
    watch = _Watch(module, _ancestors(output))
    with torch.no_grad():
        watch.run(*inputs, enable_io_processing=False)
    node = watch.first or output
    if node.op == "get_attr":
        return f"its stored tensor {node.target} is NaN in {_share(read_parameter(module, node).isnan())}"
    infinite = [source.name for source in node.all_input_nodes if source in watch.infinite]
    return f"it begins at {described(node)}" + (f", which reads infinity from {infinite[0]}" if infinite else "")


class _Watch(fx.Interpreter):
    """Runs a graph and notes the first of some nodes whose value is NaN, and all that are infinite before it."""

    def __init__(self, module: fx.GraphModule, nodes: set[fx.Node]) -> None:
        super().__init__(module)
        self.nodes = nodes
        self.first: fx.Node | None = None
        self.infinite: set[fx.Node] = set()

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if self.first is None and n in self.nodes:
            tensors = [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor)]
            if any(tensor.isnan().any() for tensor in tensors):
                self.first = n
            elif any(tensor.isinf().any() for tensor in tensors):
                self.infinite.add(n)
        return value


def _ancestors(node: fx.Node) -> set[fx.Node]:
    found, pending = {node}, [node]
    while pending:
        for source in pending.pop().all_input_nodes:
            if source not in found:
                found.add(source)
                pending.append(source)
    return found


def _share(bad: Tensor) -> str:
    return f"{int(bad.sum())} of its {bad.numel()} numbers"
