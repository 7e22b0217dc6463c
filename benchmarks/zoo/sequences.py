"""Networks of sequences without softmax attention: recurrences, state spaces, convolutions, and time series."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

from benchmarks.zoo.entry import BLOCKS, HEADS, HIDDEN, STATE, TOKENS, VOCABULARY, WIDTH, Entry, Feed, pretrained
from benchmarks.zoo.layers import Attention, Chain, mlp

FEW_WORDS = {"input_ids": Feed((3, 4), tokens=VOCABULARY)}  # the graph of a recurrence grows with the tokens
SPACES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "num_hidden_layers": 2,
    "state_size": 4,
    "use_cache": False,
    "pad_token_id": 2,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
SERIES: dict[str, Any] = {
    "d_model": WIDTH,
    "num_attention_heads": HEADS,
    "ffn_dim": HIDDEN,
    "num_hidden_layers": BLOCKS,
    "context_length": 32,
    "patch_length": 8,
    "patch_stride": 8,
    "num_input_channels": 3,
}
MIXER: dict[str, Any] = {
    "d_model": WIDTH,
    "num_layers": BLOCKS,
    "expansion_factor": 2,
    "context_length": 32,
    "patch_length": 8,
    "patch_stride": 8,
    "num_input_channels": 3,
}
ACTIONS: dict[str, Any] = {
    "state_dim": 7,
    "act_dim": 4,
    "hidden_size": WIDTH,
    "n_layer": BLOCKS,
    "n_head": HEADS,
    "max_ep_len": 64,
    "n_positions": 64,
    "use_cache": False,
}


def entries() -> Iterator[Entry]:
    """All of them."""
    yield Entry("mamba", pretrained("MambaModel", **SPACES), FEW_WORDS, slow=True)
    mamba2 = pretrained("Mamba2Model", **SPACES, num_heads=8, head_dim=8, n_groups=2, chunk_size=4)
    yield Entry("mamba-2", mamba2, FEW_WORDS, slow=True)
    yield Entry("falcon-mamba", pretrained("FalconMambaModel", **SPACES), FEW_WORDS, slow=True)
    rwkv = {name: size for name, size in SPACES.items() if name != "state_size"}
    rwkv = pretrained("RwkvModel", **rwkv, attention_hidden_size=WIDTH, context_length=16)
    yield Entry("rwkv", rwkv, FEW_WORDS, slow=True)
    yield Entry("gru-terms", lambda: _chain(lambda: Recurrent(nn.GRU)), STATE, slow=True)
    yield Entry("lstm-terms", lambda: _chain(lambda: Recurrent(nn.LSTM)), STATE, slow=True)
    yield Entry("linear-recurrence", lambda: _chain(LinearRecurrence), STATE, slow=True)
    yield Entry("hyena", lambda: _chain(Hyena), STATE, slow=True)
    yield Entry("retention", lambda: _chain(Retention), STATE, slow=True)
    yield Entry("fourier-operator", lambda: _chain(Spectral), STATE, slow=True)
    yield Entry("tcn", Tcn, {"x": Feed((3, 4, 24))}, ({"convolution": BLOCKS},), slow=True)
    yield Entry("wavenet", WaveNet, {"x": Feed((3, 1, 24))}, slow=True)
    channels = {"past_values": Feed((3, 32, 3))}
    yield Entry("patchtst", pretrained("PatchTSTModel", **SERIES), channels, slow=True)
    yield Entry("patchtsmixer", pretrained("PatchTSMixerModel", **MIXER), channels, slow=True)
    yield Entry(
        "itransformer", ITransformer, {"x": Feed((3, 24, 5))}, ({"attention": BLOCKS, "mlp": BLOCKS},), slow=True
    )
    yield Entry("n-beats", NBeats, {"x": Feed((3, 24))})
    yield Entry("tsmixer", TsMixer, {"x": Feed((3, 24, 5))}, slow=True)
    steps = {0: "batch"}
    yield Entry(
        "decision-transformer",
        pretrained("DecisionTransformerModel", **ACTIONS),
        {
            "states": Feed((3, 5, 7), steps),
            "actions": Feed((3, 5, 4), steps),
            "rewards": Feed((3, 5, 1), steps),
            "returns_to_go": Feed((3, 5, 1), steps),
            "timesteps": Feed((3, 5), steps, tokens=8),
            "attention_mask": Feed((3, 5), steps, mask=True),
        },
        ({"attention": BLOCKS, "mlp": BLOCKS},),
        slow=True,
    )
    rows = {"numbers": Feed((3, 6)), "kinds": Feed((3, 4), tokens=8)}
    yield Entry("ft-transformer", FtTransformer, rows, ({"attention": BLOCKS, "mlp": BLOCKS},), slow=True)
    yield Entry("tabular-resnet", _tabular, {"x": Feed((3, 12))}, ({"mlp": BLOCKS},), slow=True)


def _chain(mixer: Any) -> nn.Module:
    """Mixers and MLPs in turn on (batch, tokens, width)."""
    terms: list[nn.Module] = [term for _ in range(BLOCKS) for term in (mixer(), mlp())]
    return Chain(nn.Linear(WIDTH, WIDTH), terms, nn.Linear(WIDTH, 8))


def _tabular() -> nn.Module:
    """Batch norm, linear, ReLU, linear on rows of a table (arXiv 2106.11959)."""
    terms: list[nn.Module] = [
        nn.Sequential(nn.BatchNorm1d(WIDTH), nn.Linear(WIDTH, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, WIDTH))
        for _ in range(BLOCKS)
    ]
    return Chain(nn.Linear(12, WIDTH), terms, nn.Sequential(nn.BatchNorm1d(WIDTH), nn.ReLU(), nn.Linear(WIDTH, 3)))


class Recurrent(nn.Module):
    """A norm and a recurrent layer of PyTorch."""

    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.norm, self.layer = nn.LayerNorm(WIDTH), kind(WIDTH, WIDTH, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, width) to the same."""
        result: Tensor = self.layer(self.norm(x))[0]
        return result


