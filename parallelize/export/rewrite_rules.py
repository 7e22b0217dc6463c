"""The exporter's rewrite rules, tried only at nodes that they can begin at.

After its translation `torch.onnx.export` tries some fifty rules at each node of the graph. One whose pattern has two
results, such as two slices that are a split, lists all nodes of the graph anew for each of them, so that its time grows
with the square of a network's depth and is more than that of all the rest of an export. A pattern begins at one node,
by its operator: at others a rule has no match, whatever is around them, and is not tried. The file is the same.

Where a version of onnxscript keeps its rules in another way, they are tried everywhere, as it does by itself.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def rules_where_they_begin() -> Iterator[None]:
    """While this is open, rules of onnxscript are tried at nodes of the operator that their pattern begins with."""
    try:
        from onnxscript.rewriter import RewriteRule
    except ImportError:
        yield
        return
    rule: Any = RewriteRule
    original = rule.try_rewrite

    def try_rewrite(self: Any, model: Any, graph_or_function: Any, node: Any, **options: Any) -> Any:
        begins = _beginning(self)
        if begins is not None and begins != (node.domain, node.op_type):
            return None
        return original(self, model, graph_or_function, node, **options)

    rule.try_rewrite = try_rewrite
    try:
        yield
    finally:
        rule.try_rewrite = original


@functools.cache
def _beginning(rule: Any) -> tuple[str, str] | None:
    """Domain and operator of the node that a rule is tried at first; None where it may be any, or is not known."""
    pattern = getattr(rule, "_target_pattern", None)
    nodes = getattr(pattern, "output_nodes", None)
    known = nodes[0].op_identifier() if nodes else None
    return None if known is None else (known[0], known[1])
