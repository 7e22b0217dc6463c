"""What a run of operators that reshape and reorder does to a tensor, and the fewest operators that do it.

    source  ->  view as atoms  ->  permute the atoms  ->  view as the result

An atom is a stretch of neighbouring values that stay neighbours: as large as possible, so that equal rearrangements are
equal values. Sizes of 1 belong to no atom. At most three operators do any rearrangement; one of the views is not
needed where each dimension of the source, or of the result, is part of one atom, and no permutation where there is only
one atom.

Refused: a dimension that holds only a part of an atom of which it is not known where it would be cut, as where (2, 3)
is viewed as (3, 2) after a permutation, and where a size that is known only when the model runs would have to be a
multiple of another.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import sympy

from passes.graph.sizes import Size


@dataclass(frozen=True)
class View:
    """The same values in the same order in another shape."""

    shape: tuple[Size, ...]


@dataclass(frozen=True)
class Permute:
    """The dimensions in another order."""

    order: tuple[int, ...]


Step = View | Permute


@dataclass(frozen=True)
class Rearrangement:
    """A map from tensors of shape `source` to tensors of shape `result` that only moves values.

    Attributes:
        atoms: sizes in the order of the source.
        order: the numbers of the atoms in the order of the result.
    """

    source: tuple[Size, ...]
    result: tuple[Size, ...]
    atoms: tuple[Size, ...]
    order: tuple[int, ...]

    @classmethod
    def identity(cls, shape: Sequence[Size]) -> Rearrangement:
        """The map that changes nothing."""
        total = product(shape)
        return cls(tuple(shape), tuple(shape), *(((), ()) if total == 1 else ((total,), (0,))))

    def viewed(self, shape: Sequence[Size]) -> Rearrangement:
        """This map, its result in another shape."""
        return replace(self, result=tuple(shape))

    def permuted(self, order: Sequence[int]) -> Rearrangement | None:
        """This map, the dimensions of its result in another order; None where it is not known what they hold."""
        cut = _cut([(number, self.atoms[number]) for number in self.order], self.result)
        if cut is None:
            return None
        groups, parts = cut
        sizes = [size for number in range(len(self.atoms)) for size in parts[number]]
        first = [sum(len(parts[other]) for other in range(number)) for number in range(len(self.atoms))]
        wanted = [first[number] + part for place in order for number, part in groups[place]]
        return Rearrangement(self.source, tuple(self.result[place] for place in order), *_coalesced(sizes, wanted))

    def steps(self) -> tuple[tuple[Step, ...], ...]:
        """The fewest operators that do this, in every way that so many can, those that copy nothing first."""
        if len(self.order) < 2:
            return ((),) if self.source == self.result else ((View(self.result),),)
        ahead = _grouped(self.source, self.atoms)
        behind = _grouped(self.result, [self.atoms[number] for number in self.order])
        if ahead is not None and behind is not None and self._is_permutation(ahead, behind):
            return ((self._permutation(ahead, behind),),)
        found: list[tuple[Step, ...]] = []
        if behind is not None:
            found.append(self._view_first(behind))
        if ahead is not None:
            ones = [place for place, size in enumerate(self.source) if size == 1]
            moved = [place for number in self.order for place in ahead[number]]
            found.append((Permute((*moved, *ones)), View(self.result)))
        return tuple(found) or ((View(self.atoms), Permute(self.order), View(self.result)),)

    def _is_permutation(self, ahead: Sequence[Sequence[int]], behind: Sequence[Sequence[int]]) -> bool:
        return len(self.source) == len(self.result) and all(
            [self.source[place] for place in ahead[number]] == [self.result[place] for place in places]
            for number, places in zip(self.order, behind, strict=True)
        )

    def _permutation(self, ahead: Sequence[Sequence[int]], behind: Sequence[Sequence[int]]) -> Permute:
        ones = iter([place for place, size in enumerate(self.source) if size == 1])
        held = {}
        for number, places in zip(self.order, behind, strict=True):
            held.update(dict(zip(places, ahead[number], strict=True)))
        return Permute(tuple(held[place] if place in held else next(ones) for place in range(len(self.result))))

    def _view_first(self, behind: Sequence[Sequence[int]]) -> tuple[Step, ...]:
        """The dimensions of the result in the order of the source, then each to its place."""
        held = dict(zip(self.order, behind, strict=True))
        ones = [place for place, size in enumerate(self.result) if size == 1]
        lying = [*(place for number in range(len(self.atoms)) for place in held[number]), *ones]
        view = View(tuple(self.result[place] for place in lying))
        order = Permute(tuple(lying.index(place) for place in range(len(lying))))
        return (order,) if view.shape == self.source else (view, order)


def product(sizes: Sequence[Size]) -> Size:
    """The product of sizes, an int where it is one."""
    return plain(math.prod(sizes, start=sympy.Integer(1)))


def plain(size: Size) -> Size:
    """A size as an int where it is one."""
    return int(size) if isinstance(size, int) or size.is_Integer else sympy.expand(size)


def quotient(size: Size, part: Size) -> Size | None:
    """`size / part` where that is known to be whole."""
    ratio = sympy.cancel(sympy.sympify(size) / part)
    return plain(ratio) if sympy.fraction(ratio)[1] == 1 else None


_Cut = tuple[list[list[tuple[int, int]]], dict[int, list[Size]]]


def _cut(atoms: Sequence[tuple[int, Size]], shape: Sequence[Size]) -> _Cut | None:
    """Atoms cut so that dimensions hold whole parts: for each dimension its (atom, part), for each atom its parts."""
    pending = list(reversed(atoms))
    parts: dict[int, list[Size]] = {number: [] for number, _ in atoms}
    groups: list[list[tuple[int, int]]] = []
    for size in shape:
        rest, group = size, []
        while rest != 1:
            taken = _taken(pending, rest)
            if taken is None:
                return None
            number, part, rest = taken
            group.append((number, len(parts[number])))
            parts[number].append(part)
        groups.append(group)
    return None if pending else (groups, parts)


def _taken(pending: list[tuple[int, Size]], rest: Size) -> tuple[int, Size, Size] | None:
    """An atom, the part of it that goes into a dimension of which `rest` is free, and what is free then."""
    if not pending or rest == 0:
        return None
    number, size = pending.pop()
    if size == 0:
        return None
    free = quotient(rest, size)
    if free is not None:
        return number, size, free
    left = quotient(size, rest)
    if left is None:
        return None
    pending.append((number, left))
    return number, rest, 1


def _coalesced(sizes: Sequence[Size], order: Sequence[int]) -> tuple[tuple[Size, ...], tuple[int, ...]]:
    """Atoms and their order, those that stay neighbours taken together."""
    runs: list[list[int]] = []
    for number in order:
        if runs and runs[-1][-1] + 1 == number:
            runs[-1].append(number)
        else:
            runs.append([number])
    lying = sorted(runs)
    return tuple(product([sizes[number] for number in run]) for run in lying), tuple(lying.index(run) for run in runs)


def _grouped(shape: Sequence[Size], atoms: Sequence[Size]) -> list[list[int]] | None:
    """For each atom the dimensions that make it up, those of size 1 left out; None where one belongs to several."""
    places = iter([place for place, size in enumerate(shape) if size != 1])
    groups: list[list[int]] = []
    for atom in atoms:
        rest, group = atom, []
        while rest != 1:
            place = next(places, None)
            left = None if place is None else quotient(rest, shape[place])
            if place is None or left is None:
                return None
            group.append(place)
            rest = left
        groups.append(group)
    return groups