class LinearRecurrence(nn.Module):
    """h_t = a h_{t-1} + x_t for each channel, as a product with powers of a (a diagonal state space)."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.inward, self.out = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.decay = nn.Parameter(torch.zeros(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, width) to the same."""
        y = self.inward(self.norm(x))
        age = torch.arange(x.shape[1], device=x.device)
        age = age[:, None] - age[None]
        powers = torch.exp(-F.softplus(self.decay)[:, None, None] * age.clamp(min=0)).tril()
        result: Tensor = self.out(torch.einsum("cts,bsc->btc", powers, y))
        return result


class Hyena(nn.Module):
    """Gates around a convolution as long as the sequence, by way of Fourier transforms (arXiv 2302.10866)."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.inward, self.out = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.short = nn.Conv1d(3 * WIDTH, 3 * WIDTH, 3, padding=2, groups=3 * WIDTH)
        self.filter = nn.Parameter(torch.zeros(WIDTH, TOKENS))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, width) to the same."""
        parts = self.short(self.inward(self.norm(x)).transpose(1, 2))[..., : x.shape[1]]
        gate, value, other = parts.chunk(3, 1)
        value = value * other
        size = 2 * TOKENS
        spectrum = torch.fft.rfft(value, n=size) * torch.fft.rfft(self.filter, n=size)
        long = torch.fft.irfft(spectrum, n=size)[..., :TOKENS]
        result: Tensor = self.out((gate * long).transpose(1, 2))
        return result


class Retention(nn.Module):
    """(q k^T * decay) v with a group norm for each head and a gate (arXiv 2307.08621)."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.group = nn.LayerNorm(WIDTH), nn.GroupNorm(HEADS, WIDTH)
        self.qkv, self.gate, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, width) to the same."""
        y = self.norm(x)
        q, k, v = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in self.qkv(y).chunk(3, -1))
        place = torch.arange(x.shape[1], device=x.device)
        age = (place[:, None] - place[None]).to(x.dtype)
        decay = torch.where(age >= 0, 0.9 ** age.clamp(min=0), torch.zeros_like(age))
        mixed = ((q @ k.transpose(-1, -2)) * decay @ v).transpose(1, 2).flatten(2)
        mixed = self.group(mixed.flatten(0, 1)).unflatten(0, (-1, x.shape[1]))
        result: Tensor = self.out(F.silu(self.gate(y)) * mixed)
        return result


