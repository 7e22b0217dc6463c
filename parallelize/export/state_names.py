"""Where the states x_0, x_1, ... of each residual stack are in a graph: the names of the values that hold them.

A program's stacks are found in its graph. An ONNX file that `write_onnx` wrote says where they are in its metadata: the
exporter numbers its values anew, so that `add_23` of a file is another value than `add_23` of the graph that it came
from, and names tell nothing by themselves.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from passes.stacks.find import Stack

KEY = "parallelize.states"


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


def to_metadata(stacks: Sequence[StackStates]) -> str:
    """What stands in an ONNX file under KEY."""
    return json.dumps([asdict(stack) for stack in stacks], separators=(",", ":"))


def from_metadata(text: str) -> tuple[StackStates, ...] | None:
    """What to_metadata wrote; None if that is not it."""
    try:
        stacks: list[dict[str, Any]] = json.loads(text)
        return tuple(StackStates(s["name"], *(tuple(s[k]) for k in ("kinds", "modules", "states"))) for s in stacks)
    except (ValueError, KeyError, TypeError):
        return None
