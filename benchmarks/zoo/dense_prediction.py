"""Detection, depth and control: queries with positions that values lack, taps of the state, decoders of queries."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

from benchmarks.zoo.entry import BLOCKS, HEADS, HIDDEN, TOKENS, WIDTH, Entry, Feed
from benchmarks.zoo.layers import Attention, mlp

TERMS = ({"attention": BLOCKS, "mlp": BLOCKS},)
QUERIES = 5
ALREADY = "they are parallel already"  # a tap and what the taps before it gave


def entries() -> Iterator[Entry]:
    """All of them."""
    state = {"x": Feed((3, TOKENS, WIDTH))}
    two = ({"attention": 2, "mlp": 2}, {"attention": 4, "mlp": 2})
    yield Entry("detr", lambda: Detr(norm_first=False), state, two, slow=True)
    yield Entry("detr-pre-norm", lambda: Detr(norm_first=True), state, two, slow=True)
    yield Entry("act", Act, {"state": Feed((3, 14)), "images": Feed((3, TOKENS, WIDTH))}, slow=True)
    yield Entry("dpt-taps", lambda: Taps(every=1), state, TERMS, (ALREADY,) * 3, slow=True)
    yield Entry("dpt-taps-every-second", lambda: Taps(every=2), state, TERMS, (ALREADY,), slow=True)
    yield Entry("hidden-states", HiddenStates, state, TERMS, slow=True)
    yield Entry("mask-decoder", MaskDecoder, {"x": Feed((3, TOKENS, WIDTH))}, slow=True)
    yield Entry("early-exits", EarlyExits, state, TERMS, slow=True)


class PositionedLayer(nn.Module):
    """Attention whose queries and keys have positions and whose values have none; with `cross`, to a memory too."""

    def __init__(self, *, norm_first: bool, cross: bool) -> None:
        super().__init__()
        self.norm_first = norm_first
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.cross = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True) if cross else None
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(3 if cross else 2))
        self.mlp = nn.Sequential(nn.Linear(WIDTH, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, WIDTH))

    def forward(
        self, x: Tensor, place: Tensor, memory: Tensor | None = None, memory_place: Tensor | None = None
    ) -> Tensor:
        """(batch, tokens, width) to the same."""

        def attend(y: Tensor) -> Tensor:
            return self.attention(y + place, y + place, y, need_weights=False)[0]

        def read(y: Tensor) -> Tensor:
            return self.cross(y + place, memory + memory_place, memory, need_weights=False)[0]

        terms = [attend, *([read] if self.cross is not None else []), self.mlp]
        for term, norm in zip(terms, self.norms, strict=True):
            x = x + term(norm(x)) if self.norm_first else norm(x + term(x))
        return x


class Detr(nn.Module):
    """Encoder of features, decoder of learned queries, classes and boxes (arXiv 2005.12872)."""

    def __init__(self, *, norm_first: bool, tokens: int = TOKENS) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.zeros(tokens, WIDTH))
        self.queries = nn.Parameter(torch.zeros(QUERIES, WIDTH))
        self.encoder = nn.ModuleList(PositionedLayer(norm_first=norm_first, cross=False) for _ in range(2))
        self.decoder = nn.ModuleList(PositionedLayer(norm_first=norm_first, cross=True) for _ in range(2))
        self.norm, self.classes, self.boxes = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 7), nn.Linear(WIDTH, 4)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(batch, tokens, width) to classes and boxes of each query."""
        for layer in self.encoder:
            x = layer(x, self.place)
        y = torch.zeros_like(self.queries).expand(x.shape[0], -1, -1)
        for layer in self.decoder:
            y = layer(y, self.queries, x, self.place)
        y = self.norm(y)
        return {"classes": self.classes(y), "boxes": self.boxes(y).sigmoid()}


class Act(nn.Module):
    """The policy of ACT: the state of the joints and images to a chunk of actions (arXiv 2304.13705)."""

    def __init__(self) -> None:
        super().__init__()
        self.joints, self.detr = nn.Linear(14, WIDTH), Detr(norm_first=False, tokens=TOKENS + 2)
        self.latent = nn.Linear(WIDTH, WIDTH)
        self.actions = nn.Linear(WIDTH, 14)

    def forward(self, state: Tensor, images: Tensor) -> Tensor:
        """(batch, 14) and (batch, tokens, width) to (batch, 5, 14)."""
        latent = self.latent(images.new_zeros(images.shape[0], 1, WIDTH))
        x = torch.cat([latent, self.joints(state)[:, None], images], 1)
        for layer in self.detr.encoder:
            x = layer(x, self.detr.place)
        y = images.new_zeros(images.shape[0], QUERIES, WIDTH)
        for layer in self.detr.decoder:
            y = layer(y, self.detr.queries, x, self.detr.place)
        result: Tensor = self.actions(self.detr.norm(y))
        return result


class _Blocks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.ModuleList([Attention(), mlp()]) for _ in range(BLOCKS))

    def states(self, x: Tensor) -> list[Tensor]:
        """The state after each block."""
        found = []
        for terms in self.blocks:
            for term in terms:
                x = x + term(x)
            found.append(x)
        return found


class Taps(_Blocks):
    """A head reads the state after every block, or after every second (arXiv 2103.13413)."""

    def __init__(self, every: int) -> None:
        super().__init__()
        self.every = every
        self.taps = nn.ModuleList(nn.Linear(WIDTH, 8) for _ in range(BLOCKS // every))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, width) to (batch, tokens, 8)."""
        states = self.states(x)[self.every - 1 :: self.every]
        total: Tensor | None = None
        for tap, state in zip(self.taps, states, strict=True):
            total = tap(state) if total is None else F.gelu(total) + tap(state)
        assert total is not None
        return total


class HiddenStates(_Blocks):
    """All states are outputs, as `output_hidden_states` returns them."""

    def forward(self, x: Tensor) -> dict[str, Tensor | list[Tensor]]:
        """(batch, tokens, width) to the last state and all states."""
        states = self.states(x)
        return {"last": states[-1], "states": states}


class EarlyExits(_Blocks):
    """A classifier after each block."""

    def __init__(self) -> None:
        super().__init__()
        self.exits = nn.ModuleList(nn.Linear(WIDTH, 7) for _ in range(BLOCKS))

    def forward(self, x: Tensor) -> list[Tensor]:
        """(batch, tokens, width) to logits after each block."""
        return [exit_(state.mean(1)) for exit_, state in zip(self.exits, self.states(x), strict=True)]


class MaskDecoder(nn.Module):
    """Two states that read each other in turn: tokens attend to pixels and pixels to tokens (arXiv 2304.02643)."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Parameter(torch.zeros(QUERIES, WIDTH))
        self.blocks = nn.ModuleList(
            nn.ModuleList([Attention(), Attention(norm=False), mlp(), Attention(norm=False)]) for _ in range(2)
        )
        self.head = nn.Linear(WIDTH, 8)

    def forward(self, x: Tensor) -> Tensor:
        """Pixels (batch, tokens, width) to masks (batch, queries, tokens)."""
        y = self.tokens.expand(x.shape[0], -1, -1)
        for within, to_pixels, term, to_tokens in self.blocks:
            y = y + within(y)
            y = y + to_pixels(y, x)
            y = y + term(y)
            x = x + to_tokens(x, y)
        return self.head(y) @ self.head(x).transpose(1, 2)
