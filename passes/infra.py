"""What a pass is, and the runner that owns the routine around it.

A pass edits a graph that the runner has cloned for it and says what it matched and what it skipped, each with its
reason. The runner cleans up, lints, propagates shapes, probes the numbers and refuses an exact pass that changed them.
"""

from __future__ import annotations

import abc
import inspect
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, ClassVar

import torch
from torch import Tensor, fx, nn
from torch.fx._lazy_graph_module import _LazyGraphModule
from torch.utils import _pytree as pytree

from passes.agreement import Change, change
from passes.agreement import largest_change as largest_change  # noqa: PLC0414  (what runs a pass also compares)
from passes.errors import PassError
from passes.operators import writes_in_place
from passes.shapes import propagate_shapes


@dataclass(frozen=True)
class Skip:
    """Something a pass left alone, and why: a sentence that names the node and the value."""

    node: str
    reason: str


@dataclass(frozen=True)
class PassResult:
    """What a pass did: one line for each match, one reason for each thing it left alone.

    Attributes:
        present: the nodes that the pass is about, by name, where it counts them; each is among `changed`, or has a
            reason among `skipped`.
        changed: those that it rewrote.
    """

    matches: tuple[str, ...] = ()
    skipped: tuple[Skip, ...] = ()
    present: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()

    def __add__(self, other: PassResult) -> PassResult:
        return PassResult(
            self.matches + other.matches,
            self.skipped + other.skipped,
            self.present + other.present,
            self.changed + other.changed,
        )

    @property
    def unexplained(self) -> tuple[str, ...]:
        """What was present and is neither changed nor left with a reason, or both."""
        changed, left = set(self.changed), {skip.node for skip in self.skipped}
        return tuple(name for name in self.present if (name in changed) == (name in left))


@dataclass(frozen=True)
class Pass(abc.ABC):
    """One idea for one change of a graph. Subclasses are frozen dataclasses; their fields are the pass's parameters.

    Attributes:
        name: kebab-case, unique.
        exact: whether outputs must stay the same up to rounding.
    """

    name: ClassVar[str]
    exact: ClassVar[bool]

    @abc.abstractmethod
    def apply(self, module: fx.GraphModule) -> PassResult:
        """Edit `module` in place."""

    @classmethod
    def summary(cls) -> str:
        """The first line of the pass's docstring."""
        return (inspect.getdoc(cls) or "").splitlines()[0]


@dataclass(frozen=True)
class PassRecord:
    """What the runner saw; `seconds` include the clean-up, `error` is the largest relative change of the outputs."""

    name: str
    exact: bool
    matches: tuple[str, ...]
    skipped: tuple[Skip, ...]
    nodes_before: int
    nodes_after: int
    seconds: float
    error: float | None
    present: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()


Callback = Callable[[int, Pass, fx.GraphModule], None]

# Rounding that a reordered sum may cause, relative to the largest output.
EXACT_TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}


def clone(module: fx.GraphModule) -> fx.GraphModule:
    """A copy of the graph that shares parameters and submodules and keeps node names and metadata.

    Its Python code is generated when it is first called: most graphs between two passes never are.
    """
    graph = fx.Graph()
    value: dict[fx.Node, fx.Node] = {}
    for node in module.graph.nodes:
        value[node] = graph.node_copy(node, value.__getitem__)
    graph._codegen = module.graph._codegen
    copied: fx.GraphModule = _LazyGraphModule(nn.Module(), fx.Graph()).train(module.training)
    copied.graph = graph
    copied.meta.update(module.meta)
    for mine, other in (
        (copied._modules, module._modules),
        (copied._parameters, module._parameters),
        (copied._buffers, module._buffers),
    ):
        mine.update(other)  # type: ignore[arg-type]  # three dictionaries, each with its own kind of values
    for name in {str(node.target).split(".")[0] for node in graph.find_nodes(op="get_attr")}:
        if not hasattr(copied, name):  # neither tensor nor module
            setattr(copied, name, getattr(module, name))
    return copied


def _without_unused(module: fx.GraphModule) -> fx.GraphModule:
    """The module, or one of the same graph without the tensors that no node reads."""
    read = {node.target for node in module.graph.find_nodes(op="get_attr")}
    held = chain(module.named_parameters(remove_duplicate=False), module.named_buffers(remove_duplicate=False))
    if all(name in read for name, _ in held):
        return module
    made = _LazyGraphModule(module, module.graph)
    made.meta.update(module.meta)
    return made


