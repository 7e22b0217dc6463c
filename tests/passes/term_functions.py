"""Terms as functions of their parts, for tests that fuse a level of several of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, fx, nn
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

from passes.clean.remove_identities import RemoveIdentities
from passes.fusion.fuse_width import FuseWidth
from passes.runner import Pass, PassRecord, run_passes
from tests.passes.models import HEADS, HIDDEN, WIDTH, Function, fixed_graph_of, graph_of, randomised, run, tokens

HEAD = WIDTH // HEADS


@dataclass(frozen=True)
class Branch:
    """A term as a function of its parts and its inputs; each part is made anew for each branch."""

    forward: Callable[..., Tensor]
    parts: dict[str, Callable[[], nn.Module | Tensor]]
    sides: tuple[Tensor, ...] = ()


def up() -> nn.Module:
    return nn.Linear(WIDTH, HIDDEN)


def down() -> nn.Module:
    return nn.Linear(HIDDEN, WIDTH)


def square() -> nn.Module:
    return nn.Linear(WIDTH, WIDTH)


def hidden(function: Callable[..., Tensor], *sides: Tensor, **parts: Callable[[], nn.Module | Tensor]) -> Branch:
    """down(function(branch, up(x))) and what it reads beside x."""

    def forward(self: Function, x: Tensor, *inputs: Tensor) -> Tensor:
        y: Tensor = self.down(function(self, self.up(x), *inputs))
        return y

    return Branch(forward, {"up": up, "down": down, **parts}, sides)


def out(function: Callable[..., Tensor], *sides: Tensor, **parts: Callable[[], nn.Module | Tensor]) -> Branch:
    """function(branch, down(relu(up(x)))) and what it reads beside x."""

    def forward(self: Function, x: Tensor, *inputs: Tensor) -> Tensor:
        return function(self, self.down(F.relu(self.up(x))), *inputs)

    return Branch(forward, {"up": up, "down": down, **parts}, sides)


def attention(mask: Callable[..., Tensor | None], *sides: Tensor, **parts: Callable[[], nn.Module | Tensor]) -> Branch:
    """Attention with separate projections and a mask."""

    def forward(self: Function, x: Tensor, *inputs: Tensor) -> Tensor:
        layers = (self.query, self.key, self.value)
        query, key, value = (layer(x).view(*x.shape[:2], HEADS, HEAD).transpose(1, 2) for layer in layers)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask(self, *inputs))
        y: Tensor = self.out(mixed.transpose(1, 2).reshape(x.shape))
        return y

    return Branch(forward, {**dict.fromkeys(("query", "key", "value", "out"), square), **parts}, sides)


def level(
    branch: Branch, count: int = 2, cleaning: Sequence[Pass] = (RemoveIdentities(),), *, free: bool = True
) -> fx.GraphModule:
    """The cleaned graph of a level of such branches, its batch free or not."""

    def made() -> Function:
        return Function(branch.forward, **{name: make() for name, make in branch.parts.items()})

    def forward(self: Function, x: Tensor, *sides: Tensor) -> Tensor:
        y = x
        for term in self.terms:
            y = y + term(x, *sides)
        return y

    terms = nn.ModuleList(made() for _ in range(count))
    capture = graph_of if free else fixed_graph_of
    captured = capture(randomised(Function(forward, terms=terms)), tokens(), *branch.sides)
    return run_passes(captured, cleaning)[0]


def fuse(
    branch: Branch,
    *,
    probed: bool = True,
    count: int = 2,
    cleaning: Sequence[Pass] = (RemoveIdentities(),),
    free: bool = True,
) -> tuple[fx.GraphModule, fx.GraphModule, PassRecord]:
    """A level of such branches before and after, and what the pass said."""
    graph = level(branch, count, cleaning, free=free)
    return graph, *run(graph, FuseWidth(), *((tokens(), *branch.sides) if probed else ()))
