"""Small models and their data, captured once for all tests that read them."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from paraformer.model import VisionConfig, VisionParaFormer
from parallelize.capturing import capture
from parallelize.inputs import Samples
from parallelize.program import Program
from passes.plan import Level, Plan, Refit, StackPlan, grouped

SMALL = VisionConfig(depth=4, width=16, heads=2, hidden=32, image_size=8, patch_size=4)


@functools.cache
def vision(depth: int = 4, seed: int = 0) -> Program:
    """A vision transformer with random weights: one stack of `depth` blocks of attention and MLP."""
    torch.manual_seed(seed)
    config = VisionConfig(depth=depth, width=16, heads=2, hidden=32, image_size=8, patch_size=4)
    return capture_images(VisionParaFormer(config))


def capture_images(model: VisionParaFormer) -> Program:
    return capture(model.eval(), (torch.zeros(1, *model.config.input_shape),), origin="small")


def images(count: int, seed: int, *, labelled: bool = False) -> Samples:
    """Random pixels from 0 to 255 for `vision`."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.rand(count, *SMALL.input_shape, generator=generator) * 255
    labels = torch.randint(0, SMALL.classes, (count,), generator=generator) if labelled else None
    return Samples({"images": pixels}, labels)


def pairs(refit: Refit, depth: int = 4, seed: int = 0) -> Plan:
    """Neighbouring blocks of `vision` two by two in sublayer form."""
    groups = [[(4 * i, 4 * i + 1), (4 * i + 2, 4 * i + 3)] for i in range(depth // 2)]
    return Plan((grouped(2 * depth, groups, refit=refit),), seed)


def stack_plan(terms: int, levels: Sequence[Sequence[Sequence[int]]], refit: Refit) -> Plan:
    """A plan of one stack, its levels as they stand in JSON."""
    return Plan((StackPlan(terms, tuple(Level(tuple(map(tuple, level))) for level in levels), refit),))


class Residual(nn.Module):
    """(batch, width) -> (batch, out): x = scale * x, x = x + term(x) for each term, then the head.

    With a scale of None the state is the input itself.
    """

    def __init__(self, terms: Sequence[nn.Module], head: nn.Module | None = None, scale: float | None = 1.0) -> None:
        super().__init__()
        self.terms = nn.ModuleList(terms)
        self.head = head if head is not None else nn.Identity()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        if self.scale is not None:
            x = self.scale * x
        for term in self.terms:
            x = x + term(x)
        y: Tensor = self.head(x)
        return y


def mlp(width: int, hidden: int) -> nn.Sequential:
    """norm, up, GELU, down."""
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))


def capture_vectors(model: nn.Module, width: int) -> Program:
    """Capture a model of (batch, width) in float64."""
    return capture(model.double().eval(), (torch.zeros(1, width, dtype=torch.float64),), origin="vectors")


def vectors(count: int, width: int, seed: int) -> Samples:
    """Normal numbers in float64 for `capture_vectors`."""
    generator = torch.Generator().manual_seed(seed)
    return Samples({"x": torch.randn(count, width, generator=generator, dtype=torch.float64)})
