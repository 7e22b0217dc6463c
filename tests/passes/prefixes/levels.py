"""Networks with a level of several branches, and what each of their prefixes must answer, for the tests of prefixes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

from parallelize.models.capture import capture
from parallelize.models.clean import clean
from passes.clean.merge_pieces import MergePieces
from passes.prefixes.prefix_outputs import PrefixOutputs
from passes.registry import FUSION
from passes.runner import run_passes
from tests.paraformer.models import Feed, images, sequences, tokens, unpadded, vision
from tests.paraformer.models import randomised as para_former
from tests.passes.models import WIDTH, Attention, Convolution, Function, Mlp, Residual, normal, randomised, scheduled
from tests.passes.models import tokens as states


@dataclass(frozen=True)
class Case:
    """A network.

    Attributes:
        graph: cleaned.
        answers: inputs -> for each prefix what it answers.
        feed: batch size -> inputs.
        branches: how many prefixes there are.
    """

    graph: fx.GraphModule
    answers: Callable[..., Sequence[Tensor]]
    feed: Callable[[int], tuple[Tensor, ...]]
    branches: int


def of_para_former(config: object, feed: Feed) -> Case:
    """A model of the paraformer package."""
    model = para_former(config)  # type: ignore[arg-type]
    free = [{0: "batch"} if value.ndim == 4 else {0: "batch", 1: "tokens"} for value in feed()]
    program = clean(capture(model, feed(), dynamic=free))[0]
    return Case(program.module, model.prefix_logits, feed, model.config.branch_count)  # type: ignore[arg-type]


def of_function(module: nn.Module, answers: Callable[..., Sequence[Tensor]], *example: Tensor, branches: int) -> Case:
    """A module of one's own, whose samples are on the first axis."""
    graph = clean(capture(module, example))[0].module
    return Case(graph, answers, lambda count: tuple(normal(count, *value.shape[1:]) for value in example), branches)


def written_by_hand() -> Case:
    """x + attention + mlp + mlp, another mlp behind, and a head that reads a norm: as an author may write it."""
    parts = {"a": Attention("chunk"), "b": Mlp(), "c": Mlp(), "after": Mlp(), "head": nn.Linear(WIDTH, 3)}

    def head(self: nn.Module, x: Tensor) -> Tensor:
        x = x + self.after(x)
        return self.head(F.layer_norm(x, (WIDTH,)).mean(1))  # type: ignore[no-any-return]

    model = randomised(Function(lambda self, x: head(self, self.b(x) + self.a(x) + x + self.c(x)), **parts))

    def answers(x: Tensor) -> Sequence[Tensor]:
        b, a, c = model.b(x), model.a(x), model.c(x)
        return [head(model, x + b), head(model, x + b + a), head(model, x + b + a + c)]

    return of_function(model, answers, states(), branches=3)


def without_state() -> Case:
    """The mean of four terms, no state added, written as a stack."""
    model = randomised(Function(_mean, terms=nn.ModuleList(Mlp() for _ in range(4)), head=nn.Linear(WIDTH, 3)))

    def answers(x: Tensor) -> Sequence[Tensor]:
        added = [term(x) for term in model.terms]
        return [model.head(torch.stack(added[:k]).mean(0)) for k in range(1, 5)]

    return of_function(model, answers, states(), branches=4)


def _mean(self: nn.Module, x: Tensor) -> Tensor:
    return self.head(torch.stack([term(x) for term in self.terms]).mean(0))  # type: ignore[no-any-return,operator,union-attr]


def post_norm() -> Case:
    """A serial post-norm stack of four terms, all on one level, each with its own norm: y = x + sum (N(x + f) - x)."""
    model = Residual([Mlp(nn.Identity()) for _ in range(4)], [nn.LayerNorm(WIDTH) for _ in range(4)])
    model.head = nn.Linear(WIDTH, 3)
    randomised(model)
    graph = scheduled(clean(capture(model, (states(),)))[0].module, 4, [[[0], [1], [2], [3]]])

    def answers(x: Tensor) -> Sequence[Tensor]:
        added = [post(x + term(x)) - x for term, post in zip(model.terms, model.posts, strict=True)]
        return [model.head(x + torch.stack(added[:k]).sum(0)) for k in range(1, 5)]

    return Case(graph, answers, lambda count: (states(count),), 4)


