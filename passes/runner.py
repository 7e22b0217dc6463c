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
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, fx

from passes.errors import PassError
from passes.graph.agreement import Change, change
from passes.graph.editing import clone, finish
from passes.graph.outputs import flat_outputs
from passes.graph.same import is_same

Stage = Literal["widen", "clean", "schedule", "spread", "fuse", "cast"]  # in this order


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
        stage: of a compilation, in which it runs.
        after: names of the passes of its stage that must have run before it.
    """

    name: ClassVar[str]
    exact: ClassVar[bool]
    stage: ClassVar[Stage]
    after: ClassVar[tuple[str, ...]] = ()

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
            after = before if is_same(module, edited) else flat_outputs(edited, probe)
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
