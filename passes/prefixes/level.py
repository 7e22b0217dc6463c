"""The last level of several branches in a graph, and what its prefixes add up.

    y = c x + sum_b f_b(x)         y_k = c_k x + w_k sum_{b <= k} f_b(x)         prefix k

A level is a sum of branches that read one state (passes/fusion/branches.py), whatever its spelling: that of a
Para-Former .pt, of a schedule, or of a network that its author wrote in parallel. The order of the branches is that of
the sum as it is written. What c and w become in a prefix of N branches:

    1. w = 1/N: the sum is a mean, so w_k = 1/k; else w_k = w
    2. c = N: every branch brings its own copy of x, so c_k = k
    3. c = 1 - N: every branch takes x off what it ends in, as N(x + f) - x does beside N(x + g), so c_k = 1 - k
    4. any other c is that of every prefix, and so is what is added and is no branch, an affine term of the state
       beside branches of other structure among it

No level, each with its reason:
    5. a sum with less than two branches that hold a stored product;
    6. branches that read no common state, or of which each is of another structure where no state is added;
    7. a product between the state and the branches, which is one term written as a sum, such as an adapter beside its
       linear.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from torch import fx

from passes.errors import ParallelizeError
from passes.fusion.branches import Branch, find_branches
from passes.fusion.sums import Sum, expand, find_roots
from passes.graph import operators as ops
from passes.graph.dataflow import descendants, is_float, positions, region_between, tensor_inputs
from passes.graph.outputs import flat_leaves

HINT = (
    "Prefixes are those of the branches of the last level: of a Para-Former, or of a serial network with --depth or"
    " --plan that puts several chains on a level."
)

_ROWS_OF_STATE = ops.VIEWS | ops.COPIES | ops.ROW_NORMS | ops.PLAIN_CONVOLUTIONS | {ops.LINEAR}


@dataclass(frozen=True)
class WideLevel:
    """The last level of several branches.

    Attributes:
        root: the sum.
        kept: what every prefix adds, the state among it, with its factor in the whole sum.
        state: the one of `kept` that the branches read; None where no state is added.
        branches: what each branch adds, in the order of the sum; several values for a chain of terms.
        factors: of each of these values.
    """

    root: fx.Node
    kept: Mapping[fx.Node, float]
    state: fx.Node | None
    branches: tuple[tuple[fx.Node, ...], ...]
    factors: Mapping[fx.Node, float]

    @property
    def count(self) -> int:
        """How many branches there are."""
        return len(self.branches)

    @property
    def is_mean(self) -> bool:
        """Whether the branches are averaged and not added."""
        return all(abs(factor * self.count - 1) < 1e-9 for factor in self.factors.values())

    def factor(self, output: fx.Node, branches: int) -> float:
        """What a prefix of so many branches multiplies a value of a branch with."""
        return 1 / branches if self.is_mean else self.factors[output]

    def kept_factor(self, node: fx.Node, branches: int) -> float:
        """What a prefix of so many branches multiplies a value with that is no branch."""
        factor = self.kept[node]
        if node is not self.state:
            return factor
        if factor == self.count:
            return float(branches)
        return 1.0 - branches if factor == 1 - self.count else factor

    def require(self, counts: Sequence[int]) -> None:
        """Refuse prefixes that there are not.

        Raises:
            ParallelizeError: naming the first such number.
        """
        wrong = [count for count in counts if not 1 <= count <= self.count]
        if wrong:
            raise ParallelizeError(
                f"There is no prefix of {wrong[0]} branches: the last level, which ends in {self.root.name}, has"
                f" {self.count}.",
                f"Choose numbers from 1 to {self.count}.",
            )


def last_level(module: fx.GraphModule) -> WideLevel:
    """The last level of several branches on which an output depends.

    Raises:
        ParallelizeError: there is none.
    """
    place = positions(module.graph)
    roots = [node for node, root in find_roots(module).items() if node is root]
    outputs = set(flat_leaves(module))
    unread: WideLevel | None = None
    for root in sorted(roots, key=place.__getitem__, reverse=True):
        level = _level(expand(module, root, place), place)
        if level is not None and not outputs.isdisjoint(descendants([root])):
            return level
        unread = unread or level
    if unread is not None:
        raise ParallelizeError(f"No output depends on the level that ends in {unread.root.name}.", HINT)
    raise ParallelizeError("The network has no level of several branches, so it has no prefixes.", HINT)


def _level(found: Sum, place: dict[fx.Node, int]) -> WideLevel | None:
    """The level that a sum is, or None."""
    groups = find_branches(list(found.terms), found.tree, place, found.states, found.tapped)
    chains = [branch for group in groups for branch in group if not _is_affine(group, groups)]
    if sum(_has_product(branch) for branch in chains) < 2:
        return None
    outputs = {output for branch in chains for output in branch.outputs}
    kept = {node: factor for node, factor in found.terms.items() if node not in outputs}
    state = next((node for node in reversed(kept) if _all_read(chains, node, place)), None)
    if state is None and (len(groups) > 1 or not _common_source(chains)):
        return None
    if state is not None and _product_between(state, chains, place):
        return None
    order = {node: number for number, node in enumerate(_as_written(found))}
    ordered = sorted((branch.outputs for branch in chains), key=lambda ends: min(order[end] for end in ends))
    factors = {output: found.terms[output] for output in outputs}
    return WideLevel(found.root, kept, state, tuple(ordered), factors)


def _is_affine(group: Sequence[Branch], groups: Sequence[Sequence[Branch]]) -> bool:
    """Whether a branch, which is like no other, is an affine function of the normalised state beside others."""
    alone = len(group) == 1 and sum(map(len, groups)) > 2
    return alone and all(node.target in _ROWS_OF_STATE for node in group[0].inner)


def _has_product(branch: Branch) -> bool:
    return any(node.op == "get_attr" for node in branch.nodes) and any(ops.gemms(node) for node in branch.inner)


def _all_read(branches: Sequence[Branch], state: fx.Node, place: dict[fx.Node, int]) -> bool:
    """Whether every branch is computed from a value."""
    return all(any(region_between(state, end, place) for end in branch.outputs) for branch in branches)


def _common_source(branches: Sequence[Branch]) -> bool:
    """Whether there is a tensor of floating-point numbers that all branches read, beside stored ones."""
    read = [
        {node for node in branch.nodes if node not in branch.inner and node.op != "get_attr"} for branch in branches
    ]
    return any(is_float(node) for node in set.intersection(*read))


def _product_between(state: fx.Node, branches: Sequence[Branch], place: dict[fx.Node, int]) -> bool:
    """Whether what the branches read is computed from the state by a product."""
    inner = frozenset(chain.from_iterable(branch.inner for branch in branches))
    ends = {output for branch in branches for output in branch.outputs}
    between = {node for end in ends for node in region_between(state, end, place)}
    return any(ops.gemms(node) for node in between - inner - ends)


def _as_written(found: Sum) -> Iterator[fx.Node]:
    """The values of a sum from left to right."""
    pending, seen = [found.root], {found.root}
    while pending:
        node = pending.pop()
        if node in found.terms:
            yield node
        if node not in found.tree:
            continue
        fresh = [source for source in tensor_inputs(node) if source not in seen]
        seen.update(fresh)
        pending.extend(reversed(fresh))
