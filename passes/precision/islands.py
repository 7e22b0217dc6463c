"""Which values of a graph stay in its own precision when the rest is cast to half of it.

**Islands** are chosen: norms, softmaxes, the residual sum. What stays whatever is chosen:

    1. what is computed from integers (positions, rotary angles, masks): bfloat16 does not tell position 257 from 256;
    2. what follows an operator that names float32 itself, as in `x.to(float32)` or `softmax(x, dtype=float32)`, up to
       the first product with a learned weight or a value of the other kind;
    3. operators without a form in half precision: transforms, decompositions, complex numbers, bodies of control flow;
    4. what half precision would change by more than the last digits (`passes.precision.sensitive`): a division that a
       number below its range guards, and what becomes an integer;
    5. views and pointwise operators between such values, which would be cast there and back;
    6. what somebody has seen leave the range, with all that reads it (`passes.precision.half_arithmetic`).

Each node that stays has its reason.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import fx

from passes.graph import operators as ops
from passes.graph.dataflow import is_float, tensor_inputs, tensors_of
from passes.graph.parameters import is_learned
from passes.graph.written_out import LIGHT, SHAPE_ONLY, written_out_norms, written_out_softmaxes
from passes.precision.sensitive import become_integers, guarded
from passes.stacks.find import find_stacks

aten = ops.aten

WIDE = frozenset({torch.float32, torch.float64})
CONVERSIONS = frozenset({aten.to.dtype, aten.to.dtype_layout, aten.to.device, aten._to_copy.default})

_NORMS = ops.NORMS | {aten.instance_norm.default, aten.native_layer_norm.default, aten.linalg_vector_norm.default}
_SOFTMAXES = ops.SOFTMAXES | {aten.log_softmax.int, aten._log_softmax.default, aten._safe_softmax.default}
_WIDE_ONLY = ("fft_", "_fft", "linalg_", "_linalg", "stft", "istft", "cdist", "inverse", "cholesky", "svd", "qr")


@dataclass(frozen=True)
class Islands:
    """What stays in the graph's own precision.

    Attributes:
        reasons: for each node that stays why, as the end of a sentence.
        refused: those that stay because they have no form in half precision.
        masks: values, not computed by the network, that are added to what a softmax reads.
    """

    reasons: Mapping[fx.Node, str]
    refused: frozenset[fx.Node]
    masks: frozenset[fx.Node]


def find_islands(
    module: fx.GraphModule,
    half: torch.dtype,
    *,
    norms: bool,
    softmax: bool,
    state: bool,
    wide: Collection[str] = (),
) -> Islands:
    """Find what stays in the graph's own precision.

    Args:
        module: a captured graph.
        half: the dtype that the rest is cast to.
        norms: norms stay, also those that are spelled out.
        softmax: softmaxes stay, also those that are spelled out; not those inside an attention operator.
        state: residual sums stay, with the norm or activation between two of them.
        wide: names of nodes that stay because values leave the range.
    """
    graph = module.graph
    asked = _asked_for(module)
    terms = [term for stack in find_stacks(module).stacks for term in stack.terms]
    sums = [node for term in terms for node in (term.add, *term.post)]
    guards = {
        node: why for node, why in guarded(module, half).items() if any(map(is_wide, (node, *node.all_input_nodes)))
    }
    sensitive = become_integers(graph, frozenset(sums)) | guards
    reasons = sensitive | dict.fromkeys(asked, "is computed from integers or after a conversion of the model's own")
    if norms:
        reasons |= dict.fromkeys((*_of(graph, _NORMS), *written_out_norms(graph)), "belongs to a norm")
    if softmax:
        reasons |= dict.fromkeys((*_of(graph, _SOFTMAXES), *written_out_softmaxes(graph)), "belongs to a softmax")
    if state:
        reasons |= dict.fromkeys(sums, "sums up the state")
    out = [node for node in graph.nodes if node.name in wide and node.op == "call_function"]
    reasons |= dict.fromkeys(out, f"holds or reads what is beyond the range of {str(half).removeprefix('torch.')}")
    reasons = {node: reason for node, reason in reasons.items() if is_wide(node) or node in guards}
    refused = frozenset(node for node in graph.nodes if _is_wide_only(node))
    reasons |= {node: f"({node.target}) has no form in half precision" for node in refused}
    _fill_gaps(module, reasons, apart=frozenset(sums))
    outside = {*asked, *sensitive, *graph.find_nodes(op="placeholder"), *_unlearned(module)}
    return Islands(reasons, refused, frozenset(_toward_softmax(graph) & outside))


def is_wide(node: fx.Node) -> bool:
    """Whether a node computes a float32 or float64 tensor, or several values with one among them."""
    return any(tensor.dtype in WIDE for tensor in tensors_of(node))


def _of(graph: fx.Graph, targets: Iterable[object]) -> Iterator[fx.Node]:
    wanted = set(targets)
    return (node for node in graph.nodes if node.target in wanted and is_wide(node))


def _is_wide_only(node: fx.Node) -> bool:
    """Whether an operator has no form in half precision, or nobody knows whether it has."""
    if node.op != "call_function" or not any(is_float(source) for source in node.all_input_nodes):
        return False
    if any(tensor.is_complex() for tensor in tensors_of(node)):
        return True
    if isinstance(node.target, torch._ops.HigherOrderOperator):
        return True
    if not isinstance(node.target, torch._ops.OpOverload) or node.target in _NORMS:
        return False
    name = node.target._schema.name.removeprefix("aten::")
    return "::" in name or name.startswith(_WIDE_ONLY)


def _unlearned(module: fx.GraphModule) -> list[fx.Node]:
    """Stored values that are no parameters."""
    return [node for node in module.graph.find_nodes(op="get_attr") if is_wide(node) and not is_learned(module, node)]


def _asked_for(module: fx.GraphModule) -> set[fx.Node]:
    """Cases 1 and 2 of the module's docstring. Stored constants alone make none, but may take part."""
    constants = set(_unlearned(module))
    asked: set[fx.Node] = set()
    for node in module.graph.nodes:
        if node.op != "call_function" or not is_wide(node):
            continue
        sources = [source for source in node.all_input_nodes if is_float(source)]
        if not sources or _names_wide(node):
            asked.add(node)
        elif constants.issuperset(sources):
            constants.add(node)
        elif (asked | constants).issuperset(sources):
            asked.add(node)
    return asked


