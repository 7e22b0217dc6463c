"""Small models and their data, captured once for all tests that read them."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from paraformer.model import VisionConfig, VisionParaFormer
from parallelize.data import Samples
from parallelize.models.capture import capture
from parallelize.models.program import Program
from passes.plan import Level, Plan, Refit, StackPlan, grouped

SMALL = VisionConfig(depth=4, width=16, heads=2, hidden=32, image_size=8, patch_size=4)
VOCABULARY, TOKENS = 11, 6


def vision(depth: int = 4, seed: int = 0) -> Program:
    """A vision transformer with random weights: one stack of `depth` blocks of attention and MLP."""
    return _vision(depth, seed)


@functools.cache
def _vision(depth: int, seed: int) -> Program:
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


def silent(*blocks: int) -> Program:
    """A vision transformer some of whose blocks add nothing."""
    torch.manual_seed(0)
    model = VisionParaFormer(SMALL)
    for block in blocks:
        for linear in (model.blocks[block].attention.out, model.blocks[block].down):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)
    return capture_images(model)


class Bump(nn.Module):
    """Adds a bounded function of its input to one coordinate of four."""

    def __init__(self, coordinate: int, size: float) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 8), nn.Linear(8, 4)
        with torch.no_grad():
            self.down.weight[[i for i in range(4) if i != coordinate]] = 0
            self.down.weight.mul_(size)
            self.down.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down(torch.tanh(self.up(x)))
        return y


def first_coordinate() -> nn.Linear:
    """A head that reads the first of four coordinates."""
    head = nn.Linear(4, 1, bias=False)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1.0, 0, 0, 0]]))
    return head


def linear(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    """A linear term of known numbers."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias is not None:
            layer.bias.copy_(bias)
    return layer


class PostNorm(nn.Module):
    """(batch, 6) -> (batch, 6): x = norm(x + term(x)) for each of `count` terms."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.terms = nn.ModuleList(nn.Sequential(nn.Linear(6, 12), nn.GELU(), nn.Linear(12, 6)) for _ in range(count))
        self.norms = nn.ModuleList(nn.LayerNorm(6) for _ in range(count))

    def forward(self, x: Tensor) -> Tensor:
        x = 1.0 * x
        for term, norm in zip(self.terms, self.norms, strict=True):
            x = norm(x + term(x))
        return x


class TwoStacks(nn.Module):
    """(batch, 6) -> (batch, 6): a stack of 3 terms, a layer between, a stack of 4 terms."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (Residual([mlp(6, 12) for _ in range(count)]) for count in (3, 4))
        self.between = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(torch.tanh(self.between(self.first(x))))
        return y


class Towers(nn.Module):
    """(batch, 6) -> (batch, 6): stacks side by side on one state, each of so many terms, whose ends are multiplied."""

    def __init__(self, terms: Sequence[int]) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 6)
        self.towers = nn.ModuleList(Residual([mlp(6, 12) for _ in range(count)], scale=None) for count in terms)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.embed(x))
        y = torch.ones_like(x)
        for tower in self.towers:
            y = y * tower(x)
        return y


class Language(nn.Module):
    """Token ids and their mask, both (batch, tokens) -> logits (batch, tokens, 11) that depend on the tokens so far."""

    def __init__(self, blocks: int = 4, width: int = 8) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, width)
        self.terms = nn.ModuleList(mlp(width, 2 * width) for _ in range(blocks))
        self.head = nn.Linear(width, VOCABULARY)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x = self.embed(input_ids) * attention_mask[..., None]
        x = x + x.cumsum(1)
        for term in self.terms:
            x = x + term(x)
        y: Tensor = self.head(x)
        return y


@functools.cache
def language() -> Program:
    """A model of next tokens with random weights: one stack of four MLPs."""
    torch.manual_seed(0)
    ids = torch.zeros(2, TOKENS, dtype=torch.int64)
    return capture(Language().eval(), (ids, ids), origin="language")


def text(count: int, seed: int) -> Samples:
    """Random tokens for `language`, padded to the right."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, VOCABULARY, (count, TOKENS), generator=generator)
    lengths = torch.randint(3, TOKENS + 1, (count, 1), generator=generator)
    mask = (torch.arange(TOKENS) < lengths).long()
    return Samples({"input_ids": ids * mask, "attention_mask": mask}, mask="attention_mask")
