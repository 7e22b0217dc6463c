"""Blocks that mix tokens in other forms: conformers, Fourier transforms, attention in other spellings, experts."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

from benchmarks.zoo.entry import BLOCKS, HEADS, HIDDEN, STATE, TOKENS, WIDTH, Entry
from benchmarks.zoo.layers import Attention, Chain, attend, mlp

TERMS = ({"attention": BLOCKS, "mlp": BLOCKS},)


def entries() -> Iterator[Entry]:
    """All of them."""
    yield Entry("conformer", Conformer, STATE, slow=True)
    yield Entry("macaron-post-norm", lambda: Conformer(convolution=False), STATE, slow=True)
    yield Entry("fourier-mixing", FourierMixing, STATE, slow=True)
    yield Entry("pooling-mixing", PoolingMixing, STATE, slow=True)
    yield Entry("einsum-attention", lambda: _chain(EinsumAttention), STATE, TERMS, slow=True)
    yield Entry("talking-heads", lambda: _chain(TalkingHeads), STATE, TERMS, slow=True)
    yield Entry("cosine-attention", lambda: _chain(CosineAttention), STATE, TERMS, slow=True)
    yield Entry("xcit", lambda: _chain(CrossCovariance), STATE, TERMS, slow=True)
    yield Entry("gmlp", lambda: _chain(SpatialGate), STATE, slow=True)
    yield Entry("mixture-of-experts", lambda: _chain(Experts), STATE, slow=True)
    yield Entry("linformer", lambda: _chain(Linformer), STATE, TERMS, slow=True)


def _chain(mixer: Callable[[], nn.Module]) -> nn.Module:
    """Mixers and MLPs in turn on (batch, tokens, width)."""
    terms: list[nn.Module] = [term for _ in range(BLOCKS) for term in (mixer(), mlp())]
    return Chain(nn.Linear(WIDTH, WIDTH), terms, nn.Linear(WIDTH, 8))


class ConvolutionModule(nn.Module):
    """Pointwise, gate, depthwise, batch norm, SiLU, pointwise along the tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.batch_norm = nn.LayerNorm(WIDTH), nn.BatchNorm1d(WIDTH)
        self.up, self.down = nn.Conv1d(WIDTH, 2 * WIDTH, 1), nn.Conv1d(WIDTH, WIDTH, 1)
        self.depthwise = nn.Conv1d(WIDTH, WIDTH, 3, padding=1, groups=WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, width) to the same."""
        y = F.glu(self.up(self.norm(x).transpose(1, 2)), 1)
        result: Tensor = self.down(F.silu(self.batch_norm(self.depthwise(y)))).transpose(1, 2)
        return result


class Conformer(nn.Module):
    """Half an MLP, attention, convolution, half an MLP, and a norm after each block (arXiv 2005.08100)."""

    def __init__(self, *, convolution: bool = True) -> None:
        super().__init__()
        self.before, self.after = (nn.ModuleList(mlp() for _ in range(BLOCKS)) for _ in range(2))
        self.attentions = nn.ModuleList(Attention() for _ in range(BLOCKS))
        self.convolutions = nn.ModuleList(ConvolutionModule() for _ in range(BLOCKS if convolution else 0))
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(BLOCKS))
        self.head = nn.Linear(WIDTH, 8)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, width) to (batch, tokens, 8)."""
        for number, norm in enumerate(self.norms):
            x = x + 0.5 * self.before[number](x)
            x = x + self.attentions[number](x)
            if self.convolutions:
                x = x + self.convolutions[number](x)
            x = norm(x + 0.5 * self.after[number](x))
        result: Tensor = self.head(x)
        return result


class FourierMixing(nn.Module):
    """norm(x + Fourier transform of x): a term without parameters (arXiv 2105.03824)."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2 * BLOCKS))
        self.mlps = nn.ModuleList(mlp(norm=False) for _ in range(BLOCKS))

    def mixed(self, x: Tensor) -> Tensor:
        """What the term without parameters adds."""
        return torch.fft.fft(torch.fft.fft(x, dim=-1), dim=-2).real

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, width) to the same."""
        norms = iter(self.norms)
        for term in self.mlps:
            x = next(norms)(x + self.mixed(x))
            x = next(norms)(x + term(x))
        return x


