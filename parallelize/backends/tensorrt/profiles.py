"""Shapes that an engine is built for: the least, the usual and the largest of each input.

    --min-shapes images:1x3x224x224 --opt-shapes images:1x3x224x224 --max-shapes images:32x3x224x224

What is not given is derived: without any of the three, a free first axis is 1, 1 and 32 and any other free dimension 1,
64 and 128; where only some are given, the rest is taken from the nearest of them, as trtexec does. All is checked
before the builder is called, which would say no more than that an engine could not be built.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from parallelize.terminal.option_field import Spelling, option
from passes.errors import ParallelizeError

if TYPE_CHECKING:
    from parallelize.data.tensor_spec import TensorSpec

Shape = tuple[int, ...]
BATCH = (1, 1, 32)
OTHER = (1, 64, 128)
_NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_SIZES = re.compile(r"\d+(x\d+)*", re.ASCII)
_HINT = "Spell it as NAME:SIZExSIZE..., such as images:1x3x224x224, one option for each input."


def parse_shapes(texts: Iterable[str] | None, option: str) -> dict[str, Shape]:
    """Read `NAME:SIZExSIZE...`, several separated by commas or given one by one.

    Raises:
        ParallelizeError: another spelling, a word for a size, or an input twice.
    """
    found: dict[str, Shape] = {}
    for text in (part for given in texts or () for part in given.split(",")):
        name, _, shape = text.rpartition(":")
        if not name or _SIZES.fullmatch(shape) is None:
            raise ParallelizeError(f"{option} {text!r} is no shape of a named input.", _HINT)
        if name in found:
            raise ParallelizeError(f"{option} names the input {name!r} twice.", _HINT)
        found[name] = tuple(int(size) for size in shape.split("x"))
    return found


def _spelled(option: str) -> Spelling:
    return Spelling(list[str] | None, read=partial(parse_shapes, option=option))


@dataclass(frozen=True)
class ShapeOptions:
    """Shapes by the name of the input; an input that is missing in all three gets derived ones."""

    least: Mapping[str, Shape] = option(
        {},
        "Least shape of an input of the engine, such as images:1x3x224x224.",
        metavar="NAME:SHAPE",
        name="--min-shapes",
        spelling=_spelled("--min-shapes"),
    )
    usual: Mapping[str, Shape] = option(
        {},
        "The shape that it is tuned for.",
        metavar="NAME:SHAPE",
        name="--opt-shapes",
        spelling=_spelled("--opt-shapes"),
    )
    largest: Mapping[str, Shape] = option(
        {}, "The largest shape.", metavar="NAME:SHAPE", name="--max-shapes", spelling=_spelled("--max-shapes")
    )

    @classmethod
    def fixed(cls, shapes: Mapping[str, Shape]) -> ShapeOptions:
        """One shape only for each input."""
        return cls(shapes, shapes, shapes)


@dataclass(frozen=True)
class Profile:
    """The three shapes of one input."""

    name: str
    least: Shape
    usual: Shape
    largest: Shape

    def holds(self, shape: Sequence[int]) -> bool:
        """Whether an engine with this profile takes an input of that shape."""
        return len(shape) == len(self.least) and all(
            low <= size <= high for low, size, high in zip(self.least, shape, self.largest, strict=True)
        )

    def __str__(self) -> str:
        spelled = ["x".join(map(str, shape)) for shape in (self.least, self.usual, self.largest)]
        return f"{self.name} {spelled[0]}" if len(set(spelled)) == 1 else f"{self.name} {' / '.join(spelled)}"


def choose_profiles(inputs: Sequence[TensorSpec], options: ShapeOptions) -> tuple[Profile, ...]:
    """A profile for every input, given or derived.

    Raises:
        ParallelizeError: an unknown input, another rank, another fixed size, sizes that do not grow from the least over
            the usual to the largest, or one free dimension with two sizes.
    """
    known = [spec.name for spec in inputs]
    for shapes in (options.least, options.usual, options.largest):
        for name in shapes:
            if name not in known:
                raise ParallelizeError(
                    f"The model has no input {name!r} to give a shape to.", f"Its inputs are {', '.join(known)}."
                )
    sizes = _known_sizes(inputs, options)
    profiles = tuple(_profile(spec, options, sizes) for spec in inputs)
    for spec, profile in zip(inputs, profiles, strict=True):
        _check_given(spec, options)
        _check_growth(profile)
    _check_names(inputs, profiles)
    return profiles


def _known_sizes(inputs: Sequence[TensorSpec], options: ShapeOptions) -> tuple[dict[str, int], ...]:
    """Sizes of free dimensions by their names, for each of the three shapes.

    The given shapes of any input settle a name for all inputs; what they leave open is derived, by the axis on which
    the name stands first.
    """
    found: tuple[dict[str, int], ...] = ({}, {}, {})
    for spec in inputs:
        for sizes, shape in zip(found, _three(spec.name, options) or (), strict=False):
            for word, size in zip(spec.shape, shape, strict=False):
                if isinstance(word, str) and word.isidentifier():
                    sizes.setdefault(word, size)
    for axis, name in _names(inputs):
        for place, sizes in enumerate(found):
            sizes.setdefault(name, (BATCH if axis == 0 or name == "batch" else OTHER)[place])
    return found


def _names(inputs: Sequence[TensorSpec]) -> Iterator[tuple[int, str]]:
    """The names of all free dimensions, also those within expressions, with their axes; plain ones come first."""
    words = [(axis, word) for spec in inputs for axis, word in enumerate(spec.shape) if isinstance(word, str)]
    for axis, word in sorted(words, key=lambda entry: not entry[1].isidentifier()):
        for name in _NAME.findall(word):
            yield axis, name


def _three(name: str, options: ShapeOptions) -> tuple[Shape, Shape, Shape] | None:
    """The three shapes of an input of which at least one is given."""
    least, usual, largest = (shapes.get(name) for shapes in (options.least, options.usual, options.largest))
    middle = usual or largest or least
    return None if middle is None else (least or middle, middle, largest or middle)


def _profile(spec: TensorSpec, options: ShapeOptions, sizes: Sequence[Mapping[str, int]]) -> Profile:
    least, usual, largest = (spec.sizes(known) for known in sizes)
    return Profile(spec.name, *(_three(spec.name, options) or (least, usual, largest)))


def _check_given(spec: TensorSpec, options: ShapeOptions) -> None:
    """One input's given shapes against what the model says of it; derived ones fit it."""
    words = "x".join(map(str, spec.shape))
    for asked, shapes in (
        ("--min-shapes", options.least),
        ("--opt-shapes", options.usual),
        ("--max-shapes", options.largest),
    ):
        if (shape := shapes.get(spec.name)) is None:
            continue
        spelled = "x".join(map(str, shape))
        if len(shape) != len(spec.shape):
            raise ParallelizeError(
                f"{asked} {spec.name}:{spelled} has {len(shape)} sizes; the input is {words}.", _HINT
            )
        for axis, (word, size) in enumerate(zip(spec.shape, shape, strict=True)):
            if isinstance(word, int) and word != size:
                raise ParallelizeError(
                    f"{asked} {spec.name}:{spelled} has {size} on axis {axis}, where the model fixes {word}.",
                    f"The input is {words}; only words can be chosen.",
                )


