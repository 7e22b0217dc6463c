"""Sums of products of tensors whose dimensions have letters: the operators that einsum means.

    sum_d q[b,h,i,d] k[b,h,j,d]        matmul(q, k^T)              both are computed
    sum_d x[b,i,d] W[o,d]              linear(x, W)                one is stored and shares no letter of the result
    sum_d x[b,i,d] y[b,i,d]            sum(x * y)                  nothing but letters of both
    x[b,i,d] g[b,d]                    x * g                       nothing is summed over

A letter of both operands and of the result is a batch, one that only both operands have is summed over, and one of a
single operand is a row or a column of the product. Sizes of 1 are repeated, as einsum does.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx

from passes.graph.dataflow import tensor_value
from passes.graph.operators import LINEAR, aten
from passes.graph.replacing import Replacing, size_texts


@dataclass(frozen=True)
class Lettered:
    """A tensor with a letter for each dimension, none twice."""

    node: fx.Node
    letters: str

    def size(self, letter: str) -> str:
        """A size as text."""
        return size_texts(self.node)[self.letters.index(letter)]


def lettered(place: Replacing, node: fx.Node, letters: str) -> Lettered:
    """The tensor with letters, a letter that stands twice read along the diagonal."""
    while repeated := next((letter for letter in letters if letters.count(letter) > 1), None):
        first = letters.index(repeated)
        second = letters.index(repeated, first + 1)
        node = place.emit(aten.diagonal.default, node, 0, first, second)
        letters = letters[:first] + letters[first + 1 : second] + letters[second + 1 :] + repeated
    return Lettered(node, letters)


def summed(place: Replacing, value: Lettered, kept: Collection[str]) -> Lettered:
    """The sum over every letter but some."""
    dims = [dim for dim, letter in enumerate(value.letters) if letter not in kept]
    if not dims:
        return value
    node = place.emit(aten.sum.dim_IntList, value.node, dims)
    return Lettered(node, "".join(letter for letter in value.letters if letter in kept))


def ordered(place: Replacing, value: Lettered, letters: Iterable[str]) -> Lettered:
    """The same values with their dimensions in another order."""
    wanted = "".join(letters)
    return Lettered(place.permuted(value.node, [value.letters.index(letter) for letter in wanted]), wanted)


def contracted(place: Replacing, left: Lettered, right: Lettered, kept: str) -> Lettered:
    """The sum of products of two tensors over every letter that is not in `kept`."""
    left = summed(place, left, {*kept, *right.letters})
    right = summed(place, right, {*kept, *left.letters})
    both = [letter for letter in left.letters if letter in right.letters]
    over = "".join(letter for letter in both if letter not in kept)
    batch = "".join(letter for letter in both if letter in kept)
    if not over or len(both) == len(left.letters) == len(right.letters):
        return summed(place, _times(place, left, right), kept)
    left, right = _repeated(place, left, right, over), _repeated(place, right, left, over)
    if not batch and is_stored(right.node) and not is_stored(left.node):
        return _linear(place, left, right, over)
    if not batch and is_stored(left.node) and not is_stored(right.node):
        return _linear(place, right, left, over)
    if _swaps(left, right, both, kept):
        left, right = right, left
    return _product(place, left, right, batch, over)


def is_stored(node: fx.Node) -> bool:
    """Whether a value is computed from parameters, and its sizes are known."""
    if not all(size.isdigit() for size in size_texts(node)):
        return False
    pending, seen, found = [node], {node}, False
    while pending:
        current = pending.pop()
        if current.op == "placeholder":
            return False
        found = found or current.op == "get_attr"
        pending.extend(source for source in current.all_input_nodes if source not in seen)
        seen.update(current.all_input_nodes)
    return found


def _swaps(left: Lettered, right: Lettered, both: Sequence[str], kept: str) -> bool:
    """Whether the right operand gives the rows: it has more letters of its own, or the result names them first."""
    own = [[letter for letter in value.letters if letter not in both] for value in (left, right)]
    if len(own[0]) != len(own[1]) and max(map(len, own)) > 1:
        return len(own[1]) > len(own[0])
    return bool(own[0] and own[1]) and kept.index(own[1][-1]) < kept.index(own[0][-1])


def _repeated(place: Replacing, value: Lettered, other: Lettered, over: str) -> Lettered:
    """The value with sizes of 1 repeated where it is summed over with another of another size."""
    few = [letter for letter in over if value.size(letter) == "1" != other.size(letter)]
    if not few:
        return value
    sizes = [place.size(other.node, other.letters.index(letter)) if letter in few else -1 for letter in value.letters]
    return Lettered(place.emit(aten.expand.default, value.node, sizes), value.letters)


def _times(place: Replacing, left: Lettered, right: Lettered) -> Lettered:
    """Both tensors multiplied, one dimension for each letter of either."""
    letters = left.letters + "".join(letter for letter in right.letters if letter not in left.letters)
    nodes = []
    for value in (left, right):
        node = ordered(place, value, (letter for letter in letters if letter in value.letters)).node
        start = next((i for i, letter in enumerate(letters) if letter in value.letters), len(letters))
        for dim in range(start, len(letters)):  # dimensions ahead of the first are broadcast as they are
            if letters[dim] not in value.letters:
                node = place.emit(aten.unsqueeze.default, node, dim - start)
        nodes.append(node)
    return Lettered(place.emit(aten.mul.Tensor, *nodes), letters)


def _linear(place: Replacing, value: Lettered, weight: Lettered, over: str) -> Lettered:
    """A product with a stored tensor as a linear over the letters of `over`."""
    rows = [letter for letter in value.letters if letter not in over]
    columns = [letter for letter in weight.letters if letter not in over]
    features = _merged(place, ordered(place, value, [*rows, *over]).node, len(rows), len(over))
    matrix = ordered(place, weight, [*columns, *over]).node
    inside = [weight.size(letter) for letter in columns]
    if len(columns) != 1:
        matrix = _merged(place, matrix, 0, len(columns))
    matrix = _merged(place, matrix, 1, len(over))
    result = place.emit(LINEAR, features, matrix)
    return Lettered(_parted(place, result, len(rows), [int(size) for size in inside]), "".join((*rows, *columns)))


def _product(place: Replacing, left: Lettered, right: Lettered, batch: str, over: str) -> Lettered:
    """A batched matrix product; of the left operand's own letters all but the last are batches."""
    *ahead, row = [letter for letter in left.letters if letter not in over + batch] or [""]
    columns = [letter for letter in right.letters if letter not in over + batch]
    lead = [*ahead, *batch]
    rows = ordered(place, left, [*lead, *row, *over]).node
    if not row:
        rows = place.emit(aten.unsqueeze.default, rows, len(lead))
    rows = _merged(place, rows, len(lead) + 1, len(over))
    matrix = _merged(place, ordered(place, right, [*batch, *over, *columns]).node, len(batch), len(over))
    sizes = [place.size(right.node, right.letters.index(letter)) for letter in columns]
    matrix = _merged(place, matrix, len(batch) + 1, len(columns))
    result = _parted(place, place.emit(aten.matmul.default, rows, matrix), len(lead) + 1, sizes)
    if not row:
        result = place.emit(aten.squeeze.dim, result, len(lead))
    return Lettered(result, "".join((*lead, *row, *columns)))


def _merged(place: Replacing, node: fx.Node, start: int, count: int) -> fx.Node:
    """`count` dimensions from `start` on as one; a new one where there are none."""
    if count == 1:
        return node
    if count == 0:
        return place.emit(aten.unsqueeze.default, node, start)
    return place.emit(aten.flatten.using_ints, node, start, start + count - 1)


def _parted(place: Replacing, node: fx.Node, dim: int, sizes: Sequence[Any]) -> fx.Node:
    """The dimension as several of these sizes."""
    if len(sizes) == 1:
        return node
    if not sizes:
        return place.emit(aten.squeeze.dim, node, dim)
    free = [size for size in sizes if isinstance(size, fx.Node)]
    if len(free) < 2:
        return place.emit(aten.unflatten.int, node, dim, [-1 if isinstance(size, fx.Node) else size for size in sizes])
    value = tensor_value(node)
    assert value is not None
    ahead = [place.size(node, other) for other in range(value.ndim) if other != dim]
    return place.emit(aten.reshape.default, node, [*ahead[:dim], *sizes, *ahead[dim:]])
