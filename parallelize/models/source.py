"""A model and its data as a user names them.

Imports no torch, because the command line makes its options of the fields.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from parallelize.terminal.option_field import Spelling, argument, option
from passes.errors import ParallelizeError

if TYPE_CHECKING:
    from torch import nn
    from typing_extensions import Unpack

    from parallelize.data import HeldArrays, InputSpec
    from parallelize.models.program import Program

    Model = str | os.PathLike[str] | nn.Module | Program
    Inputs = str | os.PathLike[str] | Mapping[str, Any] | Iterable[Any] | HeldArrays

FILE = Spelling(Path | None)


def _specs(texts: Iterable[str] | None) -> tuple[InputSpec, ...]:
    from parallelize.data import parse_inputs

    return parse_inputs(texts)


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """How to load a model.

    Attributes:
        weights: state dict for a `module:factory` reference or timm:NAME.
        weights_key: the key under which `weights` holds them, where several would fit.
        input_specs: shapes of the inputs of a `module:factory` reference.
        allow_pickle: load a pickled module, which runs code from the file.
    """

    weights: str | os.PathLike[str] | None = option(
        None,
        "State dict or training checkpoint (.pt, .safetensors, an index of shards or a directory of them) for a factory"
        " or timm:NAME.",
        metavar="FILE",
        spelling=FILE,
    )
    weights_key: str | None = option(
        None,
        "Where in the checkpoint the weights are, such as ema.state_dict, where several would fit.",
        metavar="KEY",
    )
    input_specs: tuple[InputSpec, ...] = option(
        (),
        "Shape of an input, such as 1x3x224x224 or ids:batchx128@int64; a word is a dynamic dimension.",
        metavar="[NAME:]SHAPE[@DTYPE]",
        name="--input",
        spelling=Spelling(list[str] | None, read=_specs),
    )
    allow_pickle: bool = option(False, "Load a pickled module; that runs code in the file.")


class DataBeside(TypedDict, total=False):
    """What a `Source` holds beside the model and the inputs, as keywords."""

    test_inputs: Inputs | None
    labels: str | None
    mask: str | None
    example: tuple[Any, ...] | None
    weights: str | os.PathLike[str] | None
    input_specs: tuple[InputSpec, ...]
    allow_pickle: bool
    weights_key: str | None


class Data(DataBeside, total=False):
    """What a `Source` holds beside the model, as keywords."""

    inputs: Inputs | None


@dataclass(frozen=True)
class Source(LoadOptions):
    """A model and its data.

    Attributes:
        model: a reference as on the command line, a captured program, or a module in eval mode with `example` or
            `inputs`.
        inputs: calibration samples: .npz with one array for each input of the model, first axis samples, or such arrays
            in memory, batches of them, a DataLoader or a dataset (see `parallelize.data.held`).
        test_inputs: samples to judge on, given as `inputs`; without it a fifth of `inputs` is kept apart for that.
        labels: name of the array of class labels in the .npz that judges.
        mask: name of the input that is 0 at padding; `attention_mask` is found by itself.
        example: example inputs of a module.
    """

    model: Model = argument(
        "A .pt2, a Para-Former checkpoint .pt, a Hugging Face directory, timm:NAME, package.module:factory,"
        " file.py:factory, or a pickled .pt.",
        metavar="MODEL",
        spelling=Spelling(str),
    )
    inputs: Inputs | None = option(
        None,
        "Calibration data: .npz, one array for each input, first axis samples.",
        metavar="FILE",
        spelling=FILE,
    )
    test_inputs: Inputs | None = option(
        None, ".npz to judge on; without it a fifth of --inputs is kept for that.", metavar="FILE", spelling=FILE
    )
    labels: str | None = option(None, "Array of class labels in the .npz that judges, for top-1.", metavar="NAME")
    mask: str | None = option(
        None,
        "Input that is 0 at padding, which then counts in no metric (default: attention_mask).",
        metavar="NAME",
    )
    example: tuple[Any, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("inputs", "test_inputs"):
            given = getattr(self, name)
            if given is not None and not isinstance(given, str | os.PathLike):
                from parallelize.data import stored

                object.__setattr__(self, name, stored(given))  # once: batches may come in another order each time

    @staticmethod
    def of(model: Model | Source, **data: Unpack[Data]) -> Source:
        """A model with its data as keywords, or a source as it is.

        Raises:
            ParallelizeError: a source, and data beside it.
        """
        if not isinstance(model, Source):
            return Source(model, **data)
        if data:
            raise ParallelizeError(
                f"A Source names its data itself, but {', '.join(data)} was given beside it.", "Put it into the Source."
            )
        return model
