"""What `inspect` and `passes` print."""

from __future__ import annotations

import dataclasses
import inspect as python_inspect
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import fx

from parallelize.data.tensor_spec import TensorSpec
from parallelize.models.program import Program
from parallelize.terminal.words import counted
from passes.errors import ParallelizeError
from passes.fusion.fuse_width import FuseWidth
from passes.graph.dataflow import tensor_value
from passes.graph.editing import clone, eliminate_dead_code
from passes.graph.measures import critical_gemms, operator_counts, parameter_count
from passes.plan import Form, Plan, grouped
from passes.registry import PASSES
from passes.schedule.apply_plan import schedule
from passes.stacks.find import Stack, find_stacks
from passes.stacks.stack_graph import StackGraph, stack_graph

FORMS: tuple[Form, ...] = ("sublayer", "block")


def as_dict(program: Program) -> dict[str, Any]:
    """A model as plain values: inputs, outputs, sizes, operators, stacks with their terms, refusals."""
    found = find_stacks(program.module)
    graph = stack_graph(found.stacks)
    return {
        "model": program.origin,
        "inputs": [_spec(spec) for spec in program.inputs],
        "outputs": [_spec(spec) for spec in program.outputs],
        "parameters": parameter_count(program.module),
        "critical_gemms": critical_gemms(program.module),
        "operators": operator_counts(program.module),
        "depth": {"terms": graph.serial_terms, "blocks": graph.serial_blocks, "layers": graph.serial_layers},
        "stacks": [_stack(program, stack, graph.order.predecessors(n)) for n, stack in enumerate(found.stacks)],
        "refused": [dataclasses.asdict(refusal) for refusal in found.refused],
        "fusion": {
            **({"captured": _captured_fusion(program, graph)} if graph.branches else {}),
            **({form: _fusion(program, found.stacks, form) for form in FORMS} if found.stacks else {}),
        },
    }


def _fusion(program: Program, stacks: Sequence[Stack], form: Form) -> dict[str, Any]:
    """What width fusion would make of pairs of neighbouring blocks, and what stands in its way."""
    pairs = [
        grouped(len(stack.terms), [stack.blocks[i : i + 2] for i in range(0, len(stack.blocks), 2)], form)
        for stack in stacks
    ]
    module = clone(program.module)
    sites = schedule(module, Plan(tuple(pairs)))
    eliminate_dead_code(module)
    return _fused(module, sum(len(level.level.chains) > 1 for site in sites for level in site.levels))


def _captured_fusion(program: Program, graph: StackGraph) -> dict[str, Any]:
    """What width fusion would make of stacks that are branches already."""
    return _fused(clone(program.module), len(graph.branches))


def _fused(module: fx.GraphModule, levels: int) -> dict[str, Any]:
    result = FuseWidth(dry=True).apply(module)
    left = [dataclasses.asdict(skip) for skip in result.skipped]
    return {"levels": levels, "fused": list(result.matches), "left": left}


def _spec(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "shape": list(spec.shape), "dtype": str(spec.dtype).removeprefix("torch.")}


def _stack(program: Program, stack: Stack, behind: Iterable[int]) -> dict[str, Any]:
    state = tensor_value(stack.entry)
    return {
        "name": stack.name,
        "state": [] if state is None else [str(size) for size in program.shape(state)],
        "blocks": [list(block) for block in stack.blocks],
        "layers": len(stack.blocks) * stack.layers,
        "behind": sorted(behind),
        "terms": [
            {
                "index": index,
                "kind": term.kind,
                "module": term.module,
                "signature": term.signature,
                "side_inputs": [side.name for side in term.sides],
                "post": [str(node.target) for node in term.post],
                "nodes": len(term.inner),
            }
            for index, term in enumerate(stack.terms)
        ],
    }


def print_tables(program: Program, console: Console) -> None:
    """Print a model's stacks, terms and refusals."""
    content = as_dict(program)
    shapes = ", ".join(f"{s['name']}: {'x'.join(map(str, s['shape']))} {s['dtype']}" for s in content["inputs"])
    console.print(Text.assemble((content["model"], "bold"), f"  {shapes}"))
    console.print(
        f"{content['parameters']:,} parameters, {content['critical_gemms']} GEMMs on the critical path,"
        f" {sum(content['operators'].values())} operators",
        highlight=False,
    )
    for number, stack in enumerate(content["stacks"]):
        state = " x ".join(stack["state"])
        counts = f"{counted(len(stack['terms']), 'term')} in {counted(len(stack['blocks']), 'block')}"
        if stack["layers"] != len(stack["blocks"]):
            counts += f" ({stack['layers']} layers)"
        if stack["behind"]:
            counts += f", behind stack {', '.join(map(str, stack['behind']))}"
        console.print(Text(f"\nstack {number} '{stack['name']}': {counts}, state {state}"))
        console.print(_stack_table(stack))
    if not content["stacks"]:
        console.print("No residual stack was found.")
    if len(content["stacks"]) > 1:
        depth = content["depth"]
        console.print(
            f"\n{len(content['stacks'])} stacks, {counted(depth['blocks'], 'block')} deep on the longest path"
            f" ({counted(depth['terms'], 'term')})",
            highlight=False,
        )
    for refusal in content["refused"]:
        console.print(Text(f"refused {refusal['node']}: {refusal['reason']}", "yellow"))
    for form, found in content["fusion"].items():
        _print_fusion(form, found, console)


def _print_fusion(form: str, found: dict[str, Any], console: Console) -> None:
    """One line on pairs of blocks in one form, and one for each kind of branch that would stay as it is."""
    if not found["levels"]:
        return
    what = "branches as captured" if form == "captured" else f"pairs of blocks in {form} form"
    console.print(f"\n{what}: {counted(len(found['fused']), 'sum')} would be fused", highlight=False)
    for reason, count in Counter(skip["reason"] for skip in found["left"]).items():
        times = f" ({count} branches)" if count > 1 else ""
        console.print(Text(f"not fused{times}: {reason}", "yellow"))


def _stack_table(stack: dict[str, Any]) -> Table:
    """The terms of a stack; columns in which nothing stands are left out."""
    table = Table()
    rows = [
        {
            "term": str(term["index"]),
            "kind": term["kind"],
            "module": term["module"],
            "signature": term["signature"],
            "side inputs": ", ".join(term["side_inputs"]),
            "ends in": ", ".join(term["post"]),
        }
        for term in stack["terms"]
    ]
    headings = [heading for heading in rows[0] if any(row[heading] for row in rows)]
    for heading in headings:
        table.add_column(heading)
    for row in rows:
        table.add_row(*(Text(row[heading]) for heading in headings))
    return table


def print_passes(name: str | None, console: Console) -> None:
    """Print all passes, or one with its full description.

    Raises:
        ParallelizeError: there is no pass of that name.
    """
    if name is None:
        table = Table()
        for heading in ("pass", "exact", "what it does"):
            table.add_column(heading)
        for step in PASSES.values():
            table.add_row(step.name, "yes" if step.exact else "no", Text(step.summary()))
        console.print(table)
        return
    if name not in PASSES:
        raise ParallelizeError(f"There is no pass {name!r}.", f"The passes are {', '.join(PASSES)}.")
    step = PASSES[name]
    console.print(f"[bold]{name}[/bold] ({'exact' if step.exact else 'not exact'})")
    console.print(Text(python_inspect.getdoc(sys.modules[step.__module__]) or ""))
    for parameter in dataclasses.fields(step):
        console.print(Text(f"parameter {parameter.name}: {parameter.type}"))
