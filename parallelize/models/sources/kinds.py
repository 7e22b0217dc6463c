"""A kind of model reference: how it is spelled, what it matches, how it loads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from parallelize.data import Array
from parallelize.models.program import Program
from parallelize.models.source import LoadOptions
from passes.errors import ParallelizeError

Loader = Callable[[str, LoadOptions, Mapping[str, Array]], Program]


@dataclass(frozen=True)
class Kind:
    """One kind of model reference.

    Attributes:
        spelling: how a user writes it.
        matches: whether a reference is of this kind; the first kind that says so loads it.
        load: gives the program, or raises ParallelizeError.
        place: kinds of smaller numbers are asked first; what is told apart by more has the smaller one.
    """

    spelling: str
    matches: Callable[[str], bool]
    load: Loader
    place: int


def has_suffix(*suffixes: str) -> Callable[[str], bool]:
    """Matches files by the end of their names."""
    return lambda reference: Path(reference).suffix in suffixes


def refuse_extras(reference: str, options: LoadOptions, *, inputs: bool) -> None:
    """Options that a reference which knows better has no use for are an error."""
    if options.weights is not None:
        raise ParallelizeError(
            f"{reference} has weights of its own.", "Leave out --weights, or name a module:factory to load them into."
        )
    if inputs and options.input_specs:
        raise ParallelizeError(f"{reference} states the shapes of its inputs.", "Leave out --input.")
