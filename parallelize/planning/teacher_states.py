"""The teacher's states on the samples that costs are measured on: groups start from them, and should come to them.

The groups of a stack overlap, and all of them meet the same states of the teacher. Each state is computed once, when
the first group reaches so far, and held: those behind every term where they are at most KEPT_BYTES, else those behind
every block, every second block and so on, between which the teacher runs again. They are held for long and read now and
then, so they leave most of the job's memory to others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import fx

from parallelize.data import Samples
from parallelize.models.states import Batch, Teacher, start_batches
from passes.stacks.find import Stack

KEPT_BYTES = 2**31  # of all states
SHARE = 1 / 4  # of the job's memory that these states may fill; the others are in its file

Parts = tuple[list[Batch], list[Batch]]  # samples to fit on and samples to choose on, on their way


class TeacherStates:
    """States of one teacher on samples to fit on and samples to choose on."""

    def __init__(
        self,
        teacher: fx.GraphModule,
        stacks: Sequence[Stack],
        samples: tuple[Samples, Samples],
        batch_size: int,
    ) -> None:
        """Run nothing yet.

        Args:
            teacher: the captured graph.
            stacks: of it.
            samples: to fit on and to choose on.
            batch_size: samples at a time.
        """
        self.teacher, self.stacks, self.samples, self.batch_size = teacher, stacks, samples, batch_size
        self._entries: dict[int, Parts] = {}

    def clear(self) -> None:
        """Let go of all that is held."""
        self._entries.clear()

    def around(self, number: int, first: int, last: int) -> Parts:
        """The samples before a block of a stack, with what is held of the states up to the end of another one."""
        start = self.stacks[number].terms[self.stacks[number].blocks[first][0]].skip
        fit, held_out = (self._part(number, batches, start, last) for batches in self._entered(number))
        return fit, held_out

    def _entered(self, number: int) -> Parts:
        """The samples before the first block."""
        if number not in self._entries:
            entry = self.stacks[number].entry
            fit, held_out = (start_batches(self.teacher, entry, s, self.batch_size) for s in self.samples)
            self._entries[number] = fit, held_out
        return self._entries[number]

    def _part(self, number: int, batches: Sequence[Batch], start: fx.Node, last: int) -> list[Batch]:
        stack = self.stacks[number]
        teacher = Teacher(self.teacher, stack)
        for node in self._held(number, last):
            if node not in batches[0].ahead:
                for batch, (state,) in zip(batches, teacher.values([node], batches), strict=True):
                    batch.ahead = {**batch.ahead, node: batch.keep(state, SHARE)}
        if start is stack.entry:
            return [replace(batch) for batch in batches]
        if start in batches[0].ahead:
            states = [batch.ahead[start] for batch in batches]
        else:
            states = [b.keep(state) for b, (state,) in zip(batches, teacher.values([start], batches), strict=True)]
        return [replace(batch, teacher=kept, state=kept) for batch, kept in zip(batches, states, strict=True)]

    def _held(self, number: int, last: int) -> list[fx.Node]:
        """The states to hold of those up to the end of a block."""
        stack = self.stacks[number]
        terms = [stack.terms[term] for block in stack.blocks for term in block]
        size = sum(batch.teacher.nbytes for part in self._entered(number) for batch in part)
        most = KEPT_BYTES // len(self.stacks) // max(size, 1)
        if len(terms) <= most:
            return [stack.terms[term].result for block in stack.blocks[: last + 1] for term in block]
        apart = -(-len(stack.blocks) // most) if most else len(stack.blocks) + 1
        return [stack.terms[stack.blocks[end][-1]].result for end in range(apart - 1, last + 1, apart)]