def chains() -> Case:
    """A serial stack of attentions and MLPs; the first block alone, the others two chains on one level."""
    terms = [term for _ in range(3) for term in (Attention("chunk"), Mlp())]
    model = Residual(terms, head=nn.Linear(WIDTH, 3))
    randomised(model)
    levels = [[[0]], [[1]], [[2, 3], [4, 5]]]
    graph = scheduled(clean(capture(model, (states(),)))[0].module, 6, levels)

    def chain(x: Tensor, *numbers: int) -> Tensor:
        state = x
        for number in numbers:
            state = state + model.terms[number](state)
        return state - x

    def answers(x: Tensor) -> Sequence[Tensor]:
        x = x + chain(x, 0, 1)
        added = [chain(x, 2, 3), chain(x, 4, 5)]
        return [model.head(x + added[0]), model.head(x + added[0] + added[1])]

    return Case(graph, answers, lambda count: (states(count),), 2)


def over_samples() -> Case:
    """The rest of the network looks at all samples at once, so it must run for each prefix by itself."""
    model = randomised(Function(_centred, a=Mlp(), b=Mlp(), head=nn.Linear(WIDTH, 3)))

    def answers(x: Tensor) -> Sequence[Tensor]:
        sums = [x + model.a(x), x + model.a(x) + model.b(x)]
        return [model.head(y - y.mean(0, keepdim=True)) for y in sums]

    return of_function(model, answers, states(), branches=2)


def _centred(self: nn.Module, x: Tensor) -> Tensor:
    y = x + self.a(x) + self.b(x)  # type: ignore[operator]
    return self.head(y - y.mean(0, keepdim=True))  # type: ignore[no-any-return,operator]


def pictures() -> Case:
    """Convolutions side by side, then a convolution, a norm of channels and a pooling."""
    parts = {"after": nn.Conv2d(WIDTH, 4, 3), "norm": nn.GroupNorm(2, 4), "head": nn.Linear(4, 3)}

    def head(self: nn.Module, x: Tensor) -> Tensor:
        return self.head(F.relu(self.norm(self.after(x))).mean((2, 3)))  # type: ignore[no-any-return]

    model = randomised(
        Function(lambda self, x: head(self, x + self.a(x) + self.b(x)), a=Convolution(), b=Convolution(), **parts)
    )

    def answers(x: Tensor) -> Sequence[Tensor]:
        return [head(model, x + model.a(x)), head(model, x + model.a(x) + model.b(x))]

    return of_function(model, answers, normal(3, WIDTH, 6, 6), branches=2)


_CASES: dict[str, Callable[[], Case]] = {
    "added": lambda: of_para_former(vision(4), images),
    "summed": lambda: of_para_former(vision(3, merge="summed"), images),
    "mean": lambda: of_para_former(vision(4, merge="mean", pooling="cls"), images),
    "branches of two blocks": lambda: of_para_former(vision(2, 2), images),
    "masked tokens": lambda: of_para_former(tokens(3), sequences),
    "next token": lambda: of_para_former(tokens(3, task="next-token", classes=20), unpadded),
    "written by hand": written_by_hand,
    "without state": without_state,
    "post-norm": post_norm,
    "chains": chains,
    "over samples": over_samples,
    "pictures": pictures,
}


_ALIKE = ("added", "summed", "branches of two blocks", "masked tokens", "next token", "without state", "post-norm")
CASES = [pytest.param(name, marks=[pytest.mark.slow] if name in _ALIKE else []) for name in _CASES]


@functools.cache
def case(name: str) -> Case:
    """A network by its name."""
    return _CASES[name]()


@functools.cache
def with_outputs(name: str) -> tuple[fx.GraphModule, fx.GraphModule]:
    """A network that returns what all of its prefixes answer, and the same fused."""
    prefixes = tuple(range(1, case(name).branches + 1))
    graph, _ = run_passes(case(name).graph, [PrefixOutputs(prefixes, ("y",))])
    return graph, fused(graph)


def fused(graph: fx.GraphModule) -> fx.GraphModule:
    """With the passes that come after an output for each prefix."""
    return run_passes(graph, (*FUSION, MergePieces()))[0]
