"""Networks on graphs, points and sets, flows of coupled states, and adds in other spellings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

from benchmarks.zoo.entry import BLOCKS, HEADS, HIDDEN, TOKENS, WIDTH, Entry, Feed
from benchmarks.zoo.layers import Attention, Chain, attend, mlp

STATE = {"x": Feed((3, TOKENS, WIDTH))}
NODES, EDGES, POINTS = 7, 12, 16
MLPS = ({"mlp": BLOCKS},)
TERMS = ({"attention": BLOCKS, "mlp": BLOCKS},)


def entries() -> Iterator[Entry]:
    """All of them."""
    whole = MappingProxyType({})
    graph = {"x": Feed((NODES, WIDTH), whole), "edge_index": Feed((2, EDGES), whole, tokens=NODES)}
    yield Entry("graph-convolution", GraphNet, graph)
    yield Entry("graph-attention", GraphAttention, graph, slow=True)
    yield Entry("interaction-network", InteractionNet, graph, slow=True)
    cloud = {"points": Feed((3, POINTS, 3))}
    yield Entry("point-transformer", PointTransformer, cloud, slow=True)
    yield Entry("point-mlp", PointMlp, cloud, slow=True)
    yield Entry("set-transformer", SetTransformer, STATE, slow=True)
    yield Entry("real-nvp", RealNvp, {"x": Feed((3, 12))}, slow=True)
    yield Entry("rev-net", RevNet, STATE, slow=True)
    yield Entry("conformer", Conformer, STATE, slow=True)
    yield Entry("macaron-post-norm", lambda: Conformer(convolution=False), STATE, slow=True)
    yield Entry("fourier-mixing", FourierMixing, STATE)
    yield Entry("pooling-mixing", PoolingMixing, STATE, slow=True)
    yield Entry("einsum-attention", lambda: _chain(EinsumAttention), STATE, TERMS, slow=True)
    yield Entry("talking-heads", lambda: _chain(TalkingHeads), STATE, TERMS, slow=True)
    yield Entry("cosine-attention", lambda: _chain(CosineAttention), STATE, TERMS, slow=True)
    yield Entry("xcit", lambda: _chain(CrossCovariance), STATE, TERMS, slow=True)
    yield Entry("gmlp", lambda: _chain(SpatialGate), STATE, slow=True)
    yield Entry("mixture-of-experts", lambda: _chain(Experts), STATE, slow=True)
    yield Entry("linformer", lambda: _chain(Linformer), STATE, TERMS, slow=True)
    yield Entry("ga-transformer-xl-gates", Gated, STATE, slow=True)
    yield Entry("highway", lambda: Spelled("lerp-by-gate"), STATE, slow=True)
    for kind in ("sub", "lerp", "addcmul", "stack-sum", "alpha", "scaled", "in-place", "cast"):
        yield Entry(f"add-by-{kind}", lambda kind=kind: Spelled(kind), STATE, MLPS, slow=True)


def _chain(mixer: Callable[[], nn.Module]) -> nn.Module:
    """Mixers and MLPs in turn on (batch, tokens, width)."""
    terms: list[nn.Module] = [term for _ in range(BLOCKS) for term in (mixer(), mlp())]
    return Chain(nn.Linear(WIDTH, WIDTH), terms, nn.Linear(WIDTH, 8))


# graphs --------------------------------------------------------------------------------------------------------------


class GraphNet(nn.Module):
    """x + MLP(sum of what neighbours send), by index_add over edges that are an input."""

    def __init__(self) -> None:
        super().__init__()
        self.messages, self.updates = (nn.ModuleList(mlp() for _ in range(BLOCKS)) for _ in range(2))
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """(nodes, width) and (2, edges) to (nodes, 3); neither has a batch axis."""
        source, target = edge_index[0], edge_index[1]
        for message, update in zip(self.messages, self.updates, strict=True):
            gathered = torch.zeros_like(x).index_add(0, target, message(x)[source])
            x = x + update(gathered)
        result: Tensor = self.head(x)
        return result


class GraphAttention(nn.Module):
    """Scores of edges, a softmax over the edges of each node (arXiv 1710.10903)."""

    def __init__(self) -> None:
        super().__init__()
        self.values = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(BLOCKS))
        self.scores = nn.ModuleList(nn.Linear(2 * WIDTH, 1) for _ in range(BLOCKS))

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """(nodes, width) and (2, edges) to (nodes, width)."""
        source, target = edge_index[0], edge_index[1]
        for value, score in zip(self.values, self.scores, strict=True):
            y = value(x)
            weights = F.leaky_relu(score(torch.cat([y[source], y[target]], -1)), 0.2).exp()
            total = x.new_zeros(x.shape[0], 1).index_add(0, target, weights)
            mixed = torch.zeros_like(x).index_add(0, target, weights * y[source])
            x = x + F.elu(mixed / (total + 1e-6))
        return x


class InteractionNet(nn.Module):
    """Edges have a state too, and each adds to its own (arXiv 2002.09405)."""

    def __init__(self) -> None:
        super().__init__()
        self.start = nn.Linear(2 * WIDTH, WIDTH)
        self.edges = nn.ModuleList(
            nn.Sequential(nn.Linear(3 * WIDTH, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, WIDTH)) for _ in range(BLOCKS)
        )
        self.nodes = nn.ModuleList(
            nn.Sequential(nn.Linear(2 * WIDTH, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, WIDTH)) for _ in range(BLOCKS)
        )

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """(nodes, width) and (2, edges) to (nodes, width)."""
        source, target = edge_index[0], edge_index[1]
        e = self.start(torch.cat([x[source], x[target]], -1))
        for edge, node in zip(self.edges, self.nodes, strict=True):
            e = e + edge(torch.cat([e, x[source], x[target]], -1))
            received = torch.zeros_like(x).index_add(0, target, e)
            x = x + node(torch.cat([x, received], -1))
        return x


# points and sets -----------------------------------------------------------------------------------------------------


class PointTransformer(nn.Module):
    """Attention of vectors over the nearest points, with relative positions (arXiv 2012.09164)."""

    def __init__(self, near: int = 4) -> None:
        super().__init__()
        self.near = near
        self.stem, self.head = nn.Linear(3, WIDTH), nn.Linear(WIDTH, 5)
        self.qkv = nn.ModuleList(nn.Linear(WIDTH, 3 * WIDTH) for _ in range(BLOCKS))
        self.places = nn.ModuleList(nn.Linear(3, WIDTH) for _ in range(BLOCKS))
        self.scores, self.outs = (nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(BLOCKS)) for _ in range(2))

    def forward(self, points: Tensor) -> Tensor:
        """(batch, points, 3) to (batch, points, 5)."""
        nearest = torch.cdist(points, points).topk(self.near, largest=False).indices
        batch = torch.arange(points.shape[0], device=points.device)[:, None, None]
        offsets = points[:, :, None] - points[batch, nearest]
        x = self.stem(points)
        for qkv, place, score, out in zip(self.qkv, self.places, self.scores, self.outs, strict=True):
            q, k, v = qkv(x).chunk(3, -1)
            relative = place(offsets)
            weights = score(F.relu(q[:, :, None] - k[batch, nearest] + relative)).softmax(2)
            x = x + out((weights * (v[batch, nearest] + relative)).sum(2))
        result: Tensor = self.head(x)
        return result


class PointMlp(nn.Module):
    """Each point and the largest of all points: MLPs of both (as PointNet does)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(3, WIDTH), nn.Linear(WIDTH, 5)
        self.mlps = nn.ModuleList(
            nn.Sequential(nn.Linear(2 * WIDTH, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, WIDTH)) for _ in range(BLOCKS)
        )

    def forward(self, points: Tensor) -> Tensor:
        """(batch, points, 3) to (batch, 5)."""
        x = self.stem(points)
        for term in self.mlps:
            x = x + term(torch.cat([x, x.amax(1, keepdim=True).expand_as(x)], -1))
        result: Tensor = self.head(x.max(1).values)
        return result


