"""What a residual stack is: terms x_i = x_{i-1} + f_i(x_{i-1}) on one state, and the adds that are no terms."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from torch import fx

Kind = Literal["attention", "mlp", "attention+mlp", "convolution", "other"]


@dataclass(frozen=True)
class Term:
    """One residual term f_i.

    Attributes:
        kind: what the term computes.
        skip: the state that the term reads, x_{i-1}.
        output: f_i(x_{i-1}).
        add: the residual add.
        joined: g(x_{i-1}) of a term (x + f(x)) + g(x) that adds to one state several times, mostly empty.
        post: the adds of `joined`, then the norm or activation after them that belongs to the term, mostly empty.
        nodes: the term's nodes with their parameters and side inputs, in canonical order: equal places of two terms
            with one signature correspond.
        inner: the nodes between skip and output, output included.
        sides: tensors that the term reads beside the state and its parameters.
        structure: one line for each entry of `nodes`.
        module: the deepest module path that all inner nodes share.
    """

    kind: Kind
    skip: fx.Node
    output: fx.Node
    add: fx.Node
    post: tuple[fx.Node, ...]
    nodes: tuple[fx.Node, ...]
    inner: frozenset[fx.Node]
    sides: tuple[fx.Node, ...]
    structure: tuple[str, ...]
    module: str
    joined: tuple[fx.Node, ...] = ()

    @property
    def norms(self) -> tuple[fx.Node, ...]:
        """The norm or activation after the last add, mostly empty."""
        return self.post[len(self.joined) :]

    @property
    def total(self) -> fx.Node:
        """The sum x + f(x), before the norm or activation that belongs to the term."""
        return self.post[len(self.joined) - 1] if self.joined else self.add

    @property
    def result(self) -> fx.Node:
        """The state x_i after the term."""
        return self.post[-1] if self.post else self.add

    @cached_property
    def signature(self) -> str:
        """Equal for terms that differ in parameter values only, so that they can be fused."""
        return hashlib.sha256("\n".join(self.structure).encode()).hexdigest()[:12]

    @property
    def parameters(self) -> tuple[fx.Node, ...]:
        """The get_attr nodes that the term reads."""
        return tuple(node for node in self.nodes if node.op == "get_attr")


@dataclass(frozen=True)
class Stack:
    """A chain of terms on one state."""

    name: str
    terms: tuple[Term, ...]

    @property
    def entry(self) -> fx.Node:
        """The state x_0."""
        return self.terms[0].skip

    @property
    def exit(self) -> fx.Node:
        """The state x_n."""
        return self.terms[-1].result

    @cached_property
    def period(self) -> int:
        """Terms of one block: the shortest period of the signatures, or else of the kinds, at most half the stack.

        Without a period a stack whose terms are all of different kinds is one block, any other has blocks of one term.
        """
        for labels in ([t.signature for t in self.terms], [t.kind for t in self.terms]):
            count = len(labels)
            for period in range(1, count // 2 + 1):
                if count % period == 0 and all(labels[i] == labels[i - period] for i in range(period, count)):
                    return period
        return len(self.terms) if len({term.kind for term in self.terms}) == len(self.terms) else 1

    @cached_property
    def layers(self) -> int:
        """Layers in one block, more than one where layers of the same kinds take turns in how they are built.

        Such are windowed and global attention: a block that repeats in every detail then holds several layers.
        """
        kinds = [term.kind for term in self.terms[: self.period]]
        repeats = (p for p in range(1, self.period) if self.period % p == 0 and kinds == kinds[:p] * (self.period // p))
        return self.period // next(repeats, self.period)

    @property
    def blocks(self) -> tuple[tuple[int, ...], ...]:
        """Term numbers, block by block."""
        numbers = range(len(self.terms))
        return tuple(tuple(numbers[i : i + self.period]) for i in range(0, len(self.terms), self.period))

    def in_blocks(self, depth: int) -> int:
        """A depth in terms as one in blocks, rounded up."""
        return -(-depth // self.period)

    def summary(self) -> str:
        """Kinds and their counts, such as "12 attention, 12 mlp"."""
        return ", ".join(f"{count} {kind}" for kind, count in Counter(term.kind for term in self.terms).items())


@dataclass(frozen=True)
class Refusal:
    """A residual add that belongs to no stack, and why."""

    node: str
    reason: str


@dataclass(frozen=True)
class Stacks:
    """What was found in a graph."""

    stacks: tuple[Stack, ...]
    refused: tuple[Refusal, ...] = ()

    @property
    def terms(self) -> int:
        """Terms in all stacks together."""
        return sum(len(stack.terms) for stack in self.stacks)
