"""How much each term depends on what each earlier term adds, measured on samples.

    d(i, j) = |f_i(x_{i-1}) - f_i(x_{i-1} - f_j)| / |f_i(x_{i-1})|          j < i

x_{i-1} and f_j are those of the serial network: where d(i, j) is small, term i need not wait for term j. FFN Fusion
(arXiv 2503.18908) drops block j from the network, which also changes what lies between; here only what term i itself
reads is changed, as a schedule does. A post-norm term adds f(x) = N(x + g(x)) - x.

For a stack of n terms that is n (n - 1) / 2 runs of one term. Each runs from its own input; what it reads beside the
state is computed once for a batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import Tensor, fx

from parallelize.data import Samples
from parallelize.machine.device import CPU
from parallelize.machine.ranks import ALONE, Ranks
from parallelize.models.placement import device_of
from parallelize.models.states import placeholders, run_segment
from passes.errors import ParallelizeError
from passes.graph.segment import extract
from passes.stacks.find import Kind, Stack, find_stacks

FORMAT = "parallelize-sensitivity/1"
SAMPLES = 64
BATCH = 16
Part = tuple[int, int, int]  # the number of a stack, and from which sample up to which


@dataclass(frozen=True, eq=False)
class StackSensitivity:
    """The dependencies within one stack of n terms.

    Attributes:
        name: of the stack.
        terms: the module path of each term.
        kinds: of each term.
        relative_l2: (n, n) float64, row i and column j hold d(i, j), over all samples together; 0 where j >= i.
        cosine: the same with the cosine distance, 1 - cos, of each sample's whole output, averaged over samples.
    """

    name: str
    terms: tuple[str, ...]
    kinds: tuple[Kind, ...]
    relative_l2: Tensor
    cosine: Tensor


@dataclass(frozen=True, eq=False)
class Sensitivity:
    """The dependencies of all stacks of a model, measured on `samples` samples."""

    stacks: tuple[StackSensitivity, ...]
    samples: int

    def to_dict(self) -> dict[str, Any]:
        """For JSON: each matrix as its rows below the diagonal, row i with i numbers."""
        return {
            "format": FORMAT,
            "samples": self.samples,
            "stacks": [
                {
                    "name": stack.name,
                    "terms": list(stack.terms),
                    "kinds": list(stack.kinds),
                    "relative_l2": _rows(stack.relative_l2),
                    "cosine": _rows(stack.cosine),
                }
                for stack in self.stacks
            ],
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Sensitivity:
        """Read what `to_dict` wrote.

        Raises:
            ParallelizeError: another format, a missing part, or matrices that do not fit the terms.
        """
        hint = f"Give what Sensitivity.to_dict returned, in the format {FORMAT!r}."
        try:
            if value["format"] != FORMAT:
                raise ParallelizeError(f"The sensitivity has the format {value['format']!r}, not {FORMAT!r}.", hint)
            return cls(tuple(_stack(stack) for stack in value["stacks"]), int(value["samples"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ParallelizeError(f"The sensitivity cannot be read: {type(error).__name__} {error}.", hint) from error


def _rows(matrix: Tensor) -> list[list[float]]:
    return [row[:number].tolist() for number, row in enumerate(matrix)]


def _stack(value: Mapping[str, Any]) -> StackSensitivity:
    terms, kinds = tuple(map(str, value["terms"])), tuple(value["kinds"])
    if len(kinds) != len(terms) or not set(kinds) <= set(get_args(Kind)):
        raise ValueError(f"{len(terms)} terms of the kinds {', '.join(map(str, kinds))}")
    matrices = [_matrix(value[key], len(terms)) for key in ("relative_l2", "cosine")]
    return StackSensitivity(str(value["name"]), terms, kinds, *matrices)


def _matrix(rows: Sequence[Sequence[float]], count: int) -> Tensor:
    if [len(row) for row in rows] != list(range(count)):
        raise ValueError(f"rows of {[len(row) for row in rows]} numbers for {count} terms")
    full = [[*map(float, row), *[0.0] * (count - len(row))] for row in rows]
    return torch.tensor(full, dtype=torch.float64).reshape(count, count)


def measure(
    teacher: fx.GraphModule, samples: Samples, count: int = SAMPLES, batch_size: int = BATCH, ranks: Ranks = ALONE
) -> Sensitivity:
    """Measure every stack of a model.

    Args:
        teacher: the captured graph; it is not changed.
        samples: unlabelled samples, of which the first `count` are used.
        count: at most so many samples.
        batch_size: samples at a time; the states after all terms of a stack are held for one batch.
        ranks: share the batches; the others serve what `Shared` offers there.

    Raises:
        ParallelizeError: the model has no stack, or there is no sample.
    """
    shared = Shared(teacher, samples, ranks, count, batch_size)
    changes = [_Changes.none(len(stack.terms)) for stack in shared.stacks]
    parts = shared.parts()
    for (number, _, _), part in zip(parts, shared.measured(parts), strict=True):
        changes[number] = changes[number].plus(part)
    return Sensitivity(tuple(map(_named, shared.stacks, changes)), len(shared.samples))


class Shared:
    """The measurement of batches of samples, each by whichever rank is free; only sums are sent.

    Attributes:
        stacks: of the model.
        samples: those that are used.
        measured: the sums of parts, in their order.
    """

    def __init__(
        self,
        teacher: fx.GraphModule,
        samples: Samples,
        ranks: Ranks,
        count: int = SAMPLES,
        batch_size: int = BATCH,
    ) -> None:
        """See `measure`."""
        self.teacher, self.batch_size = teacher, batch_size
        self.stacks, self.samples = find_stacks(teacher).stacks, samples.head(count)
        if not self.stacks:
            raise ParallelizeError(
                "The model has no residual stack, so there are no terms to compare.",
                "See `parallelize inspect MODEL` for the residual adds that were left out.",
            )
        if not len(self.samples):
            raise ParallelizeError(
                "Sensitivity is measured on samples, and there are none.", "Give some with --inputs."
            )
        self.measured = ranks.spread("sensitivity", self._measured)
        self._walks: dict[int, _Walk] = {}

    def parts(self) -> list[Part]:
        """Each batch of samples for each stack."""
        size, count = self.samples.size(self.batch_size), len(self.samples)
        starts = range(0, count, size)
        return [(number, at, min(at + size, count)) for number in range(len(self.stacks)) for at in starts]

    def _measured(self, part: Part) -> _Changes:
        number, first, stop = part
        if number not in self._walks:
            self._walks = {number: _Walk(self.teacher, self.stacks[number])}
        some = self.samples.take(range(first, stop))
        return some.room.fitting(lambda: self._changes(self._walks[number], some)).on(CPU)

    def _changes(self, walk: _Walk, samples: Samples) -> _Changes:
        changes = _Changes.none(walk.terms, device_of(self.teacher))
        for inputs, count in zip(samples.batches(self.batch_size), samples.counts(self.batch_size), strict=True):
            states, values = walk.states(inputs)
            for reader in range(walk.terms):
                before = states[reader]
                plain = samples.cut(_added(before, states[reader + 1]), count)
                for writer in range(reader):
                    without = before - (states[writer + 1] - states[writer])
                    added = _added(without, walk.run(reader, values, without))
                    changes.add(reader, writer, plain, samples.cut(added, count))
                changes.count(reader, plain)
        return changes


def _named(stack: Stack, changes: _Changes) -> StackSensitivity:
    return StackSensitivity(
        stack.name,
        tuple(term.module for term in stack.terms),
        tuple(term.kind for term in stack.terms),
        changes.relative_l2(),
        changes.cosine(),
    )


class _Walk:
    """Runs the terms of one stack, each from whatever state it is handed."""

    def __init__(self, teacher: fx.GraphModule, stack: Stack) -> None:
        self.terms = len(stack.terms)
        self._nodes = [stack.entry, *(term.result for term in stack.terms)]
        sides = [side for term in stack.terms for side in term.sides]
        self._known = list(dict.fromkeys([*placeholders(teacher), *sides]))
        self._serial = extract(teacher, placeholders(teacher), [*self._nodes, *self._known])
        self._segments = [extract(teacher, [*self._known, term.skip], [term.result]) for term in stack.terms]

    def states(self, inputs: Sequence[Tensor]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """The serial states x_0 .. x_n, and what the terms read beside them."""
        values = run_segment(self._serial, inputs)
        return values[: len(self._nodes)], values[len(self._nodes) :]

    def run(self, number: int, values: Sequence[Tensor], state: Tensor) -> Tensor:
        """The state after one term that reads `state`."""
        return run_segment(self._segments[number], (*values, state))[0]


@dataclass(frozen=True, eq=False)
class _Changes:
    """Sums over samples of how much what a term adds changes."""

    change: Tensor
    distance: Tensor
    size: Tensor
    samples: Tensor

    @staticmethod
    def none(terms: int, device: torch.device = CPU) -> _Changes:
        """Of no samples."""
        sizes = (terms, terms), (terms, terms), (terms, 1), (terms, 1)
        return _Changes(*(torch.zeros(size, dtype=torch.float64, device=device) for size in sizes))

    def plus(self, other: _Changes) -> _Changes:
        """Of both parts of the samples."""
        return _Changes(*(mine + vars(other)[name] for name, mine in vars(self).items()))

    def on(self, device: torch.device) -> _Changes:
        """The same sums elsewhere."""
        return _Changes(*(value.to(device) for value in vars(self).values()))

    def count(self, reader: int, plain: Tensor) -> None:
        """Take in what a term adds in the serial network, (samples, values)."""
        self.size[reader] += plain.square().sum()
        self.samples[reader] += len(plain)

    def add(self, reader: int, writer: int, plain: Tensor, without: Tensor) -> None:
        """Take in what the reader adds in the serial network, and without the writer."""
        self.change[reader, writer] += (plain - without).square().sum()
        self.distance[reader, writer] += _cosine_distance(plain, without).sum()

    def relative_l2(self) -> Tensor:
        """|change| / |what the term adds|; a term that adds nothing counts as changed by 1 where it changes."""
        ratio = (self.change / self.size.clamp_min(torch.finfo(torch.float64).tiny)).sqrt()
        return torch.where(self.size > 0, ratio, (self.change > 0).double())

    def cosine(self) -> Tensor:
        return self.distance / self.samples


def _added(before: Tensor, after: Tensor) -> Tensor:
    """What a term adds, in float64, (samples, values)."""
    return (after.double() - before.double()).flatten(1)


def _cosine_distance(left: Tensor, right: Tensor) -> Tensor:
    """1 - cos of each row, as half the squared distance of the directions: exactly 0 for equal rows."""
    left, right = (torch.nn.functional.normalize(side, dim=1, eps=1e-300) for side in (left, right))
    return (left - right).square().sum(1) / 2
