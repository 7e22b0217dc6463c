"""The inputs that several networks read alike: their specs in one, and samples that fit all of them.

A dimension that is free in one network and fixed in another is fixed. Inputs go by their names where all networks have
the same names, and by their places where they do not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from parallelize.data import Samples, Stored, load_samples, random_samples
from parallelize.data.tensor_spec import TensorSpec
from passes.errors import CheckError, ParallelizeError


@dataclass(frozen=True)
class SharedInputs:
    """What several networks read.

    Attributes:
        specs: the inputs in the first network's order.
        places: for each network by its label, where in `specs` each of its inputs is.
    """

    specs: tuple[TensorSpec, ...]
    places: Mapping[str, tuple[int, ...]]

    def fed(self, label: str, batch: Sequence[Tensor]) -> list[Tensor]:
        """A batch in the order of one network's inputs."""
        return [batch[place] for place in self.places[label]]

    def batch_size(self, samples: Samples, wanted: int | None, usual: int) -> int:
        """Samples at a time.

        Raises:
            ParallelizeError: another number was asked for than the networks are fixed to.
        """
        if samples.fixed is None:
            return wanted or usual
        if wanted not in (None, samples.fixed):
            raise ParallelizeError(
                f"The batch is fixed to {samples.fixed}, not {wanted}.", f"Use --batch {samples.fixed}."
            )
        return samples.fixed

    def samples(self, path: Stored | None, count: int, seed: int) -> Samples:
        """Real samples from a file or from memory, or else `count` random ones."""
        if path is None:
            return random_samples(self.specs, count, seed)
        return load_samples(path, self.specs)


def share(inputs: Mapping[str, Sequence[TensorSpec]]) -> SharedInputs:
    """The inputs that all networks read, by the networks' labels.

    Raises:
        CheckError: another number of inputs, or shapes that no samples can have.
    """
    first, *_ = inputs
    specs = tuple(inputs[first])
    places: dict[str, tuple[int, ...]] = {}
    for label, theirs in inputs.items():
        if len(theirs) != len(specs):
            raise CheckError(
                f"{label} reads {len(theirs)} inputs, {first} reads {len(specs)}.", "Name networks of the same inputs."
            )
        names = [spec.name for spec in specs]
        by_name = sorted(names) == sorted(spec.name for spec in theirs)
        places[label] = tuple(names.index(t.name) if by_name else place for place, t in enumerate(theirs))
        merged = dict(zip(places[label], theirs, strict=True))
        specs = tuple(_merged(spec, merged[place], label) for place, spec in enumerate(specs))
    return SharedInputs(specs, places)


def _merged(spec: TensorSpec, other: TensorSpec, label: str) -> TensorSpec:
    """One spec of both; a size that is a number anywhere stays one."""
    pairs = list(zip(spec.shape, other.shape, strict=False))
    clash = any(isinstance(a, int) and isinstance(b, int) and a != b for a, b in pairs)
    if len(spec.shape) != len(other.shape) or clash or _is_float(spec) != _is_float(other):
        ours, theirs = (_spelled(each) for each in (spec, other))
        raise CheckError(
            f"{label} reads {other.name!r} as {theirs}, where it is {ours} before.", "Name networks of the same inputs."
        )
    return replace(spec, shape=tuple(b if isinstance(b, int) else a for a, b in pairs))


def _is_float(spec: TensorSpec) -> bool:
    return spec.dtype.is_floating_point


def _spelled(spec: TensorSpec) -> str:
    return f"{'x'.join(map(str, spec.shape)) or 'a single number'}@{str(spec.dtype).removeprefix('torch.')}"
