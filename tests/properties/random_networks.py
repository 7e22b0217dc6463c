"""Random residual networks for Hypothesis: a frozen description that builds itself as a module.

    x = stem(x);  x = post(x + f(x, sides)) for each term f of each stage, a linear map between stages;  head(x)

A term is a core (attention, MLP, convolution) between two norms, times a scale. `RandomNetwork.reference` runs the
terms themselves level by level and knows nothing of graphs.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from passes.plan import StackPlan
from tests.passes.eager import after_levels
from tests.passes.models import Levels, Step, normal, randomised
from tests.properties.random_convolutions import PIXELS, Activation, ConvNextSpec, ConvolutionSpec
from tests.properties.random_layers import NormSpec
from tests.properties.random_mixing import MixSpec
from tests.properties.random_spellings import Spelling, spelled
from tests.properties.random_token_terms import (
    TOKENS,
    AttentionSpec,
    MlpSpec,
    ParallelSpec,
    Sides,
    relative_bias,
    relative_index,
    rotary_tables,
)

Core = AttentionSpec | MlpSpec | ParallelSpec | ConvolutionSpec | ConvNextSpec | MixSpec
State = Literal["tokens", "pixels"]
Scale = Literal["none", "gain", "one number", "constant"]
Mask = Literal["none", "shared", "per sample", "padding"]
Post = Literal["none", "layer norm", "rms norm", "batch norm", "relu", "silu"]
Tie = Literal["none", "cores", "blocks"]

NO_NORM = NormSpec("none")
EPS_POST = 1e-5


@dataclass(frozen=True)
class TermSpec:
    """scale * after(core(before(x))), added to the state from the left or from the right, or in another spelling."""

    core: Core
    before: NormSpec = NO_NORM
    after: NormSpec = NO_NORM
    scale: Scale = "none"
    flipped: bool = False
    spelling: Spelling = "add"


@dataclass(frozen=True)
class StageSpec:
    """A residual stack.

    Attributes:
        blocks: the terms of each block.
        post: what follows each add.
        tie: blocks that share all parameters with the block named in `owners`, or those of their cores only.
        owners: for each block the one whose parameters it uses.
        tap: the term after which the state is read once more, by what follows the stage; only where post is "none".
    """

    blocks: tuple[tuple[TermSpec, ...], ...]
    post: Post = "none"
    tie: Tie = "none"
    owners: tuple[int, ...] = ()
    tap: int | None = None

    @property
    def terms(self) -> tuple[TermSpec, ...]:
        """The terms of all blocks in serial order."""
        return tuple(term for block in self.blocks for term in block)


@dataclass(frozen=True)
class NetworkSpec:
    """A network and the side inputs that its terms read."""

    state: State
    width: int
    stages: tuple[StageSpec, ...]
    mask: Mask = "none"
    condition: bool = False
    stem: bool = True
    head: bool = True
    seed: int = 0

    def build(self) -> RandomNetwork:
        """The network in float64 and eval mode, all its numbers random."""
        network = RandomNetwork(self)
        randomised(network, self.seed)
        generator = torch.Generator().manual_seed(self.seed)
        for name, buffer in network.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(generator=generator)
            if name.endswith("running_var"):
                buffer.uniform_(0.5, 2.0, generator=generator)
        return network

    def inputs(self, batch: int) -> tuple[Tensor, ...]:
        """State and side inputs for a batch."""
        shape = (TOKENS, self.width) if self.state == "tokens" else (self.width, PIXELS, PIXELS)
        inputs = [normal(batch, *shape, seed=self.seed + batch)]
        if self.mask != "none":
            inputs.append(_mask(self.mask, batch, self.seed))
        if self.condition:
            inputs.append(normal(batch, 1, self.width, seed=self.seed + batch + 1))
        return tuple(inputs)


def _mask(kind: Mask, batch: int, seed: int) -> Tensor:
    if kind == "shared":
        future = torch.ones(TOKENS, TOKENS, dtype=torch.bool).triu(1)
        return torch.zeros(TOKENS, TOKENS, dtype=torch.float64).masked_fill(future, -torch.inf)
    if kind == "per sample":
        return normal(batch, 1, TOKENS, TOKENS, seed=seed + 2)
    padding = normal(batch, 1, 1, TOKENS, seed=seed + 3) < 0.5
    padding[..., 0] = True
    return padding


class RandomTerm(nn.Module):
    """One term, its core perhaps that of another term."""

    def __init__(self, spec: TermSpec, width: int, state: State, core: nn.Module | None = None) -> None:
        super().__init__()
        self.spec = spec
        self.before, self.core, self.after = (
            spec.before.build(width),
            core if core is not None else spec.core.build(width),
            spec.after.build(width),
        )
        if spec.scale in ("gain", "one number"):
            gain = (width,) if state == "tokens" else (width, 1, 1)
            self.scale = nn.Parameter(torch.empty(gain if spec.scale == "gain" else (1,)))

    def forward(self, x: Tensor, sides: Sides) -> Tensor:
        y: Tensor = self.after(self.core(self.before(x), sides))
        if self.spec.scale == "none":
            return y
        return y * 0.7 if self.spec.scale == "constant" else self.scale * y


class Stage(nn.Module):
    """The terms of a stack in serial order and what follows their adds."""

    def __init__(self, spec: StageSpec, width: int, state: State) -> None:
        super().__init__()
        self.spec = spec
        blocks: list[list[RandomTerm]] = []
        for number, block in enumerate(spec.blocks):
            owner = spec.owners[number] if spec.tie != "none" else number
            if spec.tie == "blocks" and owner != number:
                blocks.append(blocks[owner])
                continue
            cores = [blocks[owner][p].core if owner != number else None for p in range(len(block))]
            blocks.append([RandomTerm(term, width, state, core) for term, core in zip(block, cores, strict=True)])
        terms = [term for block in blocks for term in block]
        self.terms = nn.ModuleList(terms)
        self.posts = nn.ModuleList(_post(spec.post, width) for _ in terms)

    def steps(self, sides: Sides) -> list[Step]:
        """For each term the map from the state before it to the state after it."""

        def step(term: RandomTerm, post: nn.Module, x: Tensor) -> Tensor:
            added = term(x, sides)
            is_flipped = term.spec.flipped and term.spec.spelling == "add"
            y: Tensor = post(added + x if is_flipped else spelled(term.spec.spelling, x, added))
            return y

        pairs = zip(self.terms, self.posts, strict=True)
        return [functools.partial(step, term, post) for term, post in pairs]  # type: ignore[list-item]


def _post(post: Post, width: int) -> nn.Module:
    if post in ("relu", "silu"):
        return Activation(post)
    if post == "none":
        return nn.Identity()
    norms = {"layer norm": nn.LayerNorm, "rms norm": nn.RMSNorm, "batch norm": nn.BatchNorm2d}
    return norms[post](width, EPS_POST)


class RandomNetwork(nn.Module):
    """The network that a description describes."""

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.spec = spec
        self.stages = nn.ModuleList(Stage(stage, spec.width, spec.state) for stage in spec.stages)
        self.stem = self._map() if spec.stem else nn.Identity()
        self.links = nn.ModuleList(self._map() for _ in spec.stages[1:])
        self.head = self._map() if spec.head else nn.Identity()
        attentions = list(_attentions(spec))
        self.head_sizes = sorted({attention.head for attention in attentions if attention.rotary})
        self.head_counts = sorted({attention.heads for attention in attentions if attention.bias == "shared"})
        for size in self.head_sizes:
            cosines, sines = rotary_tables(size)
            self.register_buffer(f"cosines_{size}", cosines)
            self.register_buffer(f"sines_{size}", sines)
        self.register_buffer("index", relative_index())
        self.tables = nn.ParameterDict(
            {str(heads): nn.Parameter(torch.empty(2 * TOKENS - 1, heads)) for heads in self.head_counts}
        )

    def _map(self) -> nn.Module:
        width = self.spec.width
        return nn.Linear(width, width) if self.spec.state == "tokens" else nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor, *inputs: Tensor) -> Tensor:
        x, sides = self.stem(x), self.sides(inputs)
        for stage, link in zip(self.stages, [nn.Identity(), *self.links], strict=True):
            x = link(x)
            states = []
            for step in stage.steps(sides):  # type: ignore[operator]
                x = step(x)
                states.append(x)
            tap = stage.spec.tap  # type: ignore[union-attr]
            x = x if tap is None else _with_tap(x, states[tap])
        y: Tensor = self.head(x)
        return y

    def reference(self, plans: Sequence[StackPlan], x: Tensor, *inputs: Tensor) -> Tensor:
        """What the network computes when each stage is scheduled."""
        with torch.no_grad():
            x, sides = self.stem(x), self.sides(inputs)
            for stage, link, plan in zip(self.stages, [nn.Identity(), *self.links], plans, strict=True):
                levels, steps, entry = [level.chains for level in plan.levels], stage.steps(sides), link(x)  # type: ignore[operator]
                x = after_levels(steps, levels, entry)
                tap = stage.spec.tap  # type: ignore[union-attr]
                x = x if tap is None else _with_tap(x, _tapped(steps, levels, entry, tap))
            y: Tensor = self.head(x)
        return y

    def sides(self, inputs: Sequence[Tensor]) -> Sides:
        """What the terms read beside the state."""
        rest = list(inputs)
        buffers: dict[str, Any] = dict(self.named_buffers())
        return Sides(
            mask=rest.pop(0) if self.spec.mask != "none" else None,
            condition=rest.pop(0) if self.spec.condition else None,
            rotary={size: (buffers[f"cosines_{size}"], buffers[f"sines_{size}"]) for size in self.head_sizes},
            bias={heads: relative_bias(self.tables[str(heads)], buffers["index"]) for heads in self.head_counts},
        )


def _attentions(spec: NetworkSpec) -> Iterator[AttentionSpec]:
    for stage in spec.stages:
        for term in stage.terms:
            core = term.core.attention if isinstance(term.core, ParallelSpec) else term.core
            if isinstance(core, AttentionSpec):
                yield core


def _with_tap(x: Tensor, state: Tensor) -> Tensor:
    return x * torch.tanh(state)


def _tapped(steps: Sequence[Step], levels: Levels, x: Tensor, tap: int) -> Tensor:
    """The state after a term: that after all levels of which no term comes later, and what the others up to it add."""
    whole = 0
    while whole < len(levels) and all(number <= tap for chain in levels[whole] for number in chain):
        x = after_levels(steps, levels[whole : whole + 1], x)
        whole += 1
    total = x
    for level in levels[whole:]:
        for chain in level:
            state = x
            for number in chain:
                after = steps[number](state)
                total = total + (after - state) if number <= tap else total
                state = after
        x = after_levels(steps, [level], x)
    return total
