"""Networks on graphs, points and sets, and flows of coupled states."""

from __future__ import annotations

from collections.abc import Iterator
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

from benchmarks.zoo.entry import BLOCKS, HIDDEN, STATE, WIDTH, Entry, Feed
from benchmarks.zoo.layers import Attention, mlp

NODES, EDGES, POINTS = 7, 12, 16


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
