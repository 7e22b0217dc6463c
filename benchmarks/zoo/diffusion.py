"""Networks of diffusion and flow models, by hand: the condition scales, shifts and gates each term."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

from benchmarks.zoo.entry import BLOCKS, CONDITION, HEADS, HIDDEN, TOKENS, WIDTH, Entry, Feed
from benchmarks.zoo.layers import Attention, attend, mlp
from benchmarks.zoo.u_nets import UNet, UNet1d, UVit

WORDS = 5
TOKENS_AND_CONDITION = {"x": Feed((3, TOKENS, WIDTH)), "condition": Feed((3, CONDITION))}
TWO_STREAMS = {"text": Feed((3, WORDS, WIDTH)), "image": Feed((3, TOKENS, WIDTH)), "condition": Feed((3, CONDITION))}
TERMS = ({"attention": BLOCKS, "mlp": BLOCKS},)


def entries() -> Iterator[Entry]:
    """All of them."""
    yield Entry("dit", DiT, TOKENS_AND_CONDITION, TERMS)
    yield Entry("dit-film", lambda: DiT(gates=False), TOKENS_AND_CONDITION, TERMS, slow=True)
    cross = ({"attention": 2 * BLOCKS, "mlp": BLOCKS},)
    yield Entry("pixart", PixArt, {**TOKENS_AND_CONDITION, "text": Feed((3, WORDS, WIDTH))}, cross, slow=True)
    square = {"x": Feed((3, 16, WIDTH)), "condition": Feed((3, CONDITION))}
    yield Entry("sana", Sana, square, slow=True)
    yield Entry("flux-single", FluxSingle, TWO_STREAMS, slow=True)
    yield Entry("flux-single-joined", lambda: FluxSingle(joined=True), TWO_STREAMS, slow=True)
    yield Entry("mm-dit", MmDiT, TWO_STREAMS, slow=True)
    yield Entry("u-vit", UVit, {"x": Feed((3, TOKENS, WIDTH))}, slow=True)
    yield Entry("u-net", UNet, {"x": Feed((3, 4, 16, 16)), "condition": Feed((3, CONDITION))}, slow=True)
    yield Entry("u-net-1d", UNet1d, {"x": Feed((3, 4, 16)), "condition": Feed((3, CONDITION))}, slow=True)
    yield Entry(
        "flow-mlp", FlowMlp, {"x": Feed((3, 12)), "condition": Feed((3, CONDITION))}, ({"mlp": BLOCKS},), slow=True
    )


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """LayerNorm without parameters, then the condition's scale and shift."""
    return F.layer_norm(x, (x.shape[-1],)) * (1 + scale) + shift


class DiTBlock(nn.Module):
    """Shift, scale and gate of both sublayers are cut from one linear of the condition (arXiv 2212.09748)."""

    def __init__(self, *, gates: bool) -> None:
        super().__init__()
        self.gates = gates
        self.ada = nn.Sequential(nn.SiLU(), nn.Linear(CONDITION, (6 if gates else 4) * WIDTH))
        self.attention, self.mlp = Attention(norm=False), mlp(norm=False)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """One block."""
        parts = self.ada(condition)[:, None].chunk(6 if self.gates else 4, -1)
        shift1, scale1, shift2, scale2 = parts[:4]
        gate1, gate2 = parts[4:] if self.gates else (1.0, 1.0)
        x = x + gate1 * self.attention(modulate(x, shift1, scale1))
        y: Tensor = x + gate2 * self.mlp(modulate(x, shift2, scale2))
        return y