class SetTransformer(nn.Module):
    """Attention by way of a few learned points (arXiv 1810.00825)."""

    def __init__(self, points: int = 4) -> None:
        super().__init__()
        self.points = nn.ParameterList(nn.Parameter(torch.zeros(1, points, WIDTH)) for _ in range(BLOCKS))
        self.gather, self.spread = (nn.ModuleList(Attention() for _ in range(BLOCKS)) for _ in range(2))
        self.mlps = nn.ModuleList(mlp() for _ in range(BLOCKS))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, width) to the same."""
        for points, gather, spread, term in zip(self.points, self.gather, self.spread, self.mlps, strict=True):
            seeds = points.expand(x.shape[0], -1, -1)
            x = x + spread(x, gather(seeds, x))
            x = x + term(x)
        return x


# coupled states ------------------------------------------------------------------------------------------------------


class RealNvp(nn.Module):
    """Each half of the state is scaled and shifted by what the other says (arXiv 1605.08803)."""

    def __init__(self) -> None:
        super().__init__()
        self.nets = nn.ModuleList(
            nn.Sequential(nn.Linear(6, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 12)) for _ in range(2 * BLOCKS)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 12) to the same."""
        a, b = x.chunk(2, -1)
        for net in self.nets:
            scale, shift = net(a).chunk(2, -1)
            a, b = b * scale.tanh().exp() + shift, a
        return torch.cat([a, b], -1)