def eliminate_dead_code(module: fx.GraphModule) -> None:
    """Erase nodes whose values nobody reads, parameters too; inputs stay."""
    for node in reversed(module.graph.nodes):
        if not node.users and node.op in ("call_function", "get_attr"):
            module.graph.erase_node(node)


def flat_leaves(module: fx.GraphModule) -> list[fx.Node]:
    """The nodes that the graph's output returns, flattened."""
    output = next(node for node in reversed(module.graph.nodes) if node.op == "output")
    return [leaf for leaf in pytree.tree_leaves(output.args) if isinstance(leaf, fx.Node)]


def flat_outputs(module: fx.GraphModule, inputs: Sequence[Any]) -> list[Tensor]:
    """Run the graph on flat inputs; the tensors of its output in order."""
    with torch.no_grad():
        outputs = fx.Interpreter(module).run(*inputs, enable_io_processing=False)
    return [leaf.detach() for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)]


def refuse_writes(module: fx.GraphModule) -> None:
    """Refuse a graph that is not functional: a rewrite moves nodes, and a write in place forbids that.

    Raises:
        PassError: naming the first node that writes in place.
    """
    for node in module.graph.nodes:
        if writes_in_place(node):
            raise PassError(
                f"{node.name} ({node.target}) writes in place, so the graph cannot be rewritten.",
                "Capture the model with parallelize.capture, which replaces writes by their functional forms.",
            )


def finish(module: fx.GraphModule) -> fx.GraphModule:
    """Clean up after an edit: dead code, lint, shapes; parameters that no node reads go.

    The graph is the edited one, not a copy of it: nodes stay the same objects.

    Raises:
        PassError: the graph writes in place, so that what a node reads depends on when it runs.
    """
    refuse_writes(module)
    eliminate_dead_code(module)
    module.graph.lint()
    finished = _without_unused(module)
    propagate_shapes(finished)
    return finished


def run_passes(
    module: fx.GraphModule,
    passes: Sequence[Pass],
    probe: Sequence[Any] | None = None,
    callback: Callback | None = None,
) -> tuple[fx.GraphModule, tuple[PassRecord, ...]]:
    """Apply passes in order, each on a clone.

    Args:
        module: a captured graph; it is not changed.
        passes: what to apply.
        probe: flat inputs on which the numbers are compared before and after each pass.
        callback: called after each pass with its number, the pass and the graph.

    Raises:
        PassError: a pass that calls itself exact changed the outputs by more than rounding, or a pass gave no reason
            for what it left.
    """
    records = []
    before = None if probe is None else flat_outputs(module, probe)
    for number, step in enumerate(passes):
        start = time.perf_counter()
        edited = clone(module)
        result = step.apply(edited)
        _check_reasons(step, result)
        edited = finish(edited)
        seconds = time.perf_counter() - start
        error = None
        if before is not None and probe is not None:
            after = flat_outputs(edited, probe)
            moved = change(before, after)
            error = moved.largest
            _check_exact(step, moved, module)
            before = after
        records.append(
            PassRecord(
                step.name,
                step.exact,
                result.matches,
                result.skipped,
                len(module.graph.nodes),
                len(edited.graph.nodes),
                seconds,
                error,
                result.present,
                result.changed,
            )
        )
        module = edited
        if callback is not None:
            callback(number, step, module)
    return module, tuple(records)


def _check_reasons(step: Pass, result: PassResult) -> None:
    if result.unexplained:
        raise PassError(
            f"The pass {step.name} neither changed {result.unexplained[0]} nor gave one reason for leaving it.",
            "This is a bug; please report it with the model.",
        )


def _check_exact(step: Pass, moved: Change, module: fx.GraphModule) -> None:
    """Rounding is that of the coarsest type in the graph: a state may be float32 in a model of float64."""
    computed = (node.meta.get("val") for node in module.graph.nodes if node.op == "call_function")
    dtypes = {value.dtype for value in computed if isinstance(value, Tensor)}
    allowed = max((EXACT_TOLERANCE.get(dtype, 0.0) for dtype in dtypes), default=0.0)
    if step.exact and not moved.within(allowed):
        raise PassError(
            f"The pass {step.name} is exact but changed the outputs by {moved.largest:.1e} of their size.",
            "This is a bug; please report it with the model.",
        )
