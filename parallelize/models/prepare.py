"""What every command that rewrites begins with: the model is captured and cleaned, its data loaded and split.

capture -> load data -> accept -> onto the device, large weights to disk -> clean -> refuse NaN -> find stacks -> split

Stacks are found in the cleaned graph alone, as `inspect` finds them: clean-up brings to light residual adds that were
written in other ways.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from parallelize.data import HeldArrays, Samples, load_samples, read_headers, stored
from parallelize.data.buffer import BOUND, Buffer
from parallelize.data.room import Room
from parallelize.data.split import Split, split
from parallelize.machine.device import CPU
from parallelize.machine.mapped import let_go
from parallelize.models.acceptance import accept, accepted_at_random, random_data
from parallelize.models.capture import capture
from parallelize.models.clean import clean
from parallelize.models.finiteness import refuse_not_finite
from parallelize.models.on_disk import on_disk
from parallelize.models.placement import placed
from parallelize.models.program import Program
from parallelize.models.source import Source
from parallelize.models.sources import load_program
from parallelize.models.sources.shapes import capture_known, forward_parameters
from parallelize.models.widening import widened
from parallelize.terminal.progress import Report, Told
from passes.errors import ParallelizeError
from passes.fusion.fuse_width import FuseWidth
from passes.graph.editing import clone
from passes.precision.cast_precision import Precision as CastPrecision
from passes.runner import PassRecord
from passes.stacks.find import Refusal, Stacks, find_stacks

RANDOM_SAMPLES = 64
PROBE = 4  # samples that exact passes are checked on


@dataclass(frozen=True, eq=False)
class Prepared:
    """A cleaned program with stacks, and its data.

    Attributes:
        random: whether the data is random numbers.
        cleaning: what the clean-up passes did.
        notes: what a reader of any number should know of model and data.
        precision: in which the model computes; where that is half, the program is of fp32 all the same.
    """

    program: Program
    stacks: Stacks
    data: Split
    random: bool
    cleaning: tuple[PassRecord, ...]
    notes: tuple[str, ...] = ()
    precision: CastPrecision = "fp32"


def prepare(source: Source, seed: int, report: Report, device: torch.device = CPU, memory: int = BOUND) -> Prepared:
    """Capture, load, clean and split.

    Args:
        source: the model and its data.
        seed: of the split, and of random inputs.
        report: told what is being done.
        device: where the program is in the end, and where batches of the samples are handed out.
        memory: bytes of the host for what is computed of the samples and held.

    Raises:
        ParallelizeError: a model without stacks or branches, one that is random, mixes samples or is NaN on its data,
            data that does not fit it, or too little of it.
    """
    report("capturing the model", None)
    program, precision, widening = widened(captured(source), report)
    let_go()
    samples, judge = _load_data(program, source, seed)
    report("running the model on a few samples", None)
    what = "random sample" if source.inputs is None else "sample"
    notes = accept(program, samples, what=what).notes
    program = raw = on_disk(placed(replace(program, original=None), device), report)
    let_go()
    room, buffer = Room(lambda said: report(Told(said), None)), Buffer(memory)
    samples = replace(samples, device=device, room=room, buffer=buffer)
    refuse_not_finite(raw, samples.head(samples.fixed or PROBE), what)  # clean-up compares numbers
    program, cleaning = clean(raw, samples.batch(PROBE))
    program = on_disk(program, report)  # what clean-up has made of weights
    let_go()
    samples = refuse_not_finite(program, samples, what, captured=raw)
    if judge is not None:
        judge = replace(judge, device=device, room=room, buffer=buffer)
        judge = refuse_not_finite(program, judge, "judging sample", captured=raw)
    stacks = find_stacks(program.module)
    _require_branches(stacks, program)
    data = split(samples, judge, seed)
    return Prepared(program, stacks, data, source.inputs is None, (*widening, *cleaning), notes, precision)


def looked_at(source: Source) -> tuple[Program, tuple[str, ...]]:
    """The captured model for a command that looks at it, not yet cleaned, and what is to be told of it.

    Without data it need not run on random inputs, which may mean nothing to it.

    Raises:
        ParallelizeError: it cannot be captured, does not run on its data, or is random.
    """
    program = captured(source)
    if source.inputs is not None:
        samples = load_samples(stored(source.inputs), program.inputs)
        notes = accept(program, samples, strict=False).notes
    else:
        notes = accepted_at_random(program)
    return replace(program, original=None), notes


def captured(source: Source) -> Program:
    """The captured model, not yet cleaned.

    Raises:
        ParallelizeError: it cannot be loaded or captured.
    """
    model = source.model
    if isinstance(model, Program):
        return model
    if isinstance(model, nn.Module):
        return _captured_module(model, source)
    samples = None if source.inputs is None else read_headers(stored(source.inputs))
    return load_program(os.fspath(model), source, samples)


def _captured_module(module: nn.Module, source: Source) -> Program:
    """A module, captured on its example or on what its data looks like, where it is; the program is on the CPU."""
    origin = type(module).__name__
    if source.example is None and source.inputs is None and not source.input_specs:
        raise ParallelizeError(
            "A module needs example inputs to be captured.", "Pass example=(tensor, ...), or data as inputs."
        )
    if source.example is not None:
        return placed(capture(module, source.example, origin=origin), CPU)
    data = None if source.inputs is None else stored(source.inputs)
    if isinstance(data, HeldArrays):
        data = data.named(list(forward_parameters(module)))
    tensors = itertools.chain(module.parameters(), module.buffers())
    there = next((tensor.device for tensor in tensors), CPU)
    with contextlib.nullcontext() if there == CPU else there:
        return placed(capture_known(module, None, origin, source, {} if data is None else read_headers(data)), CPU)


def _require_branches(stacks: Stacks, program: Program) -> None:
    """Refuse a network in which nothing could run side by side and nothing does."""
    if stacks.stacks or FuseWidth(dry=True).apply(clone(program.module)).matches:
        return
    why = f" ({weightiest(stacks.refused)})" if stacks.refused else ""
    raise ParallelizeError(
        f"{program.origin} has no residual stack and no parallel branches{why}.",
        "Only chains x + f(x) can be parallelized; `parallelize inspect MODEL` lists what was found.",
    )


def weightiest(refused: Sequence[Refusal]) -> str:
    """The refusal that stands most between a network and a stack: what is said of the most adds, but for names."""
    alike: dict[str, list[Refusal]] = {}
    for refusal in refused:
        alike.setdefault(re.sub(r"\w*[\d_]\w*", "_", refusal.reason), []).append(refusal)
    first, *others = max(alike.values(), key=len)
    more = f" and {len(others)} more" if others else ""
    return f"{first.node}{more}: {first.reason}"


def _load_data(program: Program, source: Source, seed: int) -> tuple[Samples, Samples | None]:
    """Calibration samples, and samples to judge on where they are of their own."""
    if source.inputs is None:
        if (source.test_inputs, source.labels, source.mask) != (None, None, None):
            raise ParallelizeError(
                "--test-inputs, --labels and --mask need --inputs.", "Give calibration data with --inputs."
            )
        return random_data(program, RANDOM_SAMPLES, seed), None
    if source.test_inputs is None:
        return load_samples(stored(source.inputs), program.inputs, source.labels, source.mask), None
    judge = load_samples(stored(source.test_inputs), program.inputs, source.labels, source.mask)
    return load_samples(stored(source.inputs), program.inputs, None, source.mask), judge
