"""Adds in other spellings, and gates in place of the add."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from benchmarks.zoo.entry import BLOCKS, STATE, WIDTH, Entry
from benchmarks.zoo.layers import mlp

MLPS = ({"mlp": BLOCKS},)


def entries() -> Iterator[Entry]:
    """All of them."""
    yield Entry("ga-transformer-xl-gates", Gated, STATE, slow=True)
    yield Entry("highway", lambda: Spelled("lerp-by-gate"), STATE, slow=True)
    for kind in ("sub", "lerp", "addcmul", "stack-sum", "alpha", "scaled", "in-place", "cast"):
        yield Entry(f"add-by-{kind}", lambda kind=kind: Spelled(kind), STATE, MLPS, slow=True)


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
