"""Shapes of every value, each computation once.

What an operator makes of shapes depends on its arguments and on dtype, shape, strides and device of the tensors that it
reads, and deep networks ask the same again in every block and after every pass. So answers are remembered:

    (operator, arguments, dtype and layout of what it reads)  ->  example value

They live in the module's `meta`, which clones share, and hold no memory but that of descriptions. Not remembered:
operators whose result has a size that only the data tell, and all that is no call of a function.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols
from torch.fx.passes.fake_tensor_prop import FakeTensorProp
from torch.utils import _pytree as pytree

from passes.errors import PassError
from passes.graph.parameters import read_parameter

_SHAPES = "shapes"  # in `module.meta`
_DATA = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)
_SYMBOLS = (torch.SymInt, torch.SymFloat, torch.SymBool)
_PLAIN = (int, float, bool, complex, str, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format)


def propagate_shapes(module: fx.GraphModule) -> None:
    """Compute `meta["val"]` of every node anew from the inputs' example values, symbols kept.

    Raises:
        PassError: the inputs carry no example values.
    """
    placeholders = [node.meta.get("val") for node in module.graph.find_nodes(op="placeholder")]
    known = _known(module, _mode(placeholders))
    with torch.no_grad(), enable_python_dispatcher():  # without it, pad fixes sizes that are free
        _Propagation(module, known).propagate_dont_convert_inputs(*placeholders)


def complete_shapes(module: fx.GraphModule, nodes: Iterable[fx.Node]) -> None:
    """Set `meta["val"]` of nodes that a pass has inserted, in the order of execution; what they read has it already.

    Raises:
        PassError: the inputs carry no example values.
    """
    mode = _mode([node.meta.get("val") for node in module.graph.find_nodes(op="placeholder")])
    known = _known(module, mode)
    with torch.no_grad(), enable_python_dispatcher(), mode:
        for node in nodes:
            if node.op == "get_attr":
                node.meta["val"] = mode.from_tensor(read_parameter(module, node), static_shapes=True)
            elif node.op == "call_function":
                args, kwargs = fx.map_arg((node.args, node.kwargs), lambda source: source.meta["val"])
                key = known.key(node, args, kwargs)
                if key is None or key not in known.values:
                    node.meta["val"] = node.target(*args, **kwargs)  # type: ignore[operator]
                    known.remember(key, node.meta["val"])
                else:
                    node.meta["val"] = known.values[key]


def _known(module: fx.GraphModule, mode: FakeTensorMode) -> Shapes:
    """What is known of a module's symbols."""
    known = module.meta.get(_SHAPES)
    if not isinstance(known, Shapes) or known.mode is not mode:
        known = module.meta[_SHAPES] = Shapes(mode)
    return known


def _mode(values: Sequence[Any]) -> FakeTensorMode:
    """The mode that the inputs' example values belong to."""
    mode = next((v.fake_mode for v in pytree.tree_leaves(values) if isinstance(v, FakeTensor)), None)
    if mode is None:
        raise PassError("The graph's inputs carry no example values.", "Capture the model with parallelize.capture.")
    return mode


