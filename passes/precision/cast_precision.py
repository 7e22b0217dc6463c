"""Cast a graph to fp16 or bf16, with islands that keep its own precision.

    y = W x + b        ->   y = half(W) half(x) + half(b)
    z = norm(y) + r    ->   z = norm(float(y)) + float(r)          an island

TensorRT is strongly typed: an engine computes in the types of the graph, so the casts must stand in it.

Cases:
    1. what computes in half precision reads casts of what does not, and the other way round: one cast for each value
       and direction, and none where a value only came from the other side;
    2. inputs and outputs keep their dtype, so that the result takes the place of the model;
    3. weights are stored in half precision, finite values clamped to its range, and tied weights stay tied; what an
       island reads is stored as it was, and what both read is stored twice;
    4. masks are clamped to half of the range before they are cast, infinities too: float32's least number would become
       -inf, a row of -inf a softmax of NaN, and the other half is left for the scores that are added. Numbers in the
       arguments of an operator are clamped to the range;
    5. numbers that half precision rounds to 0 keep the operator that reads them, and the division that they guard, as
       they are (`passes.precision.sensitive`);
    6. integers and booleans, and what has another floating-point type already, stay as they are.

Left in their own precision, each with its reason: islands (`passes.precision.islands`), and a whole graph whose matrix
products are in half precision already.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, fx

from passes.errors import ParallelizeError
from passes.graph.dataflow import carries_tensors, tensor_value
from passes.graph.operators import gemms
from passes.graph.parameters import is_learned, read_parameter, register_parameter
from passes.precision.islands import CONVERSIONS, WIDE, Islands, find_islands, is_wide
from passes.runner import Pass, PassResult, Skip, Stage

aten = torch.ops.aten

Precision = Literal["fp32", "fp16", "bf16"]
HALF_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}

_ASSERTION = aten._assert_tensor_metadata.default
_NUMBERS = ("number", "Optional[number]", "float", "Optional[float]")


@dataclass(frozen=True)
class CastPrecision(Pass):
    """Cast a graph to fp16 or bf16; norms, softmaxes and the residual sum may keep its own precision.

    Attributes:
        dtype: "fp16" or "bf16"; "fp32" leaves the graph as it is.
        norms: norms keep their precision.
        softmax: softmaxes keep their precision; those inside an attention operator are left to the backend.
        state: residual sums keep their precision.
        wide: names of nodes that keep their precision because values leave the range of `dtype`.
    """

    dtype: Precision = "fp16"
    norms: bool = True
    softmax: bool = True
    state: bool = True
    wide: tuple[str, ...] = ()
    name: ClassVar[str] = "cast-precision"
    exact: ClassVar[bool] = False
    stage: ClassVar[Stage] = "cast"

    def apply(self, module: fx.GraphModule) -> PassResult:
        """See the module's docstring."""
        if self.dtype == "fp32":
            return PassResult()
        if self.dtype not in HALF_DTYPES:
            raise ParallelizeError(f"There is no precision {self.dtype!r}.", "Use fp32, fp16 or bf16.")
        product = _product_in_half(module)
        if product is not None:
            reason = f"{product.name} computes in half precision already, so what is wider in its graph is meant to be"
            return PassResult((), (Skip(product.name, reason),))
        half = HALF_DTYPES[self.dtype]
        islands = find_islands(module, half, norms=self.norms, softmax=self.softmax, state=self.state, wide=self.wide)
        skipped = [
            Skip(node.name, f"{node.name} {islands.reasons[node]}")
            for node in module.graph.nodes
            if node in islands.reasons
        ]
        lowered = [
            node
            for node in module.graph.nodes
            if node.op == "call_function" and is_wide(node) and node not in islands.reasons
        ]
        if lowered:
            _Caster(module, half, islands, frozenset(lowered)).cast()
        return PassResult(tuple(node.name for node in lowered), tuple(skipped))


def _product_in_half(module: fx.GraphModule) -> fx.Node | None:
    """The first matrix product of half precision."""
    products = (node for node in module.graph.nodes if gemms(node))
    return next((node for node in products if node.meta["val"].dtype in HALF_DTYPES.values()), None)


