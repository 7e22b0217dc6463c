"""What a change of a network costs, measured from the state at which it begins.

The states of the samples before a change are computed once and shared by all changes there; of each only the rest of
the network is run. That rest is fed with whatever the change makes of the states, so a block is deleted by feeding the
segment behind it with the states before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from torch import Tensor, fx

from parallelize.data import Samples
from parallelize.data.buffer import Kept
from parallelize.metrics import Judge, Metric
from parallelize.models.states import batch_size, outputs_from, placeholders, run_segment
from passes.graph.segment import extract

CHOICE_SAMPLES = 256  # held-out samples that choose between ways to do a method


@dataclass(frozen=True)
class States:
    """The values of one tensor of a network on all samples, in batches of `size`; whatever fits later.

    They are kept in the memory of the job.
    """

    samples: Samples
    size: int
    kept: tuple[Kept, ...]

    @classmethod
    def keep(cls, samples: Samples, size: int, values: Iterable[Tensor]) -> States:
        """Values as they come, one for each batch."""
        return cls(samples, size, tuple(map(samples.buffer.keep, values)))

    @property
    def nbytes(self) -> int:
        """Of all values."""
        return sum(kept.nbytes for kept in self.kept)

    @property
    def values(self) -> Iterator[Tensor]:
        """The values, one after another."""
        return (kept.value for kept in self.kept)

    @property
    def inputs(self) -> Iterator[tuple[Tensor, ...]]:
        """The inputs that the values come from."""
        return (self.samples.at(start, self.size) for start in self._starts)

    @property
    def counts(self) -> Iterator[int]:
        """For each of the values how many of its samples count."""
        return (min(self.size, len(self.samples) - start) for start in self._starts)

    @property
    def _starts(self) -> range:
        return range(0, len(self.samples), self.size)

    def map(self, function: Callable[[Tensor], Tensor]) -> States:
        """The same samples with other values."""
        return States.keep(self.samples, self.size, map(function, self.values))


def states_at(module: fx.GraphModule, node: fx.Node, samples: Samples) -> States:
    """Run a network up to a node."""
    segment = extract(module, placeholders(module), [node])
    size = samples.size(batch_size(module, elements=samples.buffer.elements))
    return States.keep(samples, size, (run_segment(segment, batch)[0] for batch in samples.batches(size)))


def move(module: fx.GraphModule, start: fx.Node, end: fx.Node, states: States) -> States:
    """Run a network from one node, where it has these states, to another."""
    segment = extract(module, [*placeholders(module), start], [end])
    pairs = zip(states.inputs, states.values, strict=True)
    return States.keep(states.samples, states.size, (run_segment(segment, (*b, value))[0] for b, value in pairs))


class Trial:
    """The teacher's outputs on held-out samples, and how far those of other networks are from them."""

    def __init__(self, teacher: fx.GraphModule, held_out: Samples, metric: Metric | str) -> None:
        self.teacher, self.held_out = teacher, held_out
        self._judge = Judge(teacher, held_out, metric)

    def error(self, module: fx.GraphModule) -> float:
        """The error of a whole network."""
        return self._judge.score(module).error(self._judge.metric)

    def error_from(self, module: fx.GraphModule, node: fx.Node, states: States) -> float:
        """The error of a network that has these states at a node, whatever they come from."""
        outputs = outputs_from(module, node, zip(states.inputs, states.values, strict=True))
        return self._judge.score_outputs(outputs, states.counts).error(self._judge.metric)
