"""The acceptance run: before any pass, is the captured model a function of each sample?

On a handful of samples, real ones where there is data:

    1. it runs twice and gives the same, or the operator that draws random numbers is refused by its name;
    2. the graph computes what the user's module computes, where that is at hand, for several samples and for one;
    3. a sample has the same answer alone as among others, in shape and value. Where the batch is free this is refused
       with the operator in which samples come together, because every number of a report would depend on the sizes of
       batches. Where the batch is fixed to more than one, halves are compared, and it is noted: batches are then as
       they will be in use.

What has no samples and what is fixed is noted too. A command that only looks at a model notes what others refuse in 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx

from parallelize.data import Samples, alternatives, random_samples
from parallelize.data.tensor_spec import TensorSpec
from parallelize.models.blame import blaming
from parallelize.models.program import Program
from parallelize.models.watching import first_apart, first_of_other_rank, may_be_random, random_operators
from passes.errors import ParallelizeError
from passes.graph.agreement import change
from passes.graph.dataflow import described
from passes.graph.outputs import flat_outputs
from passes.runner import EXACT_TOLERANCE

RANDOM_WARNING = "The inputs are random numbers: errors and agreement say nothing about accuracy on real data."
FEW = 5
_LEAST = 1e-4  # relative difference that batches of other sizes may cause in any dtype
_MIXING = (  # words in an operator's name -> what it does to samples, what to do about it
    (
        "batch_norm",
        "normalises by batch statistics",
        "Keep running statistics: track_running_stats=True.",
    ),
    ("instance_norm", "normalises over the samples", "Keep running statistics, or leave the axis of samples out."),
    ("attention", "attends over the samples", "The first axis is that of tokens: pass batch_first=True, or transpose."),
    ("", "reads several samples", "Let it act along other axes than the first."),
)
_ONE = " Or fix the batch to one sample, as in --input 1x3x224x224."


@dataclass(frozen=True)
class Acceptance:
    """What is to be told of a model and its data although nothing is wrong, in sentences."""

    notes: tuple[str, ...] = field(default=())


def accept(program: Program, samples: Samples, *, what: str = "sample", strict: bool = True) -> Acceptance:
    """Run the captured model on a few samples.

    Args:
        program: as it was captured, no pass has touched it.
        samples: real or random ones.
        what: what one of them is called in a sentence.
        strict: refuse a model whose samples are not independent; otherwise that is noted.

    Raises:
        ParallelizeError: case 1 to 3 of the module's docstring, or the model does not run on the samples.
    """
    few = samples.head(samples.fixed or FEW)
    size = samples.fixed or len(few)
    inputs = few.batch(size)
    with blaming(program, few, 0, size, what):
        outputs = flat_outputs(program.module, inputs)
    _refuse_random(program, inputs, outputs)
    _refuse_unlike(program, few, size, outputs)
    whole = _without_samples(program, samples.fixed, size)
    found = whole or _apart(program, few, samples, size, outputs, what)
    if found is not None and strict and (samples.fixed is None or found is whole):
        raise found
    return Acceptance((*_told(samples), *([] if found is None else [f"{found} {found.hint}"])))


def accepted_at_random(program: Program) -> tuple[str, ...]:
    """What is to be told of a model that runs on random samples; nothing where it does not.

    Raises:
        ParallelizeError: it draws random numbers.
    """
    if not any(spec.shape for spec in program.inputs):
        return ()
    samples = random_data(program, FEW, 0)
    inputs = samples.batch(FEW)
    if not _gives_numbers(program, inputs):
        return ()
    refuse_random(program, inputs)
    try:
        return accept(program, samples, what="random sample", strict=False).notes
    except ParallelizeError as error:
        return (f"{error} {error.hint}",)


def refuse_any_random(program: Program) -> None:
    """Refuse a model that draws random numbers, looked for on random samples, where it has an operator that may.

    Raises:
        ParallelizeError: naming the operator.
    """
    if any(may_be_random(node) for node in program.module.graph.nodes):
        inputs = random_data(program, FEW, 0).batch(FEW)
        if _gives_numbers(program, inputs):
            refuse_random(program, inputs)


def random_data(program: Program, count: int, seed: int) -> Samples:
    """Random samples on which the model gives numbers, or the first ones where none were found."""
    first = random_samples(program.inputs, count, seed)
    for samples in (first, *alternatives(program.inputs, count, seed)):
        if _gives_numbers(program, samples.batch(FEW)):
            return samples
    return first


def _gives_numbers(program: Program, inputs: Sequence[Tensor]) -> bool:
    try:
        outputs = flat_outputs(program.module, inputs)
    except Exception:  # noqa: BLE001  (any operator may refuse numbers that mean nothing to it)
        return False
    return not any(output.isnan().any() for output in outputs)


def _told(samples: Samples) -> list[str]:
    """Which inputs have no samples, and which batch is fixed."""
    notes = [f"The input {name!r} has no samples: every batch gets the same." for name in samples.whole]
    if samples.fixed is not None:
        many = "one sample at a time" if samples.fixed == 1 else f"batches of {samples.fixed} samples"
        notes.append(f"The model takes {many}, and is fitted, judged and timed so.")
    return notes


# ---------------------------------------------------------------------------------------------------------- randomness


def refuse_random(program: Program, inputs: Sequence[Tensor]) -> None:
    """Refuse a model that draws random numbers.

    Raises:
        ParallelizeError: naming the operator.
    """
    found = random_operators(program.module, inputs)
    if not found:
        return
    is_dropout = any(word in str(found[0].target) for word in ("dropout", "scaled_dot_product", "rrelu"))
    what = "is dropout that is on, as in training mode" if is_dropout else "draws random numbers"
    hint = (
        "eval() does not reach dropout that is called as a function: pass training=self.training, or dropout_p=0.0."
        if is_dropout
        else "Take the random numbers out of forward, or make them an input."
    )
    raise ParallelizeError(f"{program.origin} answers otherwise each time it runs: {described(found[0])} {what}.", hint)


def _refuse_random(program: Program, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
    refuse_random(program, inputs)
    if not _agree(outputs, flat_outputs(program.module, inputs)):
        raise ParallelizeError(
            f"{program.origin} answers otherwise each time it runs on the same samples.",
            "Look for random numbers, or for memory that an operator leaves unset.",
        )


# ---------------------------------------------------------------------------------------------------- the user's module


def _refuse_unlike(program: Program, few: Samples, size: int, outputs: Sequence[Tensor]) -> None:
    """Refuse a graph that is not the model, at the size that it was captured with or for one sample."""
    if program.original is None:
        return
    theirs = program.original(few.batch(size))
    if theirs is not None and not _agree(theirs, outputs):
        apart = change(theirs, outputs).largest if len(theirs) == len(outputs) else float("inf")
        raise ParallelizeError(
            f"What torch.export captured of {program.origin} is another function than the model: on the samples its"
            f" outputs differ by {apart:.1e} of the largest.",
            "A path through forward that depends on values, or on a size, was frozen: use torch.where or torch.cond.",
        )


# ---------------------------------------------------------------------------------------------------- samples together


def _without_samples(program: Program, fixed: int | None, size: int) -> ParallelizeError | None:
    """What is wrong where an output is the same for every batch, or is none that a fixed batch divides."""
    whole = next((spec for spec in program.outputs if size > 1 and _is_whole(spec, fixed)), None)
    if whole is None:
        return None
    return ParallelizeError(
        f"The output {whole.name!r} of {program.origin} has no axis of samples: its shape is"
        f" {'x'.join(map(str, whole.shape)) or 'that of a single number'} for every batch.",
        "Leave it out of what the model returns: a constant, or a number over the batch, is no sample's answer.",
    )


def _is_whole(spec: TensorSpec, fixed: int | None) -> bool:
    if fixed is None:
        return not any(isinstance(length, str) for length in spec.shape)
    first = spec.shape[0] if spec.shape else 1
    return isinstance(first, int) and first % fixed != 0


def _apart(
    program: Program, few: Samples, samples: Samples, size: int, outputs: Sequence[Tensor], what: str
) -> ParallelizeError | None:
    """What is wrong where samples are not independent, or where the model is another function of a single sample."""
    if samples.fixed is not None:
        return _apart_in_halves(program, few, samples, outputs)
    if size < 2:
        return None
    for place in (0, size - 1):
        found = _apart_alone(program, few, size, outputs, place, what)
        if found is not None:
            return found
    return None


def _apart_alone(
    program: Program, few: Samples, size: int, outputs: Sequence[Tensor], place: int, what: str
) -> ParallelizeError | None:
    alone = few.take([place])
    inputs = alone.batch(1)
    with blaming(program, alone, 0, 1, f"a single {what}, number"):
        single = flat_outputs(program.module, inputs)
    for spec, one, many in zip(program.outputs, single, outputs, strict=True):
        part = _rows(many, place, size)
        if part is None:
            continue
        if part.shape != one.shape:
            node = first_of_other_rank(program.module, inputs, few.batch(size))
            where = "" if node is None else f": {described(node)} treats an axis of one as none"
            return ParallelizeError(
                f"For one {what} {program.origin} returns {spec.name!r} as {_shape(one)}, for {size} as"
                f" {_shape(many)}{where}.",
                f"Name the axis, as in squeeze(-1) or flatten(1), so that the axis of samples stays.{_ONE}",
            )
    pairs = [(one, _rows(many, place, size)) for one, many in zip(single, outputs, strict=True)]
    known = [(one, part) for one, part in pairs if part is not None]
    if _agree([one for one, _ in known], [part for _, part in known]):
        return _apart_from_module(program, alone, single)
    few_parts = (slice(0, 1), slice(place, place + 1))
    node = first_apart(program.module, inputs, few.batch(size), few_parts, (1, size), _tolerance(outputs))
    return _dependent(program, node)


def _apart_from_module(program: Program, alone: Samples, single: Sequence[Tensor]) -> ParallelizeError | None:
    """Where the user's module takes another path for a single sample."""
    theirs = None if program.original is None else program.original(alone.batch(1))
    if theirs is None or _agree(theirs, single):
        return None
    return ParallelizeError(
        f"{program.origin} takes another path for a single sample than for several, and only the latter is captured.",
        f"Let forward not depend on the size of the batch.{_ONE}",
    )


