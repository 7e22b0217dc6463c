"""Small float64 networks and what the tests of several passes ask about their graphs.

A term is a module f; `Residual` adds terms to one state, x = x + f(x).
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)
from torch.utils import _pytree as pytree

from paraformer.model import VisionConfig, VisionParaFormer
from parallelize.models.capture import capture
from passes.graph.operators import ATTENTION, LAYER_NORM, LINEAR
from passes.plan import Level, Plan, StackPlan
from passes.runner import Pass, PassRecord, run_passes
from passes.schedule.apply_plan import ApplyPlan

WIDTH, HEADS, HIDDEN, TOKENS = 8, 2, 12, 5
EXACT = 1e-10  # the relative error of numbers in float64 that are the same but for the order of sums
SMALL = VisionConfig(depth=4, width=16, heads=2, hidden=32, image_size=8, patch_size=4)

Projection = Literal["unbind", "chunk", "split", "heads outside", "separate"]
Levels = Sequence[Sequence[Sequence[int]]]
Step = Callable[[Tensor], Tensor]


class Attention(nn.Module):
    """Self-attention on (batch, tokens, width) behind a norm; `projection` says how queries, keys and values lie."""

    def __init__(self, projection: Projection, kv_heads: int = HEADS, heads: int = HEADS) -> None:
        super().__init__()
        self.projection, self.heads, self.kv_heads, self.head = projection, heads, kv_heads, WIDTH // heads
        self.norm = nn.LayerNorm(WIDTH)
        if projection == "separate":
            self.query = nn.Linear(WIDTH, WIDTH)
            self.key = nn.Linear(WIDTH, kv_heads * self.head)
            self.value = nn.Linear(WIDTH, kv_heads * self.head)
        else:
            self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        query, key, value = self._project(self.norm(x))
        grouped = self.kv_heads != self.heads
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=grouped)
        merged: Tensor = self.out(mixed.transpose(1, 2).reshape(x.shape[0], x.shape[1], WIDTH))
        return merged

    def _project(self, x: Tensor) -> Sequence[Tensor]:
        if self.projection == "separate":
            return [self._split_heads(layer(x)) for layer in (self.query, self.key, self.value)]
        qkv = self.qkv(x)
        if self.projection == "unbind":
            return qkv.reshape(x.shape[0], x.shape[1], 3, self.heads, self.head).permute(2, 0, 3, 1, 4).unbind(0)
        if self.projection == "heads outside":
            return qkv.view(x.shape[0], x.shape[1], self.heads, 3 * self.head).transpose(1, 2).chunk(3, -1)
        parts = qkv.chunk(3, dim=-1) if self.projection == "chunk" else qkv.split(WIDTH, dim=-1)
        return [self._split_heads(part) for part in parts]

    def _split_heads(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], x.shape[1], -1, self.head).transpose(1, 2)


class Mlp(nn.Module):
    """norm, up, activation, down."""

    def __init__(
        self,
        norm: nn.Module | None = None,
        activation: Callable[[Tensor], Tensor] = F.gelu,
        hidden: int = HIDDEN,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.norm = norm if norm is not None else nn.LayerNorm(WIDTH)
        self.activation = activation
        self.up = nn.Linear(WIDTH, hidden, bias=bias)
        self.down = nn.Linear(hidden, WIDTH, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down(self.activation(self.up(self.norm(x))))
        return y


class GatedMlp(nn.Module):
    """RMSNorm and SwiGLU without biases, gate and value in one projection."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(WIDTH, eps=1e-6)
        self.up = nn.Linear(WIDTH, 2 * HIDDEN, bias=False)
        self.down = nn.Linear(HIDDEN, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.up(self.norm(x)).chunk(2, dim=-1)
        y: Tensor = self.down(F.silu(gate) * value)
        return y


class LayerScale(nn.Module):
    """gamma * f(x)."""

    def __init__(self, term: nn.Module) -> None:
        super().__init__()
        self.term = term
        self.gamma = nn.Parameter(torch.empty(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return self.gamma * self.term(x)


class Convolution(nn.Module):
    """Two convolutions on (batch, width, pixels, pixels) with a ReLU between them."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        self.second = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(F.relu(self.first(x)))
        return y


class Residual(nn.Module):
    """stem, x = post(x + f(x, sides...)) for each term f, head."""

    def __init__(
        self,
        terms: Sequence[nn.Module],
        posts: Sequence[nn.Module] = (),
        stem: nn.Module | None = None,
        head: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.terms = nn.ModuleList(terms)
        self.posts = nn.ModuleList(posts or [nn.Identity() for _ in terms])
        self.stem = stem or nn.Identity()
        self.head = head or nn.Identity()

    def forward(self, x: Tensor, *sides: Tensor) -> Tensor:
        x = self.stem(x)
        for step in self.steps(*sides):
            x = step(x)
        y: Tensor = self.head(x)
        return y

    def steps(self, *sides: Tensor) -> list[Step]:
        """For each term the map from the state before it to the state after it."""

        def step(term: nn.Module, post: nn.Module, x: Tensor) -> Tensor:
            y: Tensor = post(x + term(x, *sides))
            return y

        return [functools.partial(step, term, post) for term, post in zip(self.terms, self.posts, strict=True)]


class Function(nn.Module):
    """A module whose forward is a function of itself and the inputs, with parameters by name."""

    def __init__(self, function: Callable[..., Any], **parts: nn.Module | Tensor) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part if isinstance(part, nn.Module) else nn.Parameter(part))

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(self, *inputs)


def written_out_gelu(x: Tensor) -> Tensor:
    """GELU by tanh as GPT-2 writes it, with an add of x and a function of x inside."""
    return 0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * torch.pow(x, 3.0))))


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    """The module in float64 and eval mode with every parameter drawn anew: no gain is one, no bias zero."""
    generator = torch.Generator().manual_seed(seed)
    module = module.double().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            scale = parameter.shape[1:].numel() ** -0.5 if parameter.ndim > 1 else 1.0
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * scale)
    return module


def normal(*shape: int, seed: int = 1) -> Tensor:
    """Standard normal numbers in float64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def tokens(batch: int = 3, seed: int = 1) -> Tensor:
    """A state of (batch, tokens, width)."""
    return normal(batch, TOKENS, WIDTH, seed=seed)


def images(batch: int = 3, seed: int = 1) -> Tensor:
    """Pixels from 0 to 255 for `vision`."""
    pixels = torch.randint(0, 256, (batch, 1, 8, 8), generator=torch.Generator().manual_seed(seed))
    return pixels.double()


def graph_of(module: nn.Module, *example: Tensor, **options: Any) -> fx.GraphModule:
    """The captured graph, its batch free."""
    return capture(module, example, **options).module


def fixed_graph_of(module: nn.Module, *example: Tensor) -> fx.GraphModule:
    """The captured graph with all its sizes fixed, in less than half the time: where the batch is of no matter."""
    return graph_of(module, *example, dynamic=None)


def vision(depth: int = 4) -> tuple[VisionParaFormer, fx.GraphModule]:
    """A vision transformer of attention and MLP blocks, and its graph."""
    return _vision(depth)


@functools.cache
def _vision(depth: int) -> tuple[VisionParaFormer, fx.GraphModule]:
    model = VisionParaFormer(VisionConfig(**{**SMALL.to_dict(), "depth": depth}))  # type: ignore[arg-type]
    randomised(model)
    return model, graph_of(model, images())


def mlps(count: int = 6) -> tuple[Residual, fx.GraphModule]:
    """A stack of `count` MLP terms on (batch, tokens, width), and its graph."""
    return _mlps(count)


@functools.cache
def _mlps(count: int) -> tuple[Residual, fx.GraphModule]:
    model = Residual([Mlp() for _ in range(count)])
    randomised(model)
    return model, graph_of(model, tokens())


def stack_plan(terms: int, levels: Levels) -> StackPlan:
    """The schedule of one stack, its levels as they stand in JSON."""
    return StackPlan(terms, tuple(Level(tuple(tuple(chain) for chain in level)) for level in levels))


def plan_of(terms: int, levels: Levels) -> Plan:
    """A plan of one stack."""
    return Plan((stack_plan(terms, levels),))


def scheduled(graph: fx.GraphModule, terms: int, levels: Levels) -> fx.GraphModule:
    """The graph with its one stack scheduled."""
    return run(graph, ApplyPlan(plan_of(terms, levels)))[0]


def run(graph: fx.GraphModule, step: Pass, *probe: Tensor) -> tuple[fx.GraphModule, PassRecord]:
    """Run one pass, on a probe where one is given."""
    result, (record,) = run_passes(graph, [step], probe or None)
    return result, record


def text(graph: fx.GraphModule) -> str:
    """Every node with its arguments: equal texts are equal graphs."""
    return str(graph.graph)


def targets(graph: fx.GraphModule) -> list[object]:
    """What a graph calls, in order."""
    return [node.target for node in graph.graph.nodes if node.op == "call_function"]


def relative_error(actual: Tensor, expected: Tensor) -> float:
    return float((actual - expected).detach().abs().max() / expected.detach().abs().max())


def wide_operators(graph: fx.GraphModule) -> dict[str, int]:
    """How many linears, attentions and normalisations a graph runs."""
    norms = (LAYER_NORM, torch.ops.aten.rms_norm.default)
    kinds = {LINEAR: "linear", ATTENTION: "attention", **dict.fromkeys(norms, "norm")}
    counts = Counter(kinds[node.target] for node in graph.graph.nodes if node.target in kinds)
    return {kind: counts[kind] for kind in ("linear", "attention", "norm")}


def wrong_metadata(graph: fx.GraphModule, *inputs: Tensor) -> list[str]:
    """Nodes whose `meta["val"]` differs in shape or dtype from the value that they have on these inputs."""
    checker = _MetadataCheck(graph, inputs)
    checker.run(*inputs, enable_io_processing=False)
    return checker.wrong


class _MetadataCheck(fx.Interpreter):
    def __init__(self, graph: fx.GraphModule, inputs: Sequence[Tensor]) -> None:
        super().__init__(graph)
        self.wrong: list[str] = []
        self.sizes: dict[Any, int] = {}
        for node, value in zip(graph.graph.find_nodes(op="placeholder"), inputs, strict=True):
            for symbol, size in zip(node.meta["val"].shape, value.shape, strict=True):
                if isinstance(symbol, torch.SymInt):
                    self.sizes[symbol.node.expr] = size

    def run_node(self, node: fx.Node) -> Any:
        value = super().run_node(node)
        if node.op != "output" and list(self._expected(node.meta["val"])) != list(_described(value)):
            self.wrong.append(f"{node.name}: {list(self._expected(node.meta['val']))}, not {list(_described(value))}")
        return value

    def _expected(self, value: Any) -> Iterator[Any]:
        for leaf in pytree.tree_leaves(value):
            if isinstance(leaf, Tensor):
                yield leaf.dtype, tuple(self._size(size) for size in leaf.shape)
            else:
                yield self._size(leaf)

    def _size(self, size: Any) -> Any:
        return int(size.node.expr.subs(self.sizes)) if isinstance(size, torch.SymInt) else size


def _described(value: Any) -> Iterator[Any]:
    for leaf in pytree.tree_leaves(value):
        yield (leaf.dtype, tuple(leaf.shape)) if isinstance(leaf, Tensor) else leaf
