"""Random samples for models without data: numbers that say nothing, made so that the model says something.

Floats are normal numbers, integers 0 or 1. A mask masks nothing and a length is whole, told by their names; what no
name tells is found out by trying: `alternatives` reads masks the other way round, takes numbers of one axis for
lengths, and keeps all values positive.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from parallelize.data.roles import of_specs
from parallelize.data.samples import Samples
from parallelize.data.tensor_spec import OTHER_SIZE, TensorSpec

_MASK = re.compile(r"mask|padding", re.IGNORECASE)
_MASKED = re.compile(r"pad(ding)?_?mask|^padding$|^masked", re.IGNORECASE)  # true where something is masked
_LENGTH = re.compile(r"(len(gth)?s?|frames|valid)$", re.IGNORECASE)


def random_samples(specs: Sequence[TensorSpec], count: int, seed: int) -> Samples:
    """Seeded random samples; free dimensions but the first get 16, and an input without samples is one array.

    Raises:
        ParallelizeError: no input has an axis of samples.
    """
    return _made(specs, count, seed, _Kinds(specs))


def alternatives(specs: Sequence[TensorSpec], count: int, seed: int) -> Iterator[Samples]:
    """Other random samples, for a model that gives no numbers on the first ones."""
    kinds = _Kinds(specs)
    if any(kinds.is_mask(spec) for spec in specs):
        yield _made(specs, count, seed, _Kinds(specs, flip=True))
    if any(not spec.dtype.is_floating_point for spec in specs):
        yield _made(specs, count, seed, _Kinds(specs, whole=True))
        yield _made(specs, count, seed, _Kinds(specs, ones=True))
    yield _made(specs, count, seed, _Kinds(specs, whole=True, positive=True))


class _Kinds:
    """What the numbers of each input are."""

    def __init__(
        self,
        specs: Sequence[TensorSpec],
        *,
        flip: bool = False,
        whole: bool = False,
        ones: bool = False,
        positive: bool = False,
    ) -> None:
        self._flip, self._whole, self._ones, self._positive = flip, whole, ones, positive
        long = [spec.sizes({})[1] for spec in specs if len(spec.shape) > 1 and not self.is_mask(spec)]
        masks = [spec.sizes({})[-1] for spec in specs if len(spec.shape) > 1]
        self._length = next(iter([*long, *masks]), OTHER_SIZE)

    def is_mask(self, spec: TensorSpec) -> bool:
        return not spec.dtype.is_floating_point and _MASK.search(spec.name) is not None

    def values(self, spec: TensorSpec, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        if spec.dtype.is_floating_point:
            draw = torch.rand if self._positive else torch.randn
            return draw(shape, generator=generator).to(spec.dtype)
        drawn = torch.randint(0, 2, shape, generator=generator)
        if self.is_mask(spec):
            masked = _MASKED.search(spec.name) is not None and spec.dtype == torch.bool
            return torch.full(shape, int(masked == self._flip), dtype=spec.dtype)
        is_length = len(spec.shape) < 2 and spec.dtype != torch.bool
        if is_length and (self._whole or _LENGTH.search(spec.name)):
            return torch.full(shape, self._length, dtype=spec.dtype)
        return torch.ones(shape, dtype=spec.dtype) if self._ones else drawn.to(spec.dtype)


def _made(specs: Sequence[TensorSpec], count: int, seed: int, kinds: _Kinds) -> Samples:
    generator = torch.Generator().manual_seed(seed)
    roles = of_specs(specs)
    stored = {}
    for spec in specs:
        rows = roles.feeds[spec.name].rows
        sizes = spec.sizes({})
        stored[spec.name] = kinds.values(spec, (count * rows, *sizes[1:]) if rows else sizes, generator)
    return Samples(stored, feeds=roles.feeds, fixed=roles.fixed)