def _apart_in_halves(
    program: Program, few: Samples, samples: Samples, outputs: Sequence[Tensor]
) -> ParallelizeError | None:
    """Keep one half of a batch and exchange the other; samples that stay must have the answers that they had."""
    size = samples.fixed or 1
    if size == 1 or len(samples) < 2:
        return None
    half = size // 2
    order = torch.arange(size) % len(samples)
    others = (order + max(1, half)) % len(samples) if len(samples) <= size else torch.arange(size) + len(samples) - size
    for kept in (slice(0, half), slice(half, size)):
        index = others.clone()
        index[kept] = order[kept]
        inputs = samples.take(index).batch(size)
        again = flat_outputs(program.module, inputs)
        pairs = [(_rows(a, kept, size), _rows(b, kept, size)) for a, b in zip(outputs, again, strict=True)]
        known = [(a, b) for a, b in pairs if a is not None and b is not None]
        if not _agree([a for a, _ in known], [b for _, b in known]):
            node = first_apart(program.module, few.batch(size), inputs, (kept, kept), (size, size), _tolerance(outputs))
            return _dependent(program, node)
    return None


def _dependent(program: Program, node: fx.Node | None) -> ParallelizeError:
    name = "" if node is None else str(node.target)
    does, hint = next((does, hint) for words, does, hint in _MIXING if words in name)
    where = "" if node is None else f": {described(node)} {does}"
    return ParallelizeError(
        f"The answers of {program.origin} for a sample depend on the other samples of its batch{where}.", hint + _ONE
    )


def _rows(output: Tensor, place: int | slice, size: int) -> Tensor | None:
    """What of an output belongs to some samples of a batch; None where its first axis is none of samples."""
    if output.ndim == 0 or len(output) % size:
        return None
    rows = len(output) // size
    start, stop = (place, place + 1) if isinstance(place, int) else (place.start, place.stop)
    return output[start * rows : stop * rows]


def _shape(value: Tensor) -> str:
    return "x".join(map(str, value.shape)) or "a single number"


def _agree(left: Sequence[Tensor], right: Sequence[Tensor]) -> bool:
    """Whether two lists of outputs are the same up to rounding."""
    return len(left) == len(right) and change(left, right).within(_tolerance(right))


def _tolerance(outputs: Sequence[Tensor]) -> float:
    return max([_LEAST, *(EXACT_TOLERANCE.get(output.dtype, 0.0) for output in outputs)])
