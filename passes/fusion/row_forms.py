"""Let operators that compute row by row join or split leading dimensions, where fewer views are needed around them.

    (N, batch, tokens, width)  <->  (N, batch * tokens, width)

A value can be in either form, *split* or *joined*, and a view takes it from one to the other. Products with parameters
of the branches want rows joined, sums with a state that the branches share want them split. Which operators between
them compute in which form is a minimum cut: every value that is read in another form than it is made in costs one view,

    cut(form) = #{v : v split, some reader joined} + #{v : v joined, some reader split}

and of several cheapest ones that in which the fewest operators change is taken. A view that does more than join or
split may as well end or begin with either form, so it asks for none.

Cases: pointwise operators, norms over the last dimensions, and sums, means and extremes over dimensions ahead of the
rows.
Refused: a form with several sizes that are known only when the model runs and that no input has. A value whose rows do
not lie as one in memory costs twice as much to join, because that copies it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import networkx as nx
from torch import fx

from passes.clean.merge_views import RESHAPES, is_step, source_of
from passes.fusion.rowwise import ALONG, is_rowwise, operands, row_rank
from passes.graph.dataflow import tensor_value
from passes.graph.editing import erase_unread
from passes.graph.rearrangement import View, plain, product
from passes.graph.replacing import Replacing
from passes.graph.shapes import complete_shapes
from passes.graph.sizes import Size, sizes
from passes.graph.view_nodes import Emitted, expression, sizes_of
from passes.runner import PassResult

SPLIT, JOINED = "split", "joined"
_VIEW = 10**6  # what a view costs; an operator that changes its form costs 1


@dataclass(frozen=True)
class Rows:
    """The sizes that are joined or split, ahead of the last `behind` dimensions."""

    behind: int
    sizes: tuple[Size, ...]

    def form(self, shape: Sequence[Size]) -> str | None:
        """The form of a shape, or None where it has no such rows."""
        ahead = tuple(shape[: len(shape) - self.behind])
        if ahead[-len(self.sizes) :] == self.sizes:
            return SPLIT
        return JOINED if ahead and ahead[-1] == product(self.sizes) else None

    def other(self, shape: Sequence[Size]) -> tuple[Size, ...]:
        """A shape in the other form."""
        end = len(shape) - self.behind
        if self.form(shape) == SPLIT:
            return (*shape[: end - len(self.sizes)], product(self.sizes), *shape[end:])
        return (*shape[: end - 1], *self.sizes, *shape[end:])


def join_rows(module: fx.GraphModule) -> PassResult:
    """Choose the form of every value between views that split or join rows."""
    matches: list[str] = []
    kinds = {kind for node in module.graph.nodes for kind in _kinds(node)}
    for rows in sorted(kinds, key=str):
        region = _Region(module, rows)
        changed = region.cheapest()
        if changed:
            matches.append(f"{', '.join(node.name for node in changed)} {_phrase(rows, changed[0])}")
            region.change(changed)
    return PassResult(tuple(matches))


def _phrase(rows: Rows, node: fx.Node) -> str:
    what = " x ".join(map(str, rows.sizes))
    return f"on {what} rows joined" if rows.form(sizes_of(node)) == SPLIT else f"on rows split into {what}"


def _kinds(node: fx.Node) -> Iterator[Rows]:
    """The rows that a view splits or joins, if it does only that."""
    if not is_step(node) or node.target not in RESHAPES:
        return
    shapes = sizes_of(source_of(node)), sizes_of(node)
    joined, split = sorted(shapes, key=len)
    behind = 0
    while behind < len(joined) and joined[-1 - behind] == split[-1 - behind]:
        behind += 1
    ahead, end = len(joined) - behind - 1, len(split) - behind
    rows = Rows(behind, split[max(ahead, 0) : end])
    if ahead >= 0 and len(rows.sizes) > 1 and rows.form(split) == SPLIT and rows.other(split) == joined:
        yield rows


class _Region:
    """The operators of a graph that could compute in either form, and the views between them and the rest.

    Attributes:
        views: those that only split or join these rows.
        free: the operators, as far as they are connected with the views.
    """

    def __init__(self, module: fx.GraphModule, rows: Rows) -> None:
        self.module, self.rows = module, rows
        self.known = _input_sizes(module)
        self.views = {node for node in module.graph.nodes if rows in _kinds(node)}
        self.free: set[fx.Node] = set()
        pending = [node for view in self.views for node in (source_of(view), *view.users)]
        seen: set[fx.Node] = set()
        while pending:
            node = pending.pop()
            if node not in seen and self._is_free(node):
                self.free.add(node)
                pending += [*node.users, *(source for source in operands(node) if self._has_rows(source))]
            seen.add(node)

    def _is_free(self, node: fx.Node) -> bool:
        """Whether an operator computes in one form and could compute in the other."""
        if not is_rowwise(node) and (node.target not in ALONG or not self._is_ahead(node)):
            return False
        shape = sizes_of(node)
        form = self.rows.form(shape)
        if form is None or row_rank(node) > self.rows.behind or not self._can_split():
            return False
        return all(not self._has_rows(source) or self._form(source) == form for source in operands(node))

    def _is_ahead(self, node: fx.Node) -> bool:
        """Whether a sum is over dimensions ahead of the rows."""
        shape, dims = sizes_of(source_of(node)), _dims(node)
        rows = len(self.rows.sizes) if self.rows.form(shape) == SPLIT else 1
        return bool(dims) and max(dims) < len(shape) - self.rows.behind - rows

    def _has_rows(self, node: fx.Node) -> bool:
        """Whether the form of a value matters: it has more than the last dimensions and a 1 ahead of them."""
        if tensor_value(node) is None:
            return False
        shape = sizes_of(node)
        ahead = shape[: len(shape) - self.rows.behind] if len(shape) > self.rows.behind else ()
        return ahead not in ((), (1,))

    def _price(self, node: fx.Node) -> int:
        """What it costs to join the rows of a split value: a view, and a copy where they do not lie as one."""
        value = tensor_value(node)
        assert value is not None
        shape, strides = sizes(value), [expression(stride) for stride in value.stride()]
        end = len(shape) - self.rows.behind
        lying = [dim for dim in range(end - len(self.rows.sizes), end) if shape[dim] != 1]
        return 1 if all(plain(strides[a] - shape[b] * strides[b]) == 0 for a, b in itertools.pairwise(lying)) else 2

    def _can_split(self) -> bool:
        """Whether rows can be split: all sizes but one are numbers, or those of an input."""
        free = [size for size in self.rows.sizes if not isinstance(size, int)]
        return len(free) < 2 or sum(size not in self.known for size in free) < 2

    # the cut ------------------------------------------------------------------------------------------------------

    def cheapest(self) -> list[fx.Node]:
        """The operators that change their form where that needs fewer views, in order; else none."""
        network, now = nx.DiGraph(), 0
        network.add_nodes_from((SPLIT, JOINED))
        for node in self.free:
            edge = (SPLIT, node) if self._form(node) == SPLIT else (node, JOINED)
            network.add_edge(*edge, capacity=1)
        for number, (price, maker, readers) in enumerate(self._values()):
            made, read = self._form(maker), {self._form(reader) for reader in readers}
            now += price * (made == SPLIT and JOINED in read) + (made == JOINED and SPLIT in read)
            joining, splitting = ("to joined", number), ("to split", number)
            network.add_edge(maker, joining, capacity=price * _VIEW)
            network.add_edge(splitting, maker, capacity=_VIEW)
            for reader in readers:
                network.add_edge(joining, reader)
                network.add_edge(reader, splitting)
        cost, (split, _) = nx.minimum_cut(network, SPLIT, JOINED)
        if cost // _VIEW >= now:
            return []
        return [
            node
            for node in self.module.graph.nodes
            if node in self.free and (self._form(node) == SPLIT) != (node in split)
        ]

    def _form(self, each: Any) -> str | None:
        """The form of a node now, or the form that is asked for."""
        return self.rows.form(sizes_of(each)) if isinstance(each, fx.Node) else each

    def _values(self) -> Iterator[tuple[int, Any, list[Any]]]:
        """For every value the price of joining it, what makes it and what reads it.

        A node that may change its form stands for the form that it gets, of the others there is the form they want.
        """
        made = [source for node in self.free for source in operands(node) if self._has_rows(source)]
        made += [*self.free, *self.views]
        for node in {source_of(node) if node in self.views else node for node in made}:
            seen = [node, *(view for view in node.users if view in self.views)]
            readers = [self._wish(user, each) for each in seen for user in each.users if user not in self.views]
            bends = node in self.free or _is_view(node)
            price = self._price(node) if self._form(node) == SPLIT else 1
            yield price, node if bends else self._form(node), [reader for reader in readers if reader is not None]

    def _wish(self, reader: fx.Node, value: fx.Node) -> Any:
        """What a reader of a value wants; nothing if it is a view, which may as well begin with the other form."""
        if reader in self.free:
            return reader
        return None if _is_view(reader) else self._form(value)

    # the change ---------------------------------------------------------------------------------------------------

    def change(self, nodes: Sequence[fx.Node]) -> None:
        """Let operators, in order, compute in the other form, with views where others want or make the old one."""
        for node in nodes:
            shape = sizes_of(node)
            wanted = JOINED if self.rows.form(shape) == SPLIT else SPLIT
            for source in operands(node):
                if self._has_rows(source) and self.rows.form(sizes_of(source)) != wanted:
                    node.replace_input_with(source, self._other(source, node))
            if node.target in ALONG:
                node.args = (node.args[0], _dims(node), *node.args[2:])
            complete_shapes(self.module, [node])
            self._restore(node, shape, [user for user in node.users if user not in {*nodes, *self.views}])
            for view in [user for user in node.users if user in self.views]:
                view.replace_all_uses_with(node)
                self.module.graph.erase_node(view)
        for view in self.views:
            erase_unread(view)

    def _other(self, source: fx.Node, reader: fx.Node) -> fx.Node:
        """A value in the other form, for a reader."""
        if source in self.views:
            return source_of(source)
        return _viewed(Replacing(self.module, reader), source, self.rows.other(sizes_of(source)))

    def _restore(self, node: fx.Node, shape: Sequence[Size], readers: Sequence[fx.Node]) -> None:
        """Let readers read a value in the form that they know."""
        if readers:
            view = _viewed(Replacing(self.module, node.next), node, shape)
            for reader in readers:
                reader.replace_input_with(node, view)


def _is_view(node: fx.Node) -> bool:
    return is_step(node) and node.target in RESHAPES


def _viewed(place: Replacing, source: fx.Node, shape: Sequence[Size]) -> fx.Node:
    emitted = Emitted.after(place, source, (View(tuple(shape)),))
    assert emitted is not None
    return emitted.node


def _input_sizes(module: fx.GraphModule) -> set[Size]:
    """The sizes that inputs have."""
    values = [tensor_value(node) for node in module.graph.find_nodes(op="placeholder")]
    return {size for value in values if value is not None for size in sizes(value)}


def _dims(node: fx.Node) -> list[int]:
    """The dimensions that a sum is over, counted from the left."""
    rank = len(sizes_of(source_of(node)))
    dims = node.args[1] if len(node.args) > 1 else None
    listed = [dims] if isinstance(dims, int) else dims
    return [dim % rank for dim in cast("Sequence[int]", listed or ())]
