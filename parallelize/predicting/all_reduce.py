"""How long an all-reduce takes among many GPUs: latency for each step, and bytes over a bandwidth.

    t = t_base + t_steps + n / b                                of n bytes on p ranks, k nodes of p / k each
    ring    t_steps = 2 (p - k) inside + 2 (k - 1) across       b = bus * p / (2 (p - 1))
    tree    t_steps = 2 ((p / k - 1) inside + log2(k) across)   b = bus / 2

A ring sends each of p pieces round twice; a tree adds up along a chain in each node and a tree of the nodes, and back.
The quickest of both, in the protocol that suits n, is taken, as NCCL does; formulas and latencies are those of its own
tuner (NCCL 2.30.7, src/graph/tuning.cc: baseLatencies, hwLatencies, llMaxBws). `simulated` sends every message instead,
from ranks that need not begin together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Times = NDArray[np.float64]  # microseconds


@dataclass(frozen=True)
class Protocol:
    """An algorithm in one of the protocols that a library has for small and for large messages.

    Attributes:
        name: of both.
        shape: of the algorithm.
        base_us: of every call.
        inside_us: of a step between GPUs of a node.
        across_us: of a step between nodes.
        share: of the bus that it reaches.
        most: 10^9 bytes a second that it reaches at most on one, two and more nodes; None has no such bound.
    """

    name: str
    shape: Literal["ring", "tree"]
    base_us: float
    inside_us: float
    across_us: float
    share: float
    most: tuple[float, float, float] | None = None

    def bus(self, fabric: Fabric, nodes: int) -> float:
        """10^9 bytes a second of the bus."""
        bus = self.share * (fabric.inside if nodes == 1 else min(fabric.inside, fabric.across))
        return bus if self.most is None else min(bus, self.most[min(nodes, 3) - 1])


@dataclass(frozen=True)
class Fabric:
    """What connects GPUs.

    Attributes:
        name: of its links.
        node: GPUs of a node.
        inside: 10^9 bytes a second of a GPU to others of its node, in one direction.
        across: 10^9 bytes a second of a node to others, in one direction.
        protocols: among which the quickest is taken.
    """

    name: str
    node: int
    inside: float
    across: float
    protocols: tuple[Protocol, ...]

    def nodes(self, ranks: int) -> int:
        """Nodes that so many ranks fill."""
        return math.ceil(ranks / self.node)


# NVIDIA's data sheet of the H200 gives NVLink 900 GB/s in both directions together, the user manual of ConnectX-7
# 400 Gb/s to a port, and the user guide of the DGX H200 eight such ports for eight GPUs.
H200 = Fabric(
    "NVLink 4 in nodes of 8, a port of NDR InfiniBand to a GPU",
    node=8,
    inside=450.0,
    across=8 * 50.0,
    protocols=(
        Protocol("ring, LL", "ring", 6.6, 0.6, 2.7, 0.5, (141.0, 45.0, 35.0)),
        Protocol("tree, LL", "tree", 6.8, 0.6, 5.0, 0.92 / 3.8, (141.0, 45.0, 35.0)),
        Protocol("ring, simple", "ring", 8.4, 3.4, 14.0, 1.0),
        Protocol("tree, simple", "tree", 8.4, 4.0, 14.0, 0.92),
    ),
)


def microseconds(fabric: Fabric, ranks: int, size: int) -> float:
    """The time of one all-reduce.

    Args:
        fabric: what connects the ranks.
        ranks: how many take part; in several nodes they fill each of them.
        size: bytes.
    """
    if ranks == 1:
        return 0.0
    return min(_closed(protocol, fabric, ranks, size) for protocol in fabric.protocols)


def _closed(protocol: Protocol, fabric: Fabric, ranks: int, size: int) -> float:
    nodes = fabric.nodes(ranks)
    bus = protocol.bus(fabric, nodes)
    if protocol.shape == "ring":
        steps = 2 * (ranks - nodes) * protocol.inside_us + 2 * (nodes - 1) * protocol.across_us
        return protocol.base_us + steps + size / (1e3 * bus * ranks / (2 * (ranks - 1)))
    chain = math.ceil(ranks / nodes) - 1
    steps = 2 * (chain * protocol.inside_us + math.ceil(math.log2(nodes)) * protocol.across_us)
    return protocol.base_us + steps + 2 * size / (1e3 * bus)


def simulated(fabric: Fabric, size: int, ready: Sequence[float] | Times) -> Times:
    """When each rank has the sum, message by message, in the protocol that is quickest where all begin together.

    Args:
        fabric: what connects the ranks.
        size: bytes.
        ready: when each rank begins, in microseconds.
    """
    clock = np.asarray(ready, dtype=np.float64)
    if len(clock) == 1:
        return clock
    protocol = min(fabric.protocols, key=lambda each: _closed(each, fabric, len(clock), size))
    clock = clock + protocol.base_us
    return (_ring if protocol.shape == "ring" else _tree)(protocol, fabric, size, clock)


def _ring(protocol: Protocol, fabric: Fabric, size: int, clock: Times) -> Times:
    """Each rank hands a piece to the next one, 2 (p - 1) times; a piece arrives when its sender and receiver are there.

    Its latency is that of the link it comes by, and its bytes take what a p-th of all takes on the bus.
    """
    ranks = len(clock)
    place = np.arange(ranks)
    enters = (place // fabric.node) != (np.roll(place, 1) // fabric.node)
    latency = np.where(enters, protocol.across_us, protocol.inside_us)
    piece = size / ranks / (1e3 * protocol.bus(fabric, fabric.nodes(ranks)))
    for _ in range(2 * (ranks - 1)):
        clock = np.maximum(clock, np.roll(clock, 1) + latency) + piece
    return clock


def _tree(protocol: Protocol, fabric: Fabric, size: int, clock: Times) -> Times:
    """Up the chain of each node and a binomial tree of the nodes, and back; bytes flow behind the first one."""
    ranks, nodes = len(clock), fabric.nodes(len(clock))
    width = math.ceil(ranks / nodes)
    padded = np.full(nodes * width, -np.inf)
    padded[:ranks] = clock
    grid = padded.reshape(nodes, width)
    heads = grid[:, -1].copy()
    for column in reversed(range(width - 1)):
        heads = np.maximum(heads + protocol.inside_us, grid[:, column])
    step = 1
    while step < nodes:
        receivers = np.arange(0, nodes - step, 2 * step)
        heads[receivers] = np.maximum(heads[receivers], heads[receivers + step] + protocol.across_us)
        step *= 2
    done = np.full(nodes, heads[0])
    while step > 1:
        step //= 2
        senders = np.arange(0, nodes - step, 2 * step)
        done[senders + step] = done[senders] + protocol.across_us
    flow = 2 * size / (1e3 * protocol.bus(fabric, nodes))
    found: Times = (done[:, None] + protocol.inside_us * np.arange(width) + flow).reshape(-1)[:ranks]
    return found
