"""A **target**: a GPU as the few numbers that decide how long its kernels take, as JSON.

    {"format": "parallelize-target/1", "gpu": "NVIDIA H200", "sms": 132, ..., "rates": {"bf16": {...}}}

`parallelize.predicting.latency` tells what each number does. Targets that are shipped lie in `targets/` and are named
by their file: `h200`. A file is read strictly. Refused, each in a sentence: a file that is not there or is no JSON,
another format, a field that is missing or of another type, a number that is not above zero.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from math import isfinite
from pathlib import Path
from typing import Any

from parallelize.files.typed_json import from_plain, to_plain
from parallelize.files.whole_file import output_file
from parallelize.predicting.kernel import KINDS, Kind, Precision
from parallelize.terminal.words import listed
from passes.errors import ParallelizeError

FORMAT = "parallelize-target/1"
_HINT = "Measure the GPU again: parallelize profile-gpu -o FILE."
_MAY_BE_ZERO = frozenset({"error"})


@dataclass(frozen=True)
class Rate:
    """How fast one SM goes through a tile of products.

    Attributes:
        step_ns: nanoseconds for each step along the inner dimension, however small the tile.
        gflops: 10^9 floating-point operations a second of one SM, on top of that.
    """

    step_ns: float
    gflops: float


@dataclass(frozen=True)
class Rates:
    """The rates of one precision."""

    product: Rate
    convolution: Rate
    attention: Rate


@dataclass(frozen=True)
class Target:
    """A GPU.

    Attributes:
        gpu: its name.
        compute_capability: such as "9.0".
        sms: streaming multiprocessors, which take one tile each at a time.
        gb_per_s: 10^9 bytes a second that large tensors are read and written with.
        half_mb: 10^6 bytes of a kernel that reaches 1 / sqrt(2) of that.
        graph_us: microseconds of a CUDA graph beside its kernels.
        fixed_us: microseconds of a kernel of each kind, however small; none takes less.
        split_us: microseconds to add up a product whose inner dimension is split among SMs.
        rates: of products, by precision.
        error: median relative error of predicted latencies.
        error_of: what that error is of.
        measured_on: date, versions, driver.
    """

    gpu: str
    compute_capability: str
    sms: int
    gb_per_s: float
    half_mb: float
    graph_us: float
    fixed_us: Mapping[Kind, float]
    split_us: float
    rates: Mapping[str, Rates]
    error: float
    error_of: str
    measured_on: Mapping[str, str]

    @property
    def precisions(self) -> tuple[str, ...]:
        """Precisions that there are numbers for; the first is what is asked of the target where none is named."""
        return tuple(self.rates)

    def require(self, precision: Precision) -> None:
        """Refuse a precision that nothing was measured in.

        Raises:
            ParallelizeError: there are no rates for it.
        """
        if precision not in self.rates:
            raise ParallelizeError(
                f"The target {self.gpu} has no numbers for {precision}.", f"It has them for {listed(self.precisions)}."
            )

    def to_json(self) -> str:
        """The content of a file."""
        return json.dumps({"format": FORMAT, **to_plain(self)}, indent=1, allow_nan=False) + "\n"

    def write(self, path: Path) -> None:
        """Write a file, whole or not at all.

        Raises:
            EnvironmentLackError: the place cannot be written to.
        """
        with output_file(path, f"The target {path} cannot be written") as temporary:
            temporary.write_text(self.to_json())


def shipped() -> dict[str, Traversable]:
    """The targets that come with the package, by their names."""
    found = files("parallelize.predicting") / "targets"
    paths = [path for path in found.iterdir() if path.name.endswith(".json")]
    return {path.name.removesuffix(".json"): path for path in sorted(paths, key=lambda path: path.name)}


def load_target(name: str) -> Target:
    """A target that is shipped, by its name, or else in a file.

    Raises:
        ParallelizeError: there is no such target, or the file is no target.
    """
    known = shipped()
    path = known.get(name, Path(name))
    if name not in known and not path.is_file():
        raise ParallelizeError(
            f"There is no target {name!r}.",
            f"Name {listed([*known, 'a file that `parallelize profile-gpu` wrote'])}.",
        )
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ParallelizeError(f"The target {name} cannot be read: {error}.", _HINT) from error
    return read_target(text, path.name)


def read_target(text: str, place: str) -> Target:
    """A target from the content of a file.

    Args:
        text: JSON.
        place: the file's name, for messages.

    Raises:
        ParallelizeError: it is no target of this version.
    """
    try:
        content = json.loads(text)
    except ValueError as error:
        raise ParallelizeError(f"The target {place} is no JSON: {error}.", _HINT) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else None
        raise ParallelizeError(f"The target {place} has the format {found!r}, not {FORMAT!r}.", _HINT)
    target = from_plain(Target, content, place)
    missing = [kind for kind in KINDS if kind not in target.fixed_us]
    if missing or not target.rates:
        raise ParallelizeError(f"{place} has no {f'fixed_us.{missing[0]}' if missing else 'rates'}.", _HINT)
    for name, number in _numbers(to_plain(target), place):
        if not (isfinite(number) and (number > 0 or name.rpartition(".")[2] in _MAY_BE_ZERO)):
            raise ParallelizeError(f"{name} is {number}, not a number above zero.", _HINT)
    return target


def _numbers(content: Any, place: str) -> Iterator[tuple[str, float]]:
    """Every number of a file with its place."""
    if isinstance(content, dict):
        for key, value in content.items():
            yield from _numbers(value, f"{place}.{key}")
    elif isinstance(content, int | float):
        yield place, content
