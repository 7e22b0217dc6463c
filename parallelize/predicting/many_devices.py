"""How long a token of a transformer takes on many GPUs: tensor parallelism of the serial network, branches on ranks.

With B blocks, groups of g blocks on a level, and each block's heads and hidden units cut among t GPUs:

    serial           p = t        2 B all-reduces, one behind each attention and each MLP (Megatron-LM, 1909.08053)
    sublayer form    p = t        2 B / g: what the attentions of a level add is one sum, and so is that of its MLPs
    block form       p = g t      B / g over all p, and B / g over the t of a branch, none where t = 1
    Para-Former      p = B t      block form of one group

In the sublayer form the GPUs share the heads of all attentions of a level, so a level of g blocks has work for g times
as many GPUs as one block has heads. Kernels take what `parallelize.predicting.latency` predicts for a target, one after
another; all-reduces, what `parallelize.predicting.all_reduce` does, and nothing is hidden behind anything else.
Embedding and head are left out, and so is what a schedule costs in accuracy.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from parallelize.predicting.all_reduce import Fabric, microseconds
from parallelize.predicting.kernel import Kernel, Kernels
from parallelize.predicting.latency import milliseconds
from parallelize.predicting.target import Target

Form = Literal["serial", "sublayer", "block"]
_WIDTH = 2  # bytes of a number in bf16


@dataclass(frozen=True)
class Transformer:
    """A decoder of gated MLPs.

    Attributes:
        name: of the network.
        blocks: how many.
        width: of the state.
        heads: of an attention.
        kv_heads: of its keys and values.
        hidden: units of an MLP.
        tokens: that are computed at once.
        context: that are attended to.
    """

    name: str
    blocks: int
    width: int
    heads: int
    kv_heads: int
    hidden: int
    tokens: int = 1
    context: int = 1024


@dataclass(frozen=True)
class Layout:
    """A network on GPUs.

    Attributes:
        form: in which its blocks run.
        group: blocks of a level.
        devices: GPUs in all.
    """

    form: Form
    group: int
    devices: int

    @property
    def cut(self) -> int:
        """GPUs that share a block, or in the other forms a level."""
        return self.devices // self.group if self.form == "block" else self.devices

    def fits(self, network: Transformer) -> bool:
        """Whether each GPU has a head at least, and every level as many blocks."""
        if network.blocks % self.group or (self.form == "block" and self.devices % self.group):
            return False
        return self.cut <= network.heads * (self.group if self.form == "sublayer" else 1)

    def all_reduces(self, network: Transformer) -> dict[int, int]:
        """How many all-reduces a token waits for, by how many GPUs take part."""
        levels = network.blocks // self.group
        found = {self.devices: levels if self.form == "block" else 2 * levels}
        if self.form == "block":
            found[self.cut] = found.get(self.cut, 0) + levels
        return {ranks: count for ranks, count in found.items() if ranks > 1}


@dataclass(frozen=True)
class Step:
    """What one step of a network takes.

    Attributes:
        computing: microseconds of kernels on a GPU.
        reducing: microseconds of all-reduces.
    """

    computing: float
    reducing: float

    @property
    def total(self) -> float:
        """Microseconds."""
        return self.computing + self.reducing


def step(network: Transformer, layout: Layout, target: Target, fabric: Fabric) -> Step:
    """What one step takes, in microseconds.

    Args:
        network: what runs.
        layout: where.
        target: the GPU, with numbers for bf16.
        fabric: what connects GPUs.
    """
    levels = network.blocks // layout.group
    kernels = list(_level(network, layout))
    computing = 1e3 * milliseconds(Kernels.of(kernels * levels, "bf16"), target)
    size = network.tokens * network.width * _WIDTH
    counts = layout.all_reduces(network)
    return Step(computing, sum(count * microseconds(fabric, ranks, size) for ranks, count in counts.items()))


def _level(network: Transformer, layout: Layout) -> Iterator[Kernel]:
    """The kernels of a GPU for one level: a norm, an attention and an MLP as wide as its share."""
    blocks = layout.group if layout.form == "sublayer" else 1

    def share(count: int) -> int:
        return math.ceil(blocks * count / layout.cut)

    heads, kv_heads, hidden = share(network.heads), share(network.kv_heads), share(network.hidden)
    head = network.width // network.heads
    rows, state = network.tokens, network.tokens * network.width
    yield Kernel("norm", 2 * state * _WIDTH)
    yield _product(rows, (heads + 2 * kv_heads) * head, network.width)
    cached = 2 * kv_heads * network.context * head
    yield Kernel("attention", (2 * rows * heads * head + cached) * _WIDTH, heads, rows, network.context, head)
    yield _product(rows, network.width, heads * head)
    yield Kernel("pointwise", 3 * state * _WIDTH)
    yield Kernel("norm", 2 * state * _WIDTH)
    yield _product(rows, 2 * hidden, network.width)
    yield Kernel("pointwise", 3 * rows * hidden * _WIDTH)
    yield _product(rows, network.width, hidden)
    yield Kernel("pointwise", 3 * state * _WIDTH)


def _product(rows: int, columns: int, inner: int) -> Kernel:
    size = rows * inner + inner * columns + rows * columns
    return Kernel("product", size * _WIDTH, 1, rows, columns, inner)
