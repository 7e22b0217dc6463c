"""The backend "parallelize" of torch.compile: the graph that it traced is rewritten before another backend compiles it.

    compiled = torch.compile(model, backend="parallelize", dynamic=True, options={"plan": "out/plan.json"})

    plan, depth, max_error, heal, options    what to reach, as for `parallelize.rewrite`
    inputs, labels, mask, test_inputs        calibration data, by the names of the arguments
    backend                                  what compiles the rewritten graph: "inductor", or "eager" for nothing

The rewrite is made at the first call, with the weights of then, and again for each graph that torch.compile traces: it
traces one for each fixed shape, so let the batch be free by dynamic=True.

Refused, at the call: options that there are not; a call with gradients on, which would reach copies of the weights; a
graph without weights or inputs, or with numbers as arguments; sizes that are computed and returned. Where torch.compile
breaks a model into several graphs, some have no stack, or another than the plan is for, which is told.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from parallelize.conversion.rewrite import rewrite
from parallelize.models.capture import capture
from parallelize.models.program import Program, unique
from passes.errors import ParallelizeError

Compiled = Callable[..., Sequence[Any]]
_SIZE = re.compile(r"(?P<source>.*)\.size\(\)\[(?P<axis>\d+)\]")
_QUOTED = re.compile(r"'([^']+)'")
_REWRITING = ("plan", "depth", "max_error", "heal", "options", "inputs", "labels", "mask", "test_inputs")
_INDUCTOR, _EAGER = "inductor", "eager"


def backend(
    graph: fx.GraphModule,
    _examples: Sequence[Any],
    *,
    options: Mapping[str, Any] | None = None,
    mode: str | None = None,
) -> Compiled:
    """What torch.compile calls with a graph that it traced.

    Raises:
        ParallelizeError: an option that there is not, or nothing to reach.
    """
    given = dict(options or {})
    inner = given.pop("backend", _INDUCTOR)
    unknown = [name for name in given if name not in _REWRITING]
    if unknown:
        raise ParallelizeError(
            f"The backend parallelize has no option {unknown[0]!r}.",
            f"It has {', '.join(_REWRITING)}, backend.",
        )
    compiled = _AtFirstCall(Traced.of(graph), given, inner, mode)
    return compiled.__call__


@dataclass(frozen=True, eq=False)
class Traced:
    """A graph of torch.compile, which gets weights and sizes as arguments.

    Attributes:
        graph: as it was traced.
        sources: for each argument, what it is in the model: "L['x']", or "L['x'].size()[0]" of a size.
        numbers: places of arguments that stand for floats of Python, such as the eps of a norm.
        free: for each argument, its free axes by a name of their size.
    """

    graph: fx.GraphModule
    sources: tuple[str, ...]
    numbers: frozenset[int]
    free: tuple[Mapping[int, str], ...]

    @staticmethod
    def of(graph: fx.GraphModule) -> Traced:
        """What torch.compile says of its arguments."""
        names: dict[str, str] = {}
        sources, free, numbers = [], [], []
        for place, node in enumerate(graph.graph.find_nodes(op="placeholder")):
            argument = node.meta.get("grapharg")
            name = getattr(getattr(argument, "source", None), "name", node.name)
            sources.append(str(name() if callable(name) else name))
            if getattr(argument, "pass_arg_as_tensor", False):
                numbers.append(place)
            free.append(_free(node.meta.get("example_value"), names))
        return Traced(graph, tuple(sources), frozenset(numbers), tuple(free))

    def program(self, arguments: Sequence[Any]) -> tuple[Program, list[int]]:
        """The graph with its weights inside, and which arguments are its inputs.

        Raises:
            ParallelizeError: there is none, or it cannot be captured.
        """
        tensors = [place for place, value in enumerate(arguments) if isinstance(value, Tensor)]
        held = [place for place in tensors if _is_held(arguments[place])]
        read = [place for place in tensors if place not in held and place not in self.numbers]
        self._refuse_numbers(arguments, {self._root(place) for place in held})
        if not held or not read:
            raise ParallelizeError(
                f"A graph that torch.compile traced has {'no inputs' if held else 'no weights'}.",
                "Compile the whole model, not a function of it.",
            )
        names: list[str] = []
        for place in read:
            quoted = _QUOTED.findall(self.sources[place])
            names.append(unique(quoted[-1] if quoted else f"input_{place}", names))
        whole = _Whole(self, arguments, held, dict(zip(names, read, strict=True))).eval()
        inputs = {name: arguments[place].detach() for name, place in zip(names, read, strict=True)}
        dims = [self.free[place] for place in read]
        return capture(whole, (), inputs, dynamic=dims, origin="the compiled model"), read

    def _root(self, place: int) -> str:
        """The variable that an argument is, or is a part of: that of the module for all that it holds."""
        return self.sources[place].partition("]")[0]

    def _refuse_numbers(self, arguments: Sequence[Any], modules: set[str]) -> None:
        """Numbers of the module are as constant as its weights; one that is an argument would be frozen."""
        for place, value in enumerate(arguments):
            is_size = _SIZE.fullmatch(self.sources[place]) is not None
            is_number = place in self.numbers or not (isinstance(value, Tensor) or is_size)
            if is_number and self._root(place) not in modules:
                raise ParallelizeError(
                    f"The compiled model is called with the number {self.sources[place]}, which may change.",
                    "Compile it without dynamic=True, so that there is a graph for each number.",
                )

    def frozen(self, arguments: Sequence[Any]) -> fx.GraphModule:
        """The graph with the numbers of the module written into it."""
        graph, values = fx.Graph(), dict[fx.Node, Any]()
        nodes = list(self.graph.graph.find_nodes(op="placeholder"))
        numbers = {nodes[place]: float(arguments[place]) for place in self.numbers}
        for node in self.graph.graph.nodes:
            source = node.args[0] if node.op == "call_method" and node.target == "item" else None
            if isinstance(source, fx.Node) and source in numbers:
                values[node] = numbers[source]
            else:
                values[node] = graph.node_copy(node, values.__getitem__)
        return fx.GraphModule(self.graph, graph)

    def returned(self, tensors: Sequence[Tensor], arguments: Sequence[Any]) -> tuple[Any, ...]:
        """What the graph returns: the tensors, and arguments such as sizes that it hands through.

        Raises:
            ParallelizeError: it returns a number that it computed.
        """
        places = {node: place for place, node in enumerate(self.graph.graph.find_nodes(op="placeholder"))}
        (outputs,), left = self.graph.graph.output_node().args, iter(tensors)
        assert isinstance(outputs, tuple | list)
        result: list[Any] = []
        for value in outputs:
            if not isinstance(value, fx.Node):
                result.append(value)
            elif isinstance(value.meta.get("example_value"), Tensor):
                result.append(next(left))
            elif value in places:
                result.append(arguments[places[value]])
            else:
                raise ParallelizeError(
                    f"The compiled model returns the size {value.name!r}.",
                    "Return tensors, or compile it static.",
                )
        return tuple(result)


class _Whole(nn.Module):
    """A traced graph as a module that holds its weights and computes its sizes, called with inputs by name."""

    def __init__(self, traced: Traced, arguments: Sequence[Any], held: Sequence[int], read: Mapping[str, int]) -> None:
        super().__init__()
        self.graph, self.sources, self.read = traced.frozen(arguments), traced.sources, read
        self.numbers = {place: float(arguments[place]) for place in traced.numbers}
        self.held = {place: f"weight_{place}" for place in held}
        for place, name in self.held.items():
            value = arguments[place]
            if isinstance(value, nn.Parameter):
                self.register_parameter(name, value)
            else:
                self.register_buffer(name, value)

    def forward(self, **inputs: Tensor) -> Any:
        given: dict[int, Any] = {place: inputs[name] for name, place in self.read.items()}
        by_source = {self.sources[place]: value for place, value in given.items()}
        given |= self.numbers  # which nothing reads any more
        for place, source in enumerate(self.sources):
            size = _SIZE.fullmatch(source)
            if place in self.held:
                given[place] = getattr(self, self.held[place])
            elif size is not None:
                given[place] = by_source[size["source"]].shape[int(size["axis"])]
        returned = self.graph(*(given[place] for place in range(len(self.sources))))
        return tuple(value for value in returned if isinstance(value, Tensor))


class _AtFirstCall:
    """Rewrites and compiles when it is called first, outside of the tracing."""

    def __init__(self, traced: Traced, given: Mapping[str, Any], inner: str, mode: str | None) -> None:
        self._traced, self._given, self._inner, self._mode = traced, given, inner, mode
        self._made: tuple[Callable[..., Any], list[int]] | None = None
        self._turn = threading.Lock()

    def __call__(self, *arguments: Any) -> tuple[Any, ...]:
        if torch.is_grad_enabled() and any(isinstance(value, Tensor) and value.requires_grad for value in arguments):
            raise ParallelizeError(
                "A rewritten model was called with gradients on, which do not reach the weights that it was made of.",
                "Call it under torch.inference_mode() or torch.no_grad(); train what parallelize.rewrite gives.",
            )
        with self._turn:
            self._made = self._made or self._make(arguments)
        network, read = self._made
        return self._traced.returned(network(*(arguments[place] for place in read)), arguments)

    def _make(self, arguments: Sequence[Any]) -> tuple[Callable[..., Any], list[int]]:
        program, read = self._traced.program(arguments)
        module = rewrite(program, **self._given).module.to(arguments[read[0]].device)
        network = module.network
        assert network is not None
        if self._inner == _EAGER:
            return network, read
        is_free = any(self._traced.free[place] for place in read)
        compiled = torch.compile(network, backend=self._inner, mode=self._mode, dynamic=True if is_free else None)
        return compiled, read


def _is_held(value: Tensor) -> bool:
    """Whether torch.compile says of an argument that the model holds it."""
    return isinstance(value, nn.Parameter) or getattr(value, "_dynamo_static_input_type", None) is not None


def _free(value: Any, names: dict[str, str]) -> Mapping[int, str]:
    """The free axes of an argument; the first size that is met is that of the batch."""
    if not isinstance(value, Tensor):
        return {}
    sizes: Sequence[Any] = value.shape
    symbols = {axis: size.node.expr for axis, size in enumerate(sizes) if isinstance(size, torch.SymInt)}
    found = {axis: str(size) for axis, size in symbols.items() if not size.is_number}
    for symbol in found.values():
        names.setdefault(symbol, f"dim_{len(names)}" if names else "batch")
    return {axis: names[symbol] for axis, symbol in found.items()}
