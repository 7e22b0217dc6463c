"""Models and planners that the tests of planning share, each captured once."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from parallelize.machine.ranks import ALONE, Ranks
from parallelize.metrics import Metric
from parallelize.models.program import Program
from parallelize.planning.options import PlannerOptions
from parallelize.planning.partition import Partition
from parallelize.planning.planner import Planner
from passes.plan import Plan
from passes.stacks.find import Stack, find_stacks
from tests.parallelize.small_models import PostNorm, Residual, capture_vectors, images, mlp, vectors, vision

T = TypeVar("T")
R = TypeVar("R")

FIT, HELD_OUT = images(100, 0, labelled=True), images(50, 1, labelled=True)
VECTORS = vectors(100, 6, 0), vectors(50, 6, 1)


@functools.cache
def mlps(blocks: int = 4) -> Program:
    """MLPs in front of a classifier: blocks of one term, measured quickly."""
    torch.manual_seed(0)
    return capture_vectors(Residual([mlp(6, 12) for _ in range(blocks)], nn.Linear(6, 5)), 6)


def quick(metric: Metric | str = "kl", **options: Any) -> Planner:
    """A planner for four blocks of one term; an affine refit unless said otherwise."""
    return on_vectors(mlps(), metric, **options)


def on_vectors(program: Program, metric: Metric | str = "kl", *, ranks: Ranks = ALONE, **options: Any) -> Planner:
    """A planner for a model of (batch, 6)."""
    return Planner(program, *VECTORS, metric, PlannerOptions(**{"refit": "affine", **options}), ranks=ranks)


class Simulated(Ranks):
    """As many ranks as are wanted in one process, which is rank 0; notes how many items they were handed together."""

    def __init__(self, size: int, batches: list[int]) -> None:
        self.size, self.batches = size, batches

    def spread(self, name: str, measure: Callable[[T], R]) -> Callable[[Sequence[T]], Iterator[R]]:
        def measured(items: Sequence[T]) -> Iterator[R]:
            if items:
                self.batches.append(len(items))
            yield from map(measure, items)

        return measured


def partitions(planner: Planner) -> dict[int, Partition]:
    """The partitions of all depths, measured."""
    return {depth: planner.partition(depth) for depth in planner.depths}


@functools.cache
def of_vision() -> Planner:
    """A planner for four blocks of attention and MLP, whose groups are measured once for all tests."""
    return Planner(vision(), FIT, HELD_OUT, "kl", PlannerOptions(refit="affine", seed=3))


def levels(plan: Plan) -> list[tuple[int, ...]]:
    """Terms of each level of a plan of one stack whose chains are single terms."""
    (part,) = plan.stacks
    assert all(len(chain) == 1 for level in part.levels for chain in level.chains)
    return [level.terms for level in part.levels]


class PostNormBlocks(nn.Module):
    """(batch, 6) -> (batch, 6): blocks of two terms, x = norm(x + f(x)), of which some go without the norm."""

    def __init__(self, blocks: int, bare: Sequence[int] = ()) -> None:
        super().__init__()
        sizes = [6, 12] * blocks
        self.terms = nn.ModuleList(nn.Sequential(nn.Linear(6, s), nn.GELU(), nn.Linear(s, 6)) for s in sizes)
        self.norms = nn.ModuleList(nn.Identity() if i in bare else nn.LayerNorm(6) for i in range(2 * blocks))

    def forward(self, x: Tensor) -> Tensor:
        x = 1.0 * x
        for term, norm in zip(self.terms, self.norms, strict=True):
            x = norm(x + term(x))
        return torch.tanh(x)


@functools.cache
def post_norm_blocks(blocks: int, bare: tuple[int, ...] = ()) -> Program:
    """`PostNormBlocks` with random weights."""
    torch.manual_seed(0)
    return capture_vectors(PostNormBlocks(blocks, bare), 6)


@functools.cache
def post_norm(count: int) -> Program:
    """Blocks of one post-norm term."""
    torch.manual_seed(0)
    return capture_vectors(PostNorm(count), 6)


@functools.cache
def three_terms() -> Program:
    """Three blocks of three terms."""
    torch.manual_seed(0)
    return capture_vectors(Residual([mlp(6, hidden) for _ in range(3) for hidden in (8, 10, 12)]), 6)


def stack_of(program: Program) -> Stack:
    """The only stack of a model."""
    (stack,) = find_stacks(program.module).stacks
    return stack


class Root(nn.Module):
    """NaN for a state of negative numbers: down(sqrt(up(x)))."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(6, 6, bias=False), nn.Linear(6, 6)
        with torch.no_grad():
            self.up.weight.copy_(torch.eye(6))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down(self.up(x).sqrt())
        return y


class Lift(nn.Module):
    """Makes a state of normal numbers positive: adds 20 and a little."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(6, 6), nn.Linear(6, 6)
        with torch.no_grad():
            self.down.weight.mul_(0.1)
            self.down.bias.fill_(20)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down(torch.tanh(self.up(x)))
        return y


@functools.cache
def needs_its_first_block() -> Program:
    """Four blocks, the later of which give NaN beside the first one."""
    torch.manual_seed(0)
    return capture_vectors(Residual([Lift(), Root(), Root(), Lift()], nn.Linear(6, 4)), 6)


class Lone(nn.Module):
    """norm, up, tanh, down."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(6), nn.Linear(6, hidden), nn.Linear(hidden, 6)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down(torch.tanh(self.up(self.norm(x))))
        return y


@functools.cache
def unlike() -> Program:
    """Four blocks: the first two of one structure, the last two of others."""
    torch.manual_seed(0)
    terms = [mlp(6, 12), mlp(6, 12), mlp(6, 10), Lone(12)]
    return capture_vectors(Residual(terms, nn.Linear(6, 5)), 6)
