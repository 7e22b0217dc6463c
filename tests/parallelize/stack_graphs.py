"""Small models whose stacks make a graph: side by side, behind each other, entangled."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from paraformer.model import VisionConfig, VisionParaFormer
from parallelize.models.capture import capture
from parallelize.models.clean import clean
from passes.plan import Plan, grouped
from passes.stacks.find import find_stacks
from passes.stacks.stack_graph import StackGraph, stack_graph
from tests.parallelize.small_models import Residual, mlp

WIDTH = 6


def graph_of(model: nn.Module) -> StackGraph:
    program = capture(model.double().eval(), (torch.zeros(2, WIDTH, dtype=torch.float64),), dynamic=None)
    return stack_graph(find_stacks(program.module).stacks)


def stack_of(terms: int) -> Residual:
    return Residual([mlp(WIDTH, 8) for _ in range(terms)], scale=None)


def stack_of_widths(*hidden: int) -> StackGraph:
    """One stack of MLPs of these hidden widths."""
    return graph_of(Residual([mlp(WIDTH, width) for width in hidden]))


@functools.cache
def para_former(depth: int, branches: int) -> StackGraph:
    config = VisionConfig(depth=depth, width=8, heads=2, hidden=16, image_size=8, mode="para-former", branches=branches)
    program = capture(VisionParaFormer(config).eval(), (torch.zeros(2, *config.input_shape),), dynamic=None)
    return stack_graph(find_stacks(clean(program)[0].module).stacks)


class CrossAttending(nn.Module):
    """An encoder of 2 terms, and 3 decoder terms, the second of which reads the encoder's end as a side input."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.before, self.after = stack_of(2), mlp(WIDTH, 8), mlp(WIDTH, 8)
        self.query, self.key = mlp(WIDTH, 8), nn.Linear(WIDTH, WIDTH)
        self.start = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.start(x))
        y = y + self.before(y)
        memory = self.encoder(torch.tanh(x))
        y = y + self.query(y) * torch.sigmoid(self.key(memory))
        z: Tensor = y + self.after(y)
        return z


class Ladder(nn.Module):
    """Two stacks of 2 terms; the last of each reads the other in its middle."""

    def __init__(self) -> None:
        super().__init__()
        self.terms = nn.ModuleList(mlp(WIDTH, 8) for _ in range(4))
        self.starts = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        a, b = (torch.tanh(start(x)) for start in self.starts)
        a1 = a + self.terms[0](a)
        b1 = b + self.terms[1](b)
        a2 = a1 + self.terms[2](a1) * torch.sigmoid(b1)
        b2 = b1 + self.terms[3](b1) * torch.sigmoid(a1)
        product: Tensor = a2 * b2
        return product


class UShape(nn.Module):
    """Stacks of 2, 1, 2 terms; the last one reads the first and the second."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.middle, self.up = stack_of(2), stack_of(1), stack_of(2)
        self.narrow, self.join = nn.Linear(WIDTH, WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(torch.tanh(x))
        y = self.middle(torch.tanh(self.narrow(x)))
        z: Tensor = self.up(torch.tanh(self.join(torch.cat([x, y], -1))))
        return z


def serial_plan(graph: StackGraph, groups: Sequence[int] = ()) -> Plan:
    """Serial but for the first blocks of each stack that run side by side in groups of the given size."""
    parts = []
    for stack, size in itertools.zip_longest(graph.stacks, groups, fillvalue=1):
        assert not isinstance(stack, int)
        assert isinstance(size, int)
        blocks = [stack.blocks[:size], *((block,) for block in stack.blocks[size:])]
        parts.append(grouped(len(stack.terms), blocks))
    return Plan(tuple(parts))