class RevNet(nn.Module):
    """y1 = x1 + f(x2), y2 = x2 + g(y1): two states that read each other (arXiv 1707.04585)."""

    def __init__(self) -> None:
        super().__init__()
        self.attentions = nn.ModuleList(Attention() for _ in range(BLOCKS))
        self.mlps = nn.ModuleList(mlp() for _ in range(BLOCKS))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, width) to the same."""
        a = b = x
        for attention, term in zip(self.attentions, self.mlps, strict=True):
            a = a + attention(b)
            b = b + term(a)
        return a + b


# blocks of other forms -----------------------------------------------------------------------------------------------


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


class Gated(nn.Module):
    """(1 - z) x + z h with a gate as in a GRU in place of the add (arXiv 1910.06764)."""

    def __init__(self) -> None:
        super().__init__()
        self.mlps = nn.ModuleList(mlp() for _ in range(BLOCKS))
        self.gates = nn.ModuleList(nn.Linear(2 * WIDTH, WIDTH) for _ in range(BLOCKS))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, width) to the same."""
        for term, gate in zip(self.mlps, self.gates, strict=True):
            y = term(x)
            z = gate(torch.cat([x, y], -1)).sigmoid()
            x = (1 - z) * x + z * y.tanh()
        return x


class Spelled(nn.Module):
    """x + something, in many spellings."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.head = kind, nn.Linear(WIDTH, 8)
        self.mlps = nn.ModuleList(mlp() for _ in range(BLOCKS))
        self.gate = nn.Parameter(torch.zeros(WIDTH))
        self.gates = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(BLOCKS if kind == "lerp-by-gate" else 0))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, width) to (batch, tokens, 8)."""
        for number, term in enumerate(self.mlps):
            x = self.added(x, term(x), number)
        result: Tensor = self.head(x)
        return result

    def added(self, x: Tensor, f: Tensor, number: int) -> Tensor:
        """One spelling."""
        spellings: dict[str, Callable[[], Tensor]] = {
            "sub": lambda: x - f,
            "lerp": lambda: torch.lerp(x, f, 0.5),
            "lerp-by-gate": lambda: torch.lerp(x, f, self.gates[number](x).sigmoid()),
            "addcmul": lambda: torch.addcmul(x, f, self.gate),
            "stack-sum": lambda: torch.stack([x, f]).sum(0),
            "alpha": lambda: torch.add(x, f, alpha=0.5),
            "scaled": lambda: 0.9 * x + f,
            "in-place": lambda: x.clone().add_(f),
            "cast": lambda: (x.double() + f.double()).to(x.dtype),
        }
        return spellings[self.kind]()