def _names_wide(node: fx.Node) -> bool:
    return any(isinstance(value, torch.dtype) and value in WIDE for value in (*node.args, *node.kwargs.values()))


def _fill_gaps(module: fx.GraphModule, reasons: dict[fx.Node, str], apart: frozenset[fx.Node]) -> None:
    """Case 5: light operators, but those `apart`, that read a wide value, or constants, and that wide operators read.

    Several readers must all be wide; of a view one is enough, because its value was not rounded before.
    """
    read: set[fx.Node] = set()
    for node in reversed(module.graph.nodes):
        readers = [user for user in node.users if is_wide(user) or user.op == "output"]
        wide = [user in reasons or user in read or user.op == "output" for user in readers]
        if node in apart or node.target not in LIGHT or not is_wide(node):
            continue
        if any(wide) and (all(wide) or node.target in SHAPE_ONLY):
            read.add(node)
    written = {*reasons, *module.graph.find_nodes(op="placeholder"), *_unlearned(module)}
    for node in module.graph.nodes:
        if node.target == ops.GETITEM and node.args[0] in reasons and is_wide(node):
            written.add(node)
            reasons.setdefault(node, reasons[node.args[0]])
        elif node in read and any(source in written for source in tensor_inputs(node)):
            written.add(node)
            reasons.setdefault(node, "lies between values that stay")


def _toward_softmax(graph: fx.Graph) -> set[fx.Node]:
    """All values that reach a softmax, or the mask of an attention, through light operators alone."""
    attentions = graph.find_nodes(op="call_function", target=ops.ATTENTION)
    pending: list[object] = [
        node.args[3] if len(node.args) > 3 else node.kwargs.get("attn_mask") for node in attentions
    ]
    pending.extend(next(tensor_inputs(node)) for node in graph.nodes if node.target in _SOFTMAXES)
    for node in written_out_softmaxes(graph):
        pending.extend(node.all_input_nodes)
    found: set[fx.Node] = set()
    while pending:
        value = pending.pop()
        if not isinstance(value, fx.Node) or value in found:
            continue
        found.add(value)
        if value.target in LIGHT:
            pending.extend(tensor_inputs(value))
    return found