def _check_growth(profile: Profile) -> None:
    """The three shapes of one input against each other."""
    for axis, (low, usual, high) in enumerate(zip(profile.least, profile.usual, profile.largest, strict=True)):
        if not 0 < low <= usual <= high:
            raise ParallelizeError(
                f"Axis {axis} of {profile.name!r} is {low}, {usual}, {high} in the least, usual and largest shape,"
                " which does not grow.",
                "Give --min-shapes, --opt-shapes and --max-shapes in this order of size.",
            )


def _check_names(inputs: Sequence[TensorSpec], profiles: Sequence[Profile]) -> None:
    """A free dimension that two inputs share has one size in each of the three; an expression has the size of its."""
    seen: dict[tuple[str, str], tuple[str, int]] = {}
    for spec, profile in zip(inputs, profiles, strict=True):
        for which, shape in _by_word(profile):
            for word, size in zip(spec.shape, shape, strict=True):
                if not isinstance(word, str) or not word.isidentifier():
                    continue
                other, first = seen.setdefault((word, which), (spec.name, size))
                if first != size:
                    raise ParallelizeError(
                        f"The {which} {word} is {first} for {other!r} and {size} for {spec.name!r}.",
                        "Inputs that share a free dimension need the same sizes there.",
                    )
    for spec, profile in zip(inputs, profiles, strict=True):
        for which, shape in _by_word(profile):
            known = {word: size for (word, place), (_, size) in seen.items() if place == which}
            _check_expressions(spec, which, shape, known)


def _check_expressions(spec: TensorSpec, which: str, shape: Shape, known: Mapping[str, int]) -> None:
    """Sizes of expressions of which every name is known."""
    for word, size, expected in zip(spec.shape, shape, spec.sizes(known), strict=True):
        if isinstance(word, int) or not known.keys() >= set(_NAME.findall(word)) or size == expected:
            continue
        names = ", ".join(f"{name} is {known[name]}" for name in dict.fromkeys(_NAME.findall(word)))
        raise ParallelizeError(
            f"The {which} {word} is {size} for {spec.name!r}, where {names}.", f"It must be {expected}."
        )


def _by_word(profile: Profile) -> tuple[tuple[str, Shape], ...]:
    return ("least", profile.least), ("usual", profile.usual), ("largest", profile.largest)