@dataclass(frozen=True, eq=False)
class _Caster:
    """One cast of one graph; what it has made so far is in its dictionaries.

    Attributes:
        lowered: the nodes whose floating-point results become `half`.
        casts: by value and dtype.
        stored: names of stored tensors in half precision, by the memory of the original and by how it is looked at.
    """

    module: fx.GraphModule
    half: torch.dtype
    islands: Islands
    lowered: frozenset[fx.Node]
    casts: dict[tuple[fx.Node, torch.dtype], fx.Node] = field(default_factory=dict)
    memory: dict[Any, Tensor] = field(default_factory=dict)
    stored: dict[Any, str] = field(default_factory=dict)

    def cast(self) -> None:
        for node in list(self.module.graph.nodes):
            if node.target == _ASSERTION and not node.users:  # it would assert the dtypes of before
                self.module.graph.erase_node(node)
            elif node.op == "output":
                node.args = fx.map_arg(node.args, self.raised)
            elif node.op == "call_function" and carries_tensors(node):
                self.cast_arguments(node)

    def cast_arguments(self, node: fx.Node) -> None:
        if node in self.lowered:
            node.args, node.kwargs = fx.map_arg((node.args, node.kwargs), self.in_half)
            self.clamp_numbers(node)
        elif node.target in CONVERSIONS:  # reads any dtype
            self.share_conversion(node)
        elif node in self.islands.reasons or any(is_wide(s) and s not in self.lowered for s in node.all_input_nodes):
            node.args, node.kwargs = fx.map_arg((node.args, node.kwargs), self.raised)

    def share_conversion(self, node: fx.Node) -> None:
        """A conversion of the model's own to the dtype that a value had is the cast of that value, or none."""
        source, result = node.args[0], tensor_value(node)
        value = tensor_value(source) if isinstance(source, fx.Node) else None
        if result is None or value is None or (value.dtype, value.device) != (result.dtype, result.device):
            return
        assert isinstance(source, fx.Node)
        if source in self.lowered:
            self.casts.setdefault((source, result.dtype), node)
        else:
            node.replace_all_uses_with(source)

    def raised(self, source: fx.Node) -> fx.Node:
        """The value in the dtype that it had."""
        value = tensor_value(source)
        if source not in self.lowered or value is None or value.dtype not in WIDE:
            return source
        return self.converted(source, value.dtype)

    def in_half(self, source: fx.Node) -> fx.Node:
        """The value in half precision; of what was just brought to full precision, the value before that."""
        value = tensor_value(source)
        if source in self.lowered or value is None or value.dtype not in WIDE:
            return source
        if source.target in CONVERSIONS and source.args[0] in self.lowered:
            return source.args[0]  # type: ignore[return-value]  # a node, since it is among the lowered ones
        if source.op == "get_attr":
            return self.stored_in_half(source)
        return self.converted(source, self.half)

    def converted(self, source: fx.Node, dtype: torch.dtype) -> fx.Node:
        """A cast of a value, the same one for all readers; inserted after the value, or after the inputs."""
        if (source, dtype) in self.casts:
            return self.casts[source, dtype]
        graph = self.module.graph
        follower = source.next
        while follower.op in ("placeholder", "get_attr"):
            follower = follower.next
        with graph.inserting_before(follower):
            value = source
            if dtype == self.half and source in self.islands.masks:
                limit = torch.finfo(dtype).max / 2
                value = graph.call_function(aten.clamp.default, (source, -limit, limit))
            made = graph.call_function(aten.to.dtype, (value, dtype))
        self.casts[source, dtype] = made
        return made

    def stored_in_half(self, source: fx.Node) -> fx.Node:
        """A stored tensor in half precision. Equal views of one memory get one name, other views one new memory."""
        value, learned = read_parameter(self.module, source), is_learned(self.module, source)
        is_mask = source in self.islands.masks
        span = 1 + sum((size - 1) * step for size, step in zip(value.shape, value.stride(), strict=True))
        flat = value.as_strided((span if value.numel() else 0,), (1,))
        place = flat.data_ptr(), span, value.dtype, value.device, is_mask
        if place not in self.memory:
            self.memory[place] = _narrowed(flat, self.half, is_mask=is_mask)
        view = place, value.shape, value.stride(), learned
        if value.numel() == 0 or view not in self.stored:
            memory = self.memory[place]
            narrow = memory.new_empty(0).set_(memory.untyped_storage(), 0, value.shape, value.stride())
            name = f"{source.target}_{str(self.half).removeprefix('torch.')}".replace(".", "_")
            self.stored[view] = register_parameter(self.module, name, narrow, learned=learned)
        if (source, self.half) not in self.casts:
            with self.module.graph.inserting_before(source):
                self.casts[source, self.half] = self.module.graph.get_attr(self.stored[view])
        return self.casts[source, self.half]

    def clamp_numbers(self, node: fx.Node) -> None:
        """Numbers that `half` cannot hold become its largest, so that a fill of a mask stays finite."""
        if not isinstance(node.target, torch._ops.OpOverload):
            return
        limit = torch.finfo(self.half).max
        types = [str(argument.type) for argument in node.target._schema.arguments]
        for place, (value, kind) in enumerate(zip(node.args, types, strict=False)):
            if kind in _NUMBERS and isinstance(value, int | float) and math.isfinite(value) and abs(value) > limit:
                node.update_arg(place, math.copysign(limit, value))


def _narrowed(value: Tensor, dtype: torch.dtype, *, is_mask: bool) -> Tensor:
    """The tensor in half precision, in the range; infinities of what is no mask stay."""
    limit = torch.finfo(dtype).max
    if is_mask:
        return value.clamp(-limit / 2, limit / 2).to(dtype)
    return torch.where(value.isinf(), value, value.clamp(-limit, limit)).to(dtype)