class PoolingMixing(FourierMixing):
    """The same with the mean of neighbours less the state (arXiv 2111.11418)."""

    def mixed(self, x: Tensor) -> Tensor:
        """What the term without parameters adds."""
        return F.avg_pool1d(x.transpose(1, 2), 3, 1, 1, count_include_pad=False).transpose(1, 2) - x


class _Projected(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def heads(self, x: Tensor) -> list[Tensor]:
        """Queries, keys and values, each (batch, heads, tokens, width of a head)."""
        return [part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in self.qkv(self.norm(x)).chunk(3, -1)]

    def written(self, y: Tensor) -> Tensor:
        """The heads side by side, then the out-projection."""
        result: Tensor = self.out(y.transpose(1, 2).flatten(2))
        return result


class EinsumAttention(_Projected):
    """Scores and values by einsum."""

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, width) to the same."""
        q, k, v = self.heads(x)
        weights = (torch.einsum("bhid,bhjd->bhij", q, k) / 3).softmax(-1)
        return self.written(torch.einsum("bhij,bhjd->bhid", weights, v))


class TalkingHeads(_Projected):
    """Scores are mixed over heads before and after the softmax (arXiv 2003.02436)."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = nn.Parameter(torch.zeros(HEADS, HEADS)), nn.Linear(HEADS, HEADS, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, width) to the same."""
        q, k, v = self.heads(x)
        scores = torch.einsum("gh,bhij->bgij", self.before, q @ k.transpose(-1, -2) / 3)
        weights = self.after(scores.softmax(-1).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.written(weights @ v)


class CosineAttention(_Projected):
    """Queries and keys have length 1, a learned temperature (arXiv 2111.09883)."""

    def __init__(self) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.zeros(HEADS, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, width) to the same."""
        q, k, v = self.heads(x)
        scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-1, -2)
        return self.written((scores * self.temperature.clamp(max=4.6).exp()).softmax(-1) @ v)


class CrossCovariance(_Projected):
    """Attention over channels instead of tokens (arXiv 2106.09681)."""

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, width) to the same."""
        q, k, v = (part.transpose(-1, -2) for part in self.heads(x))
        q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        return self.written(((q @ k.transpose(-1, -2)).softmax(-1) @ v).transpose(-1, -2))


class SpatialGate(nn.Module):
    """Half of the channels gates the other half after a linear over tokens (arXiv 2105.08050)."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.inner_norm = nn.LayerNorm(WIDTH), nn.LayerNorm(HIDDEN // 2)
        self.up, self.down = nn.Linear(WIDTH, HIDDEN), nn.Linear(HIDDEN // 2, WIDTH)
        self.over_tokens = nn.Linear(TOKENS, TOKENS)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, width) to the same."""
        y, gate = F.gelu(self.up(self.norm(x))).chunk(2, -1)
        gate = self.over_tokens(self.inner_norm(gate).transpose(1, 2)).transpose(1, 2)
        result: Tensor = self.down(y * gate)
        return result


class Experts(nn.Module):
    """All experts run, weighted by a softmax over the two with the highest scores."""

    def __init__(self, experts: int = 3) -> None:
        super().__init__()
        self.norm, self.router = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, experts)
        self.up = nn.Parameter(torch.zeros(experts, WIDTH, HIDDEN))
        self.down = nn.Parameter(torch.zeros(experts, HIDDEN, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, width) to the same."""
        y = self.norm(x)
        scores = self.router(y)
        best = scores.topk(2).values[..., -1:]
        weights = scores.masked_fill(scores < best, float("-inf")).softmax(-1)
        hidden = F.gelu(torch.einsum("btd,edh->bteh", y, self.up))
        return torch.einsum("bteh,ehd,bte->btd", hidden, self.down, weights)


class Linformer(nn.Module):
    """Keys and values are mixed down to fewer tokens (arXiv 2006.04768)."""

    def __init__(self, fewer: int = 4) -> None:
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.keys, self.values = (nn.Parameter(torch.zeros(fewer, TOKENS)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, width) to the same."""
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        result: Tensor = self.out(attend(q, self.keys @ k, self.values @ v))
        return result
