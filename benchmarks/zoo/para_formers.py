"""Para-Formers: N equal branches of one or two blocks on one state, summed up in every way that people write.

    first     b_0(x) + sum_{i>0} (b_i(x) - x)       as paraformer.model writes it
    each      x + sum_i (b_i(x) - x)
    mean      1/N sum_i b_i(x)
    weighted  sum_i w_i b_i(x), sum_i w_i = 1
    stacked   stack(b_i(x)).mean(0)

All branches cost as many operations as one, once they are fused.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from benchmarks.zoo.entry import TOKENS, WIDTH, Entry, Feed
from benchmarks.zoo.layers import Attention, mlp

WAYS = ("first", "each", "mean", "weighted", "stacked")
BRANCHES = (1, 2, 3, 8)
DEPTHS = (1, 2)
ALREADY = ("they are parallel already",)
REFUSED = {
    "first": ALREADY,
    "each": ("holds a longer stack",),  # x + all that the branches add
    "mean": ALREADY,
    "weighted": ALREADY,
    "stacked": (),
}


def entries() -> Iterator[Entry]:
    """Every number of branches, every depth, every way."""
    for way in WAYS:
        for blocks in DEPTHS:
            for branches in BRANCHES:
                yield _entry(branches, blocks, way)


def _entry(branches: int, blocks: int, way: str) -> Entry:
    one = {"attention": blocks, "mlp": blocks}
    return Entry(
        name_of(branches, blocks, way),
        lambda: ParaFormer(branches, blocks, way),
        {"x": Feed((3, TOKENS, WIDTH))},
        (one,) * branches,
        REFUSED[way] if branches > 1 or way == "each" else (),
        onnx=branches == max(BRANCHES),
        slow=(branches, blocks, way) != (3, 1, "first"),
    )


def name_of(branches: int, blocks: int, way: str) -> str:
    """Such as para-former-3x1-mean: three branches of one block."""
    return f"para-former-{branches}x{blocks}-{way}"


class ParaFormer(nn.Module):
    """(batch, tokens, width) to (batch, tokens, 8)."""

    def __init__(self, branches: int, blocks: int, way: str) -> None:
        super().__init__()
        self.way = way
        self.stem, self.norm, self.head = nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 8)
        self.branches = nn.ModuleList(
            nn.ModuleList(term for _ in range(blocks) for term in (Attention(), mlp())) for _ in range(branches)
        )

    def forward(self, x: Tensor) -> Tensor:
        """A stem, the branches, a norm and a head."""
        x = self.stem(x)
        ends = []
        for branch in self.branches:
            y = x
            for term in branch:
                y = y + term(y)
            ends.append(y)
        result: Tensor = self.head(self.norm(self.summed(x, ends)))
        return result

    def summed(self, x: Tensor, ends: list[Tensor]) -> Tensor:
        """One of the five ways."""
        first, *rest = ends
        if self.way == "first":
            return sum((end - x for end in rest), first)
        if self.way == "each":
            return sum((end - x for end in ends), x)
        if self.way == "mean":
            return sum(rest, first) / len(ends)
        if self.way == "weighted":
            shares = [2.0 * (number + 1) / (len(ends) * (len(ends) + 1)) for number in range(len(ends))]
            return sum((share * end for share, end in zip(shares[1:], rest, strict=True)), shares[0] * first)
        return torch.stack(ends).mean(0)