class DiT(nn.Module):
    """(batch, tokens, width) and a condition (batch, 16) to (batch, tokens, 8)."""

    def __init__(self, *, gates: bool = True) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(DiTBlock(gates=gates) for _ in range(BLOCKS))
        self.ada, self.head = nn.Linear(CONDITION, 2 * WIDTH), nn.Linear(WIDTH, 8)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Blocks, then a modulated head."""
        for block in self.blocks:
            x = block(x, condition)
        shift, scale = self.ada(condition)[:, None].chunk(2, -1)
        result: Tensor = self.head(modulate(x, shift, scale))
        return result


class PixArtBlock(nn.Module):
    """A table of the block is added to one condition that all blocks share (arXiv 2310.00426)."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(6, WIDTH))
        self.attention, self.cross, self.mlp = Attention(norm=False), Attention(norm=False), mlp(norm=False)

    def forward(self, x: Tensor, shared: Tensor, text: Tensor) -> Tensor:
        """Self-attention, attention to text without modulation, MLP."""
        shift1, scale1, gate1, shift2, scale2, gate2 = (self.table[None] + shared).chunk(6, dim=1)
        x = x + gate1 * self.attention(modulate(x, shift1, scale1))
        x = x + self.cross(x, text)
        y: Tensor = x + gate2 * self.mlp(modulate(x, shift2, scale2))
        return y


class PixArt(nn.Module):
    """(batch, tokens, width), a condition (batch, 16) and text (batch, words, width) to (batch, tokens, 8)."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Sequential(nn.SiLU(), nn.Linear(CONDITION, 6 * WIDTH))
        self.blocks = nn.ModuleList(PixArtBlock() for _ in range(BLOCKS))
        self.head = nn.Linear(WIDTH, 8)

    def forward(self, x: Tensor, condition: Tensor, text: Tensor) -> Tensor:
        """Blocks and a head."""
        shared = self.shared(condition).reshape(-1, 6, WIDTH)
        for block in self.blocks:
            x = block(x, shared, text)
        result: Tensor = self.head(x)
        return result


class LinearAttention(nn.Module):
    """relu(q) (relu(k)^T v) / (relu(q) sum relu(k)): no softmax (arXiv 2410.10629)."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH, bias=False), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, width) to the same."""
        q, k, v = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        q, k = q.relu(), k.relu()
        sums = q @ k.sum(-2, keepdim=True).transpose(-1, -2) + 1e-6
        result: Tensor = self.out((q @ (k.transpose(-1, -2) @ v) / sums).transpose(1, 2).flatten(2))
        return result


class MixFfn(nn.Module):
    """Tokens become an image again: 1x1, depthwise 3x3, gated, 1x1."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Conv2d(WIDTH, 2 * HIDDEN, 1), nn.Conv2d(HIDDEN, WIDTH, 1, bias=False)
        self.depthwise = nn.Conv2d(2 * HIDDEN, 2 * HIDDEN, 3, padding=1, groups=2 * HIDDEN)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 16 tokens, width) to the same."""
        image = x.transpose(1, 2).unflatten(-1, (4, 4))
        y, gate = self.depthwise(F.silu(self.up(image))).chunk(2, 1)
        result: Tensor = self.down(y * F.silu(gate)).flatten(2).transpose(1, 2)
        return result


class SanaBlock(PixArtBlock):
    """PixArt's modulation of linear attention and a convolutional MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.mlp = LinearAttention(), MixFfn()
        del self.cross

    def forward(self, x: Tensor, shared: Tensor, text: Tensor) -> Tensor:  # noqa: ARG002  (no text)
        """One block."""
        shift1, scale1, gate1, shift2, scale2, gate2 = (self.table[None] + shared).chunk(6, dim=1)
        x = x + gate1 * self.attention(modulate(x, shift1, scale1))
        y: Tensor = x + gate2 * self.mlp(modulate(x, shift2, scale2))
        return y


class Sana(PixArt):
    """(batch, 16, width) and a condition (batch, 16) to (batch, 16, 8)."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(SanaBlock() for _ in range(BLOCKS))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """No text."""
        return super().forward(x, condition, x)


class FluxBlock(nn.Module):
    """x + gate (out [attention, gelu(up)]): one linear in, one linear out, attention and MLP side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.ada = nn.Sequential(nn.SiLU(), nn.Linear(CONDITION, 3 * WIDTH))
        self.inward, self.out = nn.Linear(WIDTH, 3 * WIDTH + HIDDEN), nn.Linear(WIDTH + HIDDEN, WIDTH)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """One block."""
        shift, scale, gate = self.ada(condition)[:, None].chunk(3, -1)
        q, k, v, hidden = self.inward(modulate(x, shift, scale)).split([WIDTH, WIDTH, WIDTH, HIDDEN], -1)
        y: Tensor = x + gate * self.out(torch.cat([attend(q, k, v), F.gelu(hidden, approximate="tanh")], -1))
        return y


