"""All passes by name, in the order in which they run: a file in a room of `passes/` is found by itself.

A pass says in which stage it runs and after which passes of that stage; passes without an order between them run in the
order of their names.
"""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Iterator
from types import ModuleType
from typing import get_args

import networkx as nx

import passes
from passes.errors import PassError
from passes.runner import Pass, Stage


def found_passes() -> dict[str, type[Pass]]:
    """Every pass that a module in a room of this package defines, in the order in which they run.

    Raises:
        PassError: two passes of one name, a stage or a predecessor that there is not, or no order that keeps all.
    """
    steps: dict[str, type[Pass]] = {}
    for step in _defined():
        if step.name in steps:
            raise PassError(f"Two passes are called {step.name!r}.", f"Rename the one in {step.__module__}.")
        if step.stage not in get_args(Stage):
            raise PassError(
                f"The pass {step.name!r} runs in the stage {step.stage!r}, which there is not.",
                f"The stages are {', '.join(get_args(Stage))}.",
            )
        steps[step.name] = step
    return {name: steps[name] for stage in get_args(Stage) for name in _sorted(steps, stage)}


def _defined() -> Iterator[type[Pass]]:
    for room in pkgutil.iter_modules(passes.__path__, f"{passes.__name__}."):
        if not room.ispkg:
            continue
        for info in pkgutil.iter_modules(_module(room.name).__path__, f"{room.name}."):
            for _, value in inspect.getmembers(_module(info.name), inspect.isclass):
                if issubclass(value, Pass) and value.__module__ == info.name and not inspect.isabstract(value):
                    yield value


def _module(name: str) -> ModuleType:
    return __import__(name, globals(), fromlist=["_"])  # told apart from the user's imports by its globals


def _sorted(steps: dict[str, type[Pass]], stage: str) -> list[str]:
    """The names of the passes of a stage, each after those that it names."""
    order = nx.DiGraph()
    order.add_nodes_from(name for name, step in steps.items() if step.stage == stage)
    for name in list(order):
        for earlier in steps[name].after:
            if earlier not in order:
                raise PassError(
                    f"The pass {name!r} comes after {earlier!r}, which is no pass of the stage {stage!r}.",
                    f"The passes there are {', '.join(sorted(order))}.",
                )
            order.add_edge(earlier, name)
    try:
        return list(nx.lexicographical_topological_sort(order))
    except nx.NetworkXUnfeasible as error:
        raise PassError(
            f"The passes of the stage {stage!r} name one another in a circle.", "Look at what they come after."
        ) from error


PASSES = found_passes()
CLEANING: tuple[Pass, ...] = tuple(step() for step in PASSES.values() if step.stage == "clean")
FUSION: tuple[Pass, ...] = tuple(step() for step in PASSES.values() if step.stage == "fuse")
