"""A cast is tried on every sample: what leaves the range of half precision stays in full precision, or is refused.

A value beyond 65,504 in one sample of two hundred ruins that sample in float16, and no mean over the others tells. So
the cast graph runs in its own arithmetic on all samples, whatever part of them they are in:

    cast -> run all samples -> values that are infinite or NaN where the graph before the cast is finite
         -> these values and all that read them stay in full precision -> cast anew -> ... -> all samples are right

Which samples fit, choose or judge makes no difference to the result.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor, fx

from parallelize.data import Samples
from parallelize.data.padding import Layout, layouts, mask_position
from parallelize.models.program import Program
from parallelize.models.states import batch_size
from passes.errors import CheckError
from passes.graph.dataflow import described, tensor_value
from passes.precision.cast_precision import HALF_DTYPES, CastPrecision
from passes.precision.half_arithmetic import Ends, HalfArithmetic, ends_of_range, is_wrong, kept_for_range, watched
from passes.runner import PassRecord, run_passes

ROUNDS = 40  # casts that are tried until every sample is right
_AT_ONCE = 8  # samples that one of them looks into
_BATCH = 100


@dataclass(frozen=True)
class InRange:
    """A cast that is right on all samples.

    Attributes:
        program: the cast program.
        record: what the cast did.
        wide: names of the nodes that stay in full precision for it.
        why: what was out of range first, in words; empty where nothing was.
    """

    program: Program
    record: PassRecord
    wide: tuple[str, ...] = ()
    why: str = ""


def cast_in_range(program: Program, step: CastPrecision, parts: Sequence[Samples], rounds: int = ROUNDS) -> InRange:
    """Cast a program so that no sample leaves the range.

    Args:
        program: what to cast.
        step: the pass; nodes are added to its `wide`.
        parts: all samples there are.
        rounds: casts to try.

    Raises:
        CheckError: naming the value that leaves the range, its size and the sample.
    """
    trial, parts = _Trial(program, HALF_DTYPES[step.dtype]), _in_data_order(parts)
    known: list[Samples] = []
    why = ""
    for _ in range(rounds):
        module, (record,) = run_passes(program.module, [step])
        wrong = [_Wrong(each, ends) for each in known if (ends := trial.ends(module, each)) is not None]
        wrong = wrong or list(islice(trial.wrong(module, parts), _AT_ONCE))
        if not wrong:
            return InRange(replace(program, module=module), record, step.wide, why)
        known += [each.samples for each in wrong if each.samples not in known]
        why = why or trial.said(max(wrong, key=lambda each: each.ends.size))
        wide = frozenset(step.wide).union(*(trial.widened(each, step.wide) for each in wrong))
        if wide == frozenset(step.wide):
            break
        step = replace(step, wide=tuple(node.name for node in program.module.graph.nodes if node.name in wide))
    raise CheckError(
        f"{program.origin} leaves the range of {step.dtype}: {why}.",
        "Use --precision bf16, which has the range of fp32, or fp32.",
    )


def _in_data_order(parts: Iterable[Samples]) -> list[Samples]:
    """Parts of the same data as one, in its order, so that what is told does not depend on how it was split."""
    by_data: dict[tuple[int, ...], list[Samples]] = {}
    for part in parts:
        by_data.setdefault(tuple(map(id, part.stored.values())), []).append(part)
    return [_joined(same) for same in by_data.values()]


def _joined(parts: Sequence[Samples]) -> Samples:
    indices = [part.index for part in parts if part.index is not None]
    if len(indices) < len(parts):  # one of them is all of the data
        return replace(parts[0], labels=None, index=None)
    places = sorted({int(place) for index in indices for place in index})
    return replace(parts[0], labels=None, index=torch.tensor(places))


@dataclass(frozen=True)
class _Wrong:
    """A sample, or a batch where none of its samples is wrong alone, and where its range ends."""

    samples: Samples
    ends: Ends


class _Trial:
    """A program before its cast, beside which casts are run."""

    def __init__(self, program: Program, half: torch.dtype) -> None:
        self.program, self.half = program, half
        self.module = program.module
        self.watched = watched(self.module)
        self.layouts: dict[str, Layout] = {}

    def wrong(self, cast: fx.GraphModule, parts: Sequence[Samples]) -> Iterator[_Wrong]:
        """Samples that the cast program makes no numbers of, in memory that does not grow."""
        size = batch_size(self.module, _BATCH)
        for part in parts:
            start = 0
            for batch, count in zip(part.batches(size), part.counts(size), strict=True):
                if self._is_wrong(cast, part, batch):
                    yield from self._looked_into(cast, part, range(start, start + count))
                start += count

    def _is_wrong(self, cast: fx.GraphModule, part: Samples, batch: Sequence[Tensor]) -> bool:
        """Whether a watched value is infinite or NaN where the program's own is not."""
        half = self._values(cast, batch, self.watched)
        if all(value.isfinite().all() for value in half.values() if isinstance(value, Tensor)):
            return False
        own, real = self._values(self.module, batch, self.watched), self._real(part, batch)
        return any(is_wrong(own[name], half[name], real.get(name)) for name in half)

    @staticmethod
    def _values(module: fx.GraphModule, batch: Sequence[Tensor], names: Collection[str] | None) -> Mapping[str, Any]:
        run = HalfArithmetic(module, names)
        with torch.no_grad():
            run.run(*batch, enable_io_processing=False)
        return run.values

    def _looked_into(self, cast: fx.GraphModule, part: Samples, places: range) -> Iterator[_Wrong]:
        """Each sample alone; all of them together where none is wrong alone."""
        found = False
        for place in (*([place] for place in places), list(places)):
            if found and len(place) > 1:
                return
            each = part.take(place)
            ends = self.ends(cast, each)
            if ends is not None:
                found = True
                yield _Wrong(each, ends)

    def ends(self, cast: fx.GraphModule, samples: Samples) -> Ends | None:
        """Where the range ends for these samples; None where it does not."""
        batch = samples.batch(len(samples))
        return ends_of_range(self.module, cast, batch, self._real(samples, batch))

    def _real(self, samples: Samples, batch: Sequence[Tensor]) -> dict[str, Tensor]:
        """Where values are real, for those that have padding."""
        place = mask_position(samples)
        if place is None:
            return {}
        if not self.layouts:
            nodes = [node for node in self.module.graph.nodes if tensor_value(node) is not None]
            found = zip(nodes, layouts(self.module, samples, nodes), strict=True)
            self.layouts = {node.name: at for node, at in found if at is not None}
        axes = {node.name: value.ndim for node in self.module.graph.nodes if (value := tensor_value(node)) is not None}
        return {name: at.real(batch[place], axes[name]) for name, at in self.layouts.items()}

    def widened(self, wrong: _Wrong, kept: Collection[str]) -> frozenset[str]:
        """Names of the nodes that must stay in full precision for a sample."""
        batch = wrong.samples.batch(len(wrong.samples))
        values = self._values(self.module, batch, None)
        return kept_for_range(self.module, wrong.ends, kept, values, self.half)

    def said(self, wrong: _Wrong) -> str:
        """The value that leaves the range, how large it is and in which sample, as a part of a sentence."""
        node = next(node for node in self.module.graph.nodes if node.name == wrong.ends.first)
        what = f"the input {str(node.target)!r}" if node.op == "placeholder" else described(node)
        index = wrong.samples.index
        where = "" if index is None or len(index) > 1 else f" in sample {int(index[0])}"
        limit = torch.finfo(self.half).max
        if wrong.ends.size > limit:
            return f"{what} is {wrong.ends.size:.3g}{where}, infinite in {_name(self.half)}, which ends at {limit:.5g}"
        return f"{what} is NaN or infinite{where} in the arithmetic of {_name(self.half)}"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
