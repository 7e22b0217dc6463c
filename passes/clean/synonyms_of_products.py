"""Other spellings of products: einsum, tensordot, and products with vectors.

Each is a sum of products of tensors with a letter for each dimension (passes/clean/einstein.py). Of an einsum, an
ellipsis stands for letters of its own, and where the result is not given, it has the letters that stand once, in
alphabetical order. More than two operands are multiplied in the order of their path, or from left to right.

Left as they are: products of numbers without dimensions, integer products, an einsum of more letters than there are.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import cast

from torch import fx

from passes.clean.einstein import contracted, lettered, ordered, summed
from passes.clean.synonyms import Spelling
from passes.graph.dataflow import tensor_value
from passes.graph.operators import aten
from passes.graph.replacing import Replacing, arguments, rank_of

_LETTERS = string.ascii_letters


def _einsum(place: Replacing, node: fx.Node) -> fx.Node | None:
    given = arguments(node)
    nodes = cast("Sequence[fx.Node]", given["tensors"])
    equation = str(given["equation"]).replace(" ", "")
    return _contraction(place, _spelled_out(equation, [rank_of(source) for source in nodes]), nodes, given["path"])


def _spelled_out(equation: str, ranks: Sequence[int]) -> str:
    """The equation with letters for every ellipsis and with the result that it means."""
    given, arrow, result = equation.partition("->")
    parts = given.split(",")
    unused = [letter for letter in _LETTERS if letter not in equation]
    longest = max((rank - len(part) + 3 for part, rank in zip(parts, ranks, strict=True) if "..." in part), default=0)
    ellipsis = "".join(unused[:longest])
    spelled = []
    for part, rank in zip(parts, ranks, strict=True):
        count = rank - len(part) + 3
        spelled.append(part.replace("...", ellipsis[longest - count :] if count else ""))
    if arrow:
        return f"{','.join(spelled)}->{result.replace('...', ellipsis)}"
    letters = given.replace(",", "").replace(".", "")
    once = sorted(letter for letter in set(letters) if letters.count(letter) == 1)
    return f"{','.join(spelled)}->{ellipsis}{''.join(once)}"


def _contraction(
    place: Replacing, equation: str, nodes: Sequence[fx.Node], path: Sequence[int] | None = None
) -> fx.Node | None:
    """The operators that an equation means."""
    values = [tensor_value(node) for node in nodes]
    if not all(value is not None and value.is_floating_point() for value in values):
        return None
    given, _, result = equation.partition("->")
    operands = [lettered(place, node, letters) for node, letters in zip(nodes, given.split(","), strict=True)]
    steps = list(path or [])
    while len(operands) > 1:
        first, second = sorted((steps.pop(0), steps.pop(0))) if len(steps) > 1 else (0, 1)
        right, left = operands.pop(second), operands.pop(first)
        others = "".join(operand.letters for operand in operands)
        kept = result + "".join(letter for letter in dict.fromkeys(others) if letter not in result)
        product = contracted(place, left, right, kept)
        operands.insert(len(operands) if steps else 0, product)
    (last,) = operands
    if not set(result) <= set(last.letters):
        return None
    return ordered(place, summed(place, last, result), result).node


def _by(equation: str) -> Spelling:
    """A product of two tensors of known rank."""
    return lambda place, node: _contraction(place, equation, cast("list[fx.Node]", node.args))


def _matmul(place: Replacing, node: fx.Node) -> fx.Node | None:
    """A product with a vector."""
    left, right = (rank_of(cast("fx.Node", arg)) for arg in node.args)
    if 1 not in (left, right):
        return None
    rows = _LETTERS[2 : left + 1] + "a" if left > 1 else "a"
    columns = _LETTERS[2:right] + "a" + "z" if right > 1 else "a"
    result = rows[:-1] if right == 1 else columns[:-2] + "z"
    return _contraction(place, f"{rows},{columns}->{result}", cast("list[fx.Node]", node.args))


def _inner(place: Replacing, node: fx.Node) -> fx.Node | None:
    left, right = (rank_of(cast("fx.Node", arg)) for arg in node.args)
    if not left or not right:
        return None
    rows, columns = _LETTERS[1:left], _LETTERS[left : left + right - 1]
    return _contraction(place, f"{rows}a,{columns}a->{rows}{columns}", cast("list[fx.Node]", node.args))


def _tensordot(place: Replacing, node: fx.Node) -> fx.Node | None:
    left, right = (rank_of(cast("fx.Node", arg)) for arg in node.args[:2])
    letters, others = list(_LETTERS[:left]), list(_LETTERS[left : left + right])
    pairs = zip(cast("list[int]", node.args[2]), cast("list[int]", node.args[3]), strict=True)
    over = [(first % left, second % right) for first, second in pairs]
    for first, second in over:
        others[second] = letters[first]
    gone = {letters[first] for first, _ in over}
    result = "".join(letter for letter in (*letters, *others) if letter not in gone)
    equation = f"{''.join(letters)},{''.join(others)}->{result}"
    return _contraction(place, equation, cast("list[fx.Node]", node.args[:2]))


def _bilinear(place: Replacing, node: fx.Node) -> fx.Node | None:
    first, second, weight = cast("list[fx.Node]", node.args[:3])
    rows = _LETTERS[3 : rank_of(first) + 2]
    product = _contraction(place, f"{rows}a,cab,{rows}b->{rows}c", [first, weight, second])
    bias = arguments(node)["bias"]
    return product if product is None or bias is None else place.emit(aten.add.Tensor, product, bias)


def _chain(place: Replacing, node: fx.Node) -> fx.Node | None:
    """A row of matrices, with vectors at the ends."""
    nodes = cast("list[fx.Node]", node.args[0])
    parts = [_LETTERS[i : i + 2] for i in range(len(nodes))]
    parts[0] = parts[0][-rank_of(nodes[0]) :]
    parts[-1] = parts[-1][: rank_of(nodes[-1])]
    everything = "".join(parts)
    result = "".join(letter for letter in dict.fromkeys(everything) if everything.count(letter) == 1)
    return _contraction(place, f"{','.join(parts)}->{result}", nodes)


SPELLINGS: dict[object, Spelling] = {
    aten.einsum.default: _einsum,
    aten.matmul.default: _matmul,
    aten.mv.default: _by("ab,b->a"),
    aten.dot.default: _by("a,a->"),
    aten.outer.default: _by("a,b->ab"),
    aten.ger.default: _by("a,b->ab"),
    aten.inner.default: _inner,
    aten.tensordot.default: _tensordot,
    aten.bilinear.default: _bilinear,
    aten.linalg_multi_dot.default: _chain,
}
