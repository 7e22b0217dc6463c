"""`parallelize.inspect` and `parallelize.draw` in Python: what the commands of these names print and write.

parallelize.inspect("model.pt")["stacks"]
parallelize.draw(module, "schedule.svg", plan="out/plan.json", inputs=data)
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parallelize.files.plan import plan_of
from parallelize.inspecting.diagrams import check_suffix, schedule_graph
from parallelize.inspecting.diagrams import draw as write
from parallelize.inspecting.files import reader
from parallelize.inspecting.network import as_dict
from parallelize.models.clean import clean
from parallelize.models.prepare import looked_at
from parallelize.models.program import Program
from parallelize.models.source import Source
from passes.plan import Plan, serial
from passes.schedule.apply_plan import check_fits
from passes.stacks.find import find_stacks

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from parallelize.models.source import Data, Model


def inspect(model: Model | Source, **data: Unpack[Data]) -> dict[str, Any]:
    """A model's stacks, terms and refusals, an ONNX file's operators, or an engine's layers, as plain values.

    Args:
        model: a module, a program or a reference as on the command line; a `.onnx` or `.engine` is read as it is.
        data: what a `parallelize.Source` has beside the model.

    Raises:
        ParallelizeError: it cannot be read or captured.
    """
    source = Source.of(model, **data)
    read = reader(Path(source.model)) if isinstance(source.model, str | os.PathLike) else None
    if read is not None:
        return dict(read(Path(str(source.model))).content)
    program, notes = _looked_at(source)
    return {**as_dict(program), "notes": notes}


def draw(
    model: Model | Source,
    output: str | os.PathLike[str],
    plan: Plan | str | os.PathLike[str] | Mapping[str, Any] | None = None,
    *,
    expand: bool = False,
    **data: Unpack[Data],
) -> None:
    """Draw a model's schedule, level by level, with the critical path marked.

    Args:
        model: as for `inspect`, but no ONNX file or engine.
        output: .svg, .dot, .graphml or .json.
        plan: what to draw; None is the serial model.
        expand: draw every block, repeated ones too.
        data: what a `parallelize.Source` has beside the model.

    Raises:
        ParallelizeError: the model cannot be captured, the plan does not fit, or there is no such format.
        EnvironmentLackError: the place cannot be written to.
    """
    path = Path(output)
    check_suffix(path)
    program, _ = _looked_at(Source.of(model, **data))
    stacks = find_stacks(program.module).stacks
    chosen = Plan(tuple(serial(len(s.terms)) for s in stacks)) if plan is None else plan_of(plan)
    check_fits(stacks, chosen)
    write(schedule_graph(stacks, chosen, Path(program.origin).name, collapse=not expand), path)


def _looked_at(source: Source) -> tuple[Program, tuple[str, ...]]:
    """The cleaned program, and what is to be told of it."""
    raw, notes = looked_at(source)
    program, _ = clean(replace(raw, original=None))
    return program, notes