class FluxSingle(nn.Module):
    """Single blocks: text and image are joined before each block and parted after it, or once for all blocks."""

    def __init__(self, *, joined: bool = False) -> None:
        super().__init__()
        self.joined = joined
        self.blocks = nn.ModuleList(FluxBlock() for _ in range(BLOCKS))
        self.head = nn.Linear(WIDTH, 8)

    def forward(self, text: Tensor, image: Tensor, condition: Tensor) -> Tensor:
        """(batch, words, width), (batch, tokens, width) and (batch, 16) to (batch, tokens, 8)."""
        words = text.shape[1]
        x = torch.cat([text, image], 1)
        for block in self.blocks:
            x = block(x, condition)
            if not self.joined:
                text, image = x[:, :words], x[:, words:]
                x = torch.cat([text, image], 1)
        result: Tensor = self.head(x[:, words:])
        return result


class MmDiTBlock(nn.Module):
    """Two states with weights of their own that meet in one attention (arXiv 2403.03206)."""

    def __init__(self) -> None:
        super().__init__()
        self.ada = nn.ModuleList(nn.Linear(CONDITION, 6 * WIDTH) for _ in range(2))
        self.qkv = nn.ModuleList(nn.Linear(WIDTH, 3 * WIDTH) for _ in range(2))
        self.out = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(2))
        self.mlps = nn.ModuleList(mlp(norm=False) for _ in range(2))

    def forward(self, text: Tensor, image: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Both states after one block."""
        states = (text, image)
        parts = [ada(condition)[:, None].chunk(6, -1) for ada in self.ada]
        read = [modulate(x, part[0], part[1]) for x, part in zip(states, parts, strict=True)]
        heads = [qkv(x).chunk(3, -1) for qkv, x in zip(self.qkv, read, strict=True)]
        q, k, v = (torch.cat(both, 1) for both in zip(*heads, strict=True))
        written = attend(q, k, v)
        added = (written[:, : text.shape[1]], written[:, text.shape[1] :])
        after = [x + p[2] * out(y) for x, p, out, y in zip(states, parts, self.out, added, strict=True)]
        text, image = (x + p[5] * f(modulate(x, p[3], p[4])) for x, p, f in zip(after, parts, self.mlps, strict=True))
        return text, image


class MmDiT(nn.Module):
    """(batch, words, width), (batch, tokens, width) and (batch, 16) to (batch, tokens, 8)."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(MmDiTBlock() for _ in range(BLOCKS))
        self.head = nn.Linear(WIDTH, 8)

    def forward(self, text: Tensor, image: Tensor, condition: Tensor) -> Tensor:
        """What is left of the image."""
        for block in self.blocks:
            text, image = block(text, image, condition)
        result: Tensor = self.head(image)
        return result


class FlowMlp(nn.Module):
    """A small head of a flow model: blocks of MLPs that the time scales and shifts."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(12, WIDTH), nn.Linear(WIDTH, 12)
        self.ada = nn.ModuleList(nn.Linear(CONDITION, 3 * WIDTH) for _ in range(BLOCKS))
        self.mlps = nn.ModuleList(mlp(norm=False) for _ in range(BLOCKS))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """(batch, 12) and (batch, 16) to (batch, 12)."""
        x = self.stem(x)
        for ada, term in zip(self.ada, self.mlps, strict=True):
            shift, scale, gate = ada(condition).chunk(3, -1)
            x = x + gate * term(modulate(x, shift, scale))
        result: Tensor = self.head(x)
        return result
