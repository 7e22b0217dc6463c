"""Which inputs of a program have samples on their first axis, how many rows for each, and which batch is fixed.

Told by the shapes that the program reads, and by those of the data where there is data (N samples):

1. a first axis that is free by the name of the batch: 1 row for each sample, or k where it is `k*batch`;
2. a fixed shape that the array has exactly: no samples, every batch gets it whole, as it does a single number;
3. a fixed first size F and N rows in the array: the program takes F samples at a time;
4. a fixed first size F and N F rows (or k N, where others are fixed to F / k): so many rows for each sample;
5. an array with an axis of N before the shape that the program reads: one sample at a time, without that axis;
6. nothing is free and every array is just as large as the program reads: they are one batch, as long as the first.

Refused: an array of another shape, and arrays that differ in their number of samples.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from parallelize.data.arrays import SAVE_HINT
from parallelize.data.samples import Feed
from parallelize.data.tensor_spec import TensorSpec
from passes.errors import ParallelizeError

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Roles:
    """How inputs are fed, by name; the batch that is fixed, or None; the number of samples, where there is data."""

    feeds: Mapping[str, Feed]
    fixed: int | None
    count: int = 0


def of_specs(specs: Sequence[TensorSpec]) -> Roles:
    """What the program alone tells.

    Raises:
        ParallelizeError: no input has a first axis.
    """
    word = batch_word(specs)
    if word is not None:
        return Roles({s.name: Feed(_rows(s, word, {}) or 0, s.dtype) for s in specs}, None)
    fixed = next((spec.shape[0] for spec in specs if spec.shape), None)
    if not isinstance(fixed, int):
        named = specs[0].name if specs else ""
        raise ParallelizeError(f"The input {named!r} is a single number: it has no axis of samples.", SAVE_HINT)
    return Roles({s.name: Feed(int(s.shape[:1] == (fixed,)), s.dtype) for s in specs}, fixed)


def of_arrays(specs: Sequence[TensorSpec], shapes: Mapping[str, Shape], where: str) -> Roles:
    """What program and data tell together.

    Args:
        specs: inputs of the program.
        shapes: of the arrays, by input.
        where: the file, for messages.

    Raises:
        ParallelizeError: an array that does not fit, or arrays of different numbers of samples.
    """
    for spec in specs:
        if not (_fits(spec, shapes[spec.name]) or _is_bare(spec, shapes[spec.name])):
            raise _unfit(spec, shapes[spec.name], where)
    word = batch_word(specs)
    found = _fixed(specs, shapes) if word is None else _free(specs, shapes, word)
    if found is None:
        raise _differ(specs, shapes, where)
    return found


def batch_word(specs: Sequence[TensorSpec]) -> str | None:
    """The name of the free dimension that counts samples, None where no first axis is free."""
    words = [word for spec in specs for word in _words(spec)]
    return "batch" if "batch" in words else next(iter(words), None)


def _words(spec: TensorSpec) -> list[str]:
    """The names in a first axis that is free."""
    first = spec.shape[0] if spec.shape else 0
    return re.findall(r"[A-Za-z_]\w*", first) if isinstance(first, str) else []


def _rows(spec: TensorSpec, word: str, sizes: Mapping[str, int]) -> int | None:
    """Rows for each sample, None where the first axis does not count samples."""
    if word not in _words(spec):
        return None
    return TensorSpec("", spec.shape[:1], spec.dtype).sizes({**sizes, word: 1})[0]


def _free(specs: Sequence[TensorSpec], shapes: Mapping[str, Shape], word: str) -> Roles | None:
    """Roles where the batch is free in some input; None where numbers of samples differ."""
    sizes = {
        want: have
        for spec in specs
        if _fits(spec, shapes[spec.name])
        for want, have in zip(spec.shape[1:], shapes[spec.name][1:], strict=True)
        if isinstance(want, str)
    }
    rows = {spec.name: _rows(spec, word, sizes) for spec in specs}
    counts = {shapes[name][0] / each for name, each in rows.items() if each}
    if len(counts) > 1 or any(count != int(count) for count in counts):
        return None
    count = int(counts.pop())
    feeds, fixed = {}, set()
    for spec in specs:
        role = _role(spec, shapes[spec.name], count, rows[spec.name])
        if role is None:
            return None
        feeds[spec.name], batch = role
        fixed |= {batch} - {None}
    return Roles(feeds, next(iter(fixed), None), count) if len(fixed) < 2 else None


def _role(spec: TensorSpec, shape: Shape, count: int, rows: int | None) -> tuple[Feed, int | None] | None:
    """How one of several inputs is fed, and the batch that it fixes."""
    if rows is not None:
        return Feed(rows, spec.dtype), None
    if not _fits(spec, shape):
        return (Feed(1, spec.dtype, is_bare=True), 1) if shape[0] == count else None
    first = spec.shape[0] if spec.shape else None
    if first is None or shape[0] == first or (isinstance(first, str) and shape[0] != count):
        return Feed(0, spec.dtype), None
    if isinstance(first, str):
        return Feed(1, spec.dtype), None
    if shape[0] == count:
        return Feed(1, spec.dtype), first
    return (Feed(first, spec.dtype), 1) if shape[0] == count * first else None


def _fixed(specs: Sequence[TensorSpec], shapes: Mapping[str, Shape]) -> Roles | None:
    """Roles where no batch is free; None where numbers of samples differ."""
    others = [spec for spec in specs if shapes[spec.name] != spec.shape]
    if not others:
        found = of_specs(specs)
        return Roles(found.feeds, found.fixed, found.fixed or 0)
    sampled = [(int(spec.shape[0]), shapes[spec.name][0]) for spec in others if _fits(spec, shapes[spec.name])]
    fixed, count = min(sampled, default=(1, shapes[others[0].name][0]))
    feeds = {}
    for spec in specs:
        shape = shapes[spec.name]
        if spec not in others:
            feeds[spec.name] = Feed(0, spec.dtype)
        elif not _fits(spec, shape):
            if fixed != 1 or shape[0] != count:
                return None
            feeds[spec.name] = Feed(1, spec.dtype, is_bare=True)
        else:
            rows = int(spec.shape[0]) / fixed
            if shape[0] != count * rows:
                return None
            feeds[spec.name] = Feed(int(rows), spec.dtype)
    return Roles(feeds, fixed, count)


def _fits(spec: TensorSpec, shape: Shape) -> bool:
    """Whether an array is as the program reads it, but for its first axis."""
    return len(shape) == len(spec.shape) and _agree(spec.shape[1:], shape[1:])


def _is_bare(spec: TensorSpec, shape: Shape) -> bool:
    """Whether an array has an axis before the shape that the program reads, none of which counts samples."""
    return len(shape) == len(spec.shape) + 1 and not _words(spec) and _agree(spec.shape, shape[1:])


def _agree(want: Sequence[int | str], have: Shape) -> bool:
    return all(isinstance(a, str) or a == b for a, b in zip(want, have, strict=True))


def _unfit(spec: TensorSpec, shape: Shape, where: str) -> ParallelizeError:
    have, want = ("x".join(map(str, sizes)) or "a single number" for sizes in (shape, spec.shape))
    return ParallelizeError(
        f"The array {spec.name!r} of {where} has the shape {have}, the model reads {want}.",
        "The first axis counts samples; the others must be as the model reads them.",
    )


def _differ(specs: Sequence[TensorSpec], shapes: Mapping[str, Shape], where: str) -> ParallelizeError:
    lengths = ", ".join(f"{spec.name!r} has {shapes[spec.name][0]}" for spec in specs if shapes[spec.name])
    return ParallelizeError(f"The arrays of {where} differ in their number of samples: {lengths}.", SAVE_HINT)