class Shapes:
    """Example values by what they are computed from; valid for the symbols of one `mode`."""

    def __init__(self, mode: FakeTensorMode | None) -> None:
        self.mode = mode
        self.values: dict[Hashable, Any] = {}
        self._described: dict[int, tuple[Tensor, Hashable]] = {}

    def __reduce__(self) -> tuple[type[Shapes], tuple[None]]:
        """A copy or a file of a module asks anew: its example values are of another mode."""
        return Shapes, (None,)

    def describe(self, value: Any) -> Hashable:
        """Equal for arguments of which an operator makes the same shapes.

        Raises:
            TypeError: an argument of which more than its description matters.
        """
        if isinstance(value, Tensor):
            return self._tensor(value)
        if isinstance(value, list | tuple):
            return type(value), tuple([self.describe(part) for part in value])
        if isinstance(value, dict):
            return tuple([(name, self.describe(part)) for name, part in value.items()])
        if isinstance(value, slice):
            return slice, self.describe((value.start, value.stop, value.step))
        if isinstance(value, _SYMBOLS):
            return _expression(value)
        if isinstance(value, _PLAIN):
            return type(value), value
        raise TypeError(f"{type(value)} has no description")

    def key(self, node: fx.Node, args: Any, kwargs: Any) -> Hashable | None:
        """What the shapes of a node depend on, or None where that is more than descriptions."""
        target = node.target
        if isinstance(target, torch._ops.OpOverload):
            if any(tag in target.tags for tag in _DATA):
                return None
        elif isinstance(target, torch._ops.HigherOrderOperator):
            return None
        try:
            return target, self.describe(args), self.describe(kwargs)
        except TypeError:
            return None

    def _tensor(self, value: Tensor) -> Hashable:
        known = self._described.get(id(value))
        if known is not None:
            return known[1]
        if isinstance(value, FakeTensor) and value.constant is not None:
            raise TypeError("a constant has more than a shape")
        if value.layout is not torch.strided or value.is_quantized:
            raise TypeError(f"a tensor of layout {value.layout} has more than shape and strides")
        sizes = [*value.shape, *value.stride(), value.storage_offset()]
        return (
            value.dtype,
            value.device,
            type(value) is FakeTensor,
            tuple([size if isinstance(size, int) else _expression(size) for size in sizes]),
        )

    def remember(self, key: Hashable | None, value: Any) -> None:
        """Keep an example value, unless it has a size that only the data tell."""
        leaves = pytree.tree_leaves(value)
        if key is not None and all(_is_plain(leaf) for leaf in leaves):
            self.values[key] = value
            # Known objects need no second description; they are kept here, so that their ids stay theirs.
            self._described.update(
                {id(leaf): (leaf, self._tensor(leaf)) for leaf in leaves if isinstance(leaf, Tensor)}
            )


def _expression(value: torch.SymInt | torch.SymFloat | torch.SymBool) -> Hashable:
    return type(value), value.node.expr


def _is_plain(leaf: Any) -> bool:
    """Whether a result depends on shapes alone."""
    if isinstance(leaf, FakeTensor) and leaf.constant is not None:
        return False
    return isinstance(leaf, Tensor | int | float | bool | torch.SymInt) and not free_unbacked_symbols(leaf)


class _Propagation(FakeTensorProp):
    """FakeTensorProp that looks an answer up before it computes it."""

    def __init__(self, module: fx.GraphModule, known: Shapes) -> None:
        super().__init__(module, known.mode)
        self.known = known

    def run_node(self, n: fx.Node) -> Any:
        """The value of a node; its example value goes into `meta["val"]`."""
        if n.op == "get_attr":
            return self._stored(n)
        key = self._key(n)
        if key is None:
            return super().run_node(n)
        if key in self.known.values:
            value = n.meta["val"] = self.known.values[key]
            return value
        result = super().run_node(n)
        if "unbacked_bindings" not in n.meta:
            self.known.remember(key, n.meta["val"])
        return result

    def _stored(self, node: fx.Node) -> Any:
        """A parameter; the value itself goes on, because a constant may decide a size."""
        value = self.fetch_attr(str(node.target))
        if not isinstance(value, Tensor):
            return super().run_node(node)
        try:
            key = "stored", self.known.describe(value)
        except TypeError:
            return super().run_node(node)
        if key not in self.known.values:
            super().run_node(node)
            self.known.values[key] = node.meta["val"]
        node.meta["val"] = self.known.values[key]
        return value

    def _key(self, node: fx.Node) -> Hashable | None:
        """What the node's shapes depend on, or None where that is more than descriptions."""
        if node.op != "call_function" or "unbacked_bindings" in node.meta:
            return None
        return self.known.key(node, *self.fetch_args_kwargs_from_env(node))
