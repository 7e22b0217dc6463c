"""A checkpoint of the paraformer package as a model: its config tells what it reads.

    images    (batch, channels, height, width) of floats
    tokens    input_ids, attention_mask (batch, tokens) of int64; tokens is free where sequences are long enough to vary

Of the inputs of tokens those are read that the data has arrays for, where there is data.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from paraformer import checkpoint
from paraformer.config import ParaFormerConfig, TokenConfig
from paraformer.errors import ParaFormerError
from parallelize.data import Array, InputSpec
from parallelize.data.tensor_spec import OTHER_SIZE
from parallelize.models.program import Program
from parallelize.models.source import LoadOptions
from parallelize.models.sources.shapes import capture_specs
from passes.errors import ParallelizeError

_TOKEN_INPUTS = ("input_ids", "attention_mask")


def capture_checkpoint(
    value: dict[str, Any], reference: str, options: LoadOptions, samples: Mapping[str, Array]
) -> Program:
    """Build the model of a checkpoint that was read, and capture it.

    Raises:
        ParallelizeError: a checkpoint of another version, a damaged one, or inputs that the model does not know.
    """
    try:
        model = checkpoint.from_dict(value, reference).build()
    except ParaFormerError as error:
        raise ParallelizeError(str(error), error.hint) from error
    specs = options.input_specs or _specs(model.config, samples)
    return capture_specs(model, specs, reference, samples)


def _specs(config: ParaFormerConfig, samples: Mapping[str, Array]) -> tuple[InputSpec, ...]:
    if not isinstance(config, TokenConfig):
        return (InputSpec(None, ("batch", *config.input_shape)),)
    given = [name for name in _TOKEN_INPUTS if name in samples]
    if samples and _TOKEN_INPUTS[0] not in given:
        given = [_TOKEN_INPUTS[0]]  # one array without a name, or a refusal where the data is matched to the inputs
    tokens = "tokens" if config.length >= OTHER_SIZE else config.length
    return tuple(InputSpec(name, ("batch", tokens), torch.int64) for name in given or _TOKEN_INPUTS)
