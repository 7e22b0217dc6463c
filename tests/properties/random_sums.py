"""Random spellings of a sum of branches for Hypothesis: a frozen tree that adds states in any order, with factors.

branch_i(x) = x + f_i(x) + g_i(x + f_i(x)) ..        a tree of +, -, times, over, copies, stacks over branches and x
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.passes.models import Mlp

Operator = Literal["add", "sub", "rsub", "alpha", "stack sum", "stack mean"]
Wrapper = Literal["none", "neg", "half", "third", "stored", "copy"]


@dataclass(frozen=True)
class Leaf:
    """The state, or a branch."""

    branch: int | None


@dataclass(frozen=True)
class Tree:
    """Two parts put together, and what is done to the result."""

    operator: Operator
    wrapper: Wrapper
    left: Leaf | Tree
    right: Leaf | Tree


@dataclass(frozen=True)
class SumSpec:
    """A sum of branches.

    Attributes:
        terms: of each branch.
        taps: branches whose state after their first term is returned too.
    """

    branches: int
    terms: int
    tree: Leaf | Tree
    taps: tuple[int, ...]


class RandomSum(nn.Module):
    """The sum that a description describes."""

    def __init__(self, spec: SumSpec) -> None:
        super().__init__()
        self.spec = spec
        self.branches = nn.ModuleList(nn.ModuleList(Mlp() for _ in range(spec.terms)) for _ in range(spec.branches))
        self.number = nn.Parameter(torch.empty(1))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = torch.tanh(x)
        after: list[list[Tensor]] = []
        for terms in self.branches:
            states = [x]
            for term in terms:  # type: ignore[attr-defined]
                states.append(states[-1] + term(states[-1]))
            after.append(states[1:])
        total = self._value(self.spec.tree, x, [states[-1] for states in after])
        return (torch.sin(total), *(after[number][0] for number in self.spec.taps))

    def _value(self, tree: Leaf | Tree, x: Tensor, branches: list[Tensor]) -> Tensor:
        if isinstance(tree, Leaf):
            return x if tree.branch is None else branches[tree.branch]
        left, right = self._value(tree.left, x, branches), self._value(tree.right, x, branches)
        return self._wrapped(tree.wrapper, _together(tree.operator, left, right))

    def _wrapped(self, wrapper: Wrapper, value: Tensor) -> Tensor:
        wrapped = {
            "none": lambda: value,
            "neg": lambda: -value,
            "half": lambda: 0.5 * value,
            "third": lambda: value / 3,
            "stored": lambda: value * self.number,
            "copy": value.clone,
        }
        return wrapped[wrapper]()


def _together(operator: Operator, left: Tensor, right: Tensor) -> Tensor:
    results = {
        "add": lambda: left + right,
        "sub": lambda: left - right,
        "rsub": lambda: torch.rsub(left, right),
        "alpha": lambda: torch.add(left, right, alpha=0.7),
        "stack sum": lambda: torch.stack([left, right]).sum(0),
        "stack mean": lambda: torch.stack([left, right], -1).mean(-1),
    }
    return results[operator]()


@st.composite
def sums(draw: st.DrawFn) -> SumSpec:
    """Each branch once at least, x and some branches again, in a random tree."""
    branches = draw(st.integers(2, 4))
    again = draw(st.lists(st.sampled_from([None, None, *range(branches)]), max_size=3))
    parts: list[Leaf | Tree] = [Leaf(number) for number in draw(st.permutations([*range(branches), *again]))]
    operators = st.sampled_from(("add", "add", "sub", "sub", "rsub", "alpha", "stack sum", "stack mean"))
    wrappers = st.sampled_from(("none", "none", "none", "neg", "half", "third", "stored", "copy"))
    while len(parts) > 1:
        place = draw(st.integers(0, len(parts) - 2))
        parts[place : place + 2] = [Tree(draw(operators), draw(wrappers), *parts[place : place + 2])]
    taps = draw(st.sampled_from(((), (), (0,), tuple(range(branches)))))
    return SumSpec(branches, draw(st.sampled_from((1, 1, 2, 3))), parts[0], taps)
