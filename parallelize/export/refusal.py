"""What has no ONNX form, in one sentence: the operator, and where it stands in the user's model.

The exporter's own words are a page long. The node that it stopped at is among the values of the functions that the
error passed through; it is of the exporter's last graph and knows the name of the program's node that it was made of.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from torch import fx

from parallelize.models.program import Program
from passes.errors import ParallelizeError

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_FILE = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+)')
_NO_FUNCTION = "No ONNX function found"  # in the words of the exporter


def unwritable(error: BaseException, program: Program) -> ParallelizeError:
    """The refusal of a program that the exporter could not write."""
    causes = list(_causes(error))
    why = _first_line(causes[-1])
    node = next((found for cause in reversed(causes) if (found := _node_of(cause)) is not None), None)
    if node is None:
        return ParallelizeError(f"{program.origin} cannot be written as ONNX: {why}.", "Run with --debug to see where.")
    operator = _operator(_origin(node, program))
    lowered = "" if _operator(node) == operator else f" (as {_operator(node)})"
    reason = "" if why.startswith(_NO_FUNCTION) else f": {why}"
    return ParallelizeError(
        f"The operator {operator}{_place(node)} of {program.origin} has no ONNX form{lowered}{reason}.",
        "Write that part of the model with other operators.",
    )


def _node_of(error: BaseException) -> fx.Node | None:
    """The node that the innermost function of the exporter worked on."""
    found, frame = None, error.__traceback__
    while frame is not None:
        node = frame.tb_frame.f_locals.get("node")
        found = node if isinstance(node, fx.Node) and node.op == "call_function" else found
        frame = frame.tb_next
    return found


def _origin(node: fx.Node, program: Program) -> fx.Node:
    """The node of the program that a node of a later graph was made of; itself where that is not known."""
    names = {getattr(source, "name", "") for source in node.meta.get("from_node") or ()}
    return next((origin for origin in program.module.graph.nodes if origin.name in names), node)


def _operator(node: fx.Node) -> str:
    return ".".join(str(node.target).split(".")[:2])


def _place(node: fx.Node) -> str:
    """` in MODULE (FILE:LINE)`, as far as it is known."""
    modules = [path for path, _ in (node.meta.get("nn_module_stack") or {}).values() if path]
    lines = _FILE.findall(str(node.meta.get("stack_trace") or ""))
    module = f" in {modules[-1]}" if modules else ""
    return f"{module} ({lines[-1][0]}:{lines[-1][1]})" if lines else module


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _first_line(error: BaseException) -> str:
    text = _COLOUR.sub("", str(error))
    line = next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
    return re.split(r"(?<=\w)\. (?=[A-Z])", line)[0].rstrip(".:")