class Spectral(nn.Module):
    """A product with complex weights in the frequencies, and a linear beside it (arXiv 2010.08895)."""

    def __init__(self, modes: int = 3) -> None:
        super().__init__()
        self.modes, self.beside = modes, nn.Linear(WIDTH, WIDTH)
        self.real, self.imaginary = (nn.Parameter(torch.zeros(modes, WIDTH, WIDTH)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, width) to the same."""
        spectrum = torch.fft.rfft(x, dim=1)[:, : self.modes]
        mixed = torch.einsum("bmi,mio->bmo", spectrum, torch.complex(self.real, self.imaginary))
        return F.gelu(torch.fft.irfft(mixed, n=TOKENS, dim=1) + self.beside(x))


class TcnBlock(nn.Module):
    """Two causal convolutions with a wide dilation."""

    def __init__(self, dilation: int) -> None:
        super().__init__()
        self.pad = 2 * dilation
        self.first, self.second = (nn.Conv1d(WIDTH, WIDTH, 3, dilation=dilation) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, width, steps) to the same."""
        y = F.relu(self.first(F.pad(x, (self.pad, 0))))
        return F.relu(self.second(F.pad(y, (self.pad, 0))))


class Tcn(nn.Module):
    """relu(x + f(x)), dilations 1, 1, 2, 2 (arXiv 1803.01271)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv1d(4, WIDTH, 1), nn.Linear(WIDTH, 3)
        self.blocks = nn.ModuleList(TcnBlock(1 + number // 2) for number in range(BLOCKS))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 4, steps) to (batch, 3)."""
        x = self.stem(x)
        for block in self.blocks:
            x = F.relu(x + block(x))
        result: Tensor = self.head(x[..., -1])
        return result


class WaveNet(nn.Module):
    """Each block adds to the state and to a sum of skips that the head reads (arXiv 1609.03499)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(1, WIDTH, 1)
        self.gates = nn.ModuleList(
            nn.Conv1d(WIDTH, 2 * WIDTH, 3, padding=1 + number // 2, dilation=1 + number // 2)
            for number in range(BLOCKS)
        )
        self.states = nn.ModuleList(nn.Conv1d(WIDTH, WIDTH, 1) for _ in range(BLOCKS))
        self.skips = nn.ModuleList(nn.Conv1d(WIDTH, WIDTH, 1) for _ in range(BLOCKS))
        self.head = nn.Conv1d(WIDTH, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 1, steps) to (batch, 4, steps)."""
        x = self.stem(x)
        skips: list[Tensor] = []
        for gate, state, skip in zip(self.gates, self.states, self.skips, strict=True):
            hidden, openness = gate(x).chunk(2, 1)
            y = hidden.tanh() * openness.sigmoid()
            x = x + state(y)
            skips.append(skip(y))
        result: Tensor = self.head(F.relu(sum(skips[1:], skips[0])))
        return result


class ITransformer(nn.Module):
    """Each variable is a token, its history the features (arXiv 2310.06625)."""

    def __init__(self) -> None:
        super().__init__()
        terms: list[nn.Module] = [term for _ in range(BLOCKS) for term in (Attention(), mlp())]
        self.chain = Chain(nn.Linear(24, WIDTH), terms, nn.Linear(WIDTH, 8))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 24 steps, variables) to (batch, 8 steps, variables)."""
        mean, spread = x.mean(1, keepdim=True), x.std(1, keepdim=True) + 1e-5
        result: Tensor = self.chain(((x - mean) / spread).transpose(1, 2)).transpose(1, 2)
        return result * spread + mean


class NBeats(nn.Module):
    """Each block takes its backcast off the state and adds its forecast: x - f(x) (arXiv 1905.10437)."""

    def __init__(self) -> None:
        super().__init__()
        self.bodies = nn.ModuleList(
            nn.Sequential(nn.Linear(24, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU()) for _ in range(BLOCKS)
        )
        self.backcasts = nn.ModuleList(nn.Linear(HIDDEN, 24) for _ in range(BLOCKS))
        self.forecasts = nn.ModuleList(nn.Linear(HIDDEN, 6) for _ in range(BLOCKS))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 24) to (batch, 6)."""
        total = x.new_zeros(x.shape[0], 6)
        for body, backcast, forecast in zip(self.bodies, self.backcasts, self.forecasts, strict=True):
            y = body(x)
            x = x - backcast(y)
            total = total + forecast(y)
        return total


class TsMixer(nn.Module):
    """MLPs over steps and over variables in turn (arXiv 2303.06053)."""

    def __init__(self) -> None:
        super().__init__()
        self.over_steps = nn.ModuleList(nn.Linear(24, 24) for _ in range(BLOCKS))
        self.over_variables = nn.ModuleList(mlp(5, norm=False) for _ in range(BLOCKS))
        self.head = nn.Linear(24, 8)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 24 steps, 5 variables) to (batch, 8 steps, 5 variables)."""
        for over_steps, over_variables in zip(self.over_steps, self.over_variables, strict=True):
            x = x + F.relu(over_steps(x.transpose(1, 2))).transpose(1, 2)
            x = x + over_variables(x)
        result: Tensor = self.head(x.transpose(1, 2)).transpose(1, 2)
        return result


class FtTransformer(nn.Module):
    """Each column of a table is a token: numbers scale an embedding, kinds choose one (arXiv 2106.11959)."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.shift = (nn.Parameter(torch.zeros(6, WIDTH)) for _ in range(2))
        self.kinds, self.summary = nn.Embedding(8, WIDTH), nn.Parameter(torch.zeros(1, 1, WIDTH))
        terms: list[nn.Module] = [term for _ in range(BLOCKS) for term in (Attention(), mlp())]
        self.chain = Chain(nn.Identity(), terms, nn.LayerNorm(WIDTH))
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, numbers: Tensor, kinds: Tensor) -> Tensor:
        """(batch, 6) and (batch, 4) to (batch, 3)."""
        columns = numbers[..., None] * self.scale + self.shift
        x = torch.cat([self.summary.expand(numbers.shape[0], -1, -1), columns, self.kinds(kinds)], 1)
        result: Tensor = self.head(self.chain(x)[:, 0])
        return result
