"""What a Hugging Face model reads, told by its config, its `forward` and the data.

    input_ids, attention_mask    (batch, tokens)                     of int64; tokens is free
    decoder_input_ids            (batch, decoder_tokens)             of int64, where the model has a decoder beside it
    pixel_values                 (batch, channels, height, width)    sizes from the config, else from the preprocessor's
                                                                     (of a video: frames before the channels)
    input_values                 (batch, samples)                    one second of sound, or (batch, frames, mel bins)
    input_features               (batch, mel bins, frames)           or (batch, frames, features) with frames free
    past_values                  (batch, steps, channels)            of time series that are read channel by channel

Data overrides: an input that it has no array for is not read, and one that `forward` knows besides is.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from parallelize.data import UNNAMED, Array, InputSpec
from parallelize.models.sources.documented_shapes import documented
from parallelize.models.sources.shapes import forward_parameters
from passes.errors import ParallelizeError

_SAMPLING_RATE = 16_000  # samples in a second where no preprocessor says another number
_PREPROCESSOR = "preprocessor_config.json"
_EXAMPLES = {"pixel_values": "3x224x224", "input_features": "80x3000"}


def input_specs(module: nn.Module, config: Any, directory: Path, samples: Mapping[str, Array]) -> tuple[InputSpec, ...]:
    """The inputs of a model of transformers, each by its name.

    Raises:
        ParallelizeError: neither the config nor the data tells the shape of an input.
    """
    main = str(getattr(module, "main_input_name", "input_ids"))
    arrays = {main: samples[UNNAMED]} if set(samples) == {UNNAMED} else samples
    if main in arrays:
        return _told_by_data(module, main, config, directory, arrays)
    names = _names(module, main, config)
    specs = [_told_by_config(name, config, directory) for name in names]
    unknown = next((name for name, spec in zip(names, specs, strict=True) if spec is None), None)
    if unknown is not None:
        raise ParallelizeError(
            f"The config of {directory} does not tell the shape of the input {unknown!r}.",
            f"Give it with --input {unknown}:{_example(module, unknown, config)}, or data with --inputs.",
        )
    return tuple(spec for spec in specs if spec is not None)


def _example(module: nn.Module, name: str, config: Any) -> str:
    """A shape of the input's rank."""
    return f"batchx{_EXAMPLES[name]}" if name in _EXAMPLES else documented(module, name, config) or "batchx16"


def _names(module: nn.Module, main: str, config: Any) -> list[str]:
    """The main input and those that the model cannot do without, or would guess."""
    known = forward_parameters(module)
    names = [main]
    if main == "input_ids":
        names.append("attention_mask")
    if "image" in getattr(module, "input_modalities", ()):
        names.append("pixel_values")
    if getattr(config, "is_encoder_decoder", False):
        names.append("decoder_input_ids")
    needed = [name for name, parameter in known.items() if parameter.default is inspect.Parameter.empty]
    return [name for name in dict.fromkeys((*names, *needed)) if name in known]


def _told_by_data(
    module: nn.Module, main: str, config: Any, directory: Path, arrays: Mapping[str, Array]
) -> tuple[InputSpec, ...]:
    """The inputs that the data has arrays for; axes that the config leaves free stay free."""
    names = [name for name in forward_parameters(module) if name in arrays and not _is_label(name)]
    first = _fitted(main, arrays[main], _told_by_config(main, config, directory))
    specs = []
    for name in names:
        alike = first if arrays[name].shape == arrays[main].shape else None
        specs.append(_fitted(name, arrays[name], _told_by_config(name, config, directory) or alike))
    return tuple(specs)


def _is_label(name: str) -> bool:
    """Whether it is for a loss; transformers tells labels by these words, too."""
    return "label" in name or name in ("start_positions", "end_positions")


def _fitted(name: str, array: Array, told: InputSpec | None) -> InputSpec:
    """An array's spec; axes are as free as the config says where the array fits what it says."""
    if array.ndim == 0 or array.dtype.kind not in "fiub":
        raise ParallelizeError(f"The array {name!r} is no array of samples.", "Save numbers, first axis samples.")
    dtype = torch.float32 if array.dtype.kind == "f" or name in _FLOATS else torch.int64
    if told is None or len(told.shape) != array.ndim:
        return InputSpec(name, ("batch", *array.shape[1:]), dtype)
    fits = all(isinstance(want, str) or want == have for want, have in zip(told.shape, array.shape, strict=True))
    return InputSpec(name, told.shape if fits else ("batch", *array.shape[1:]), dtype)


def _told_by_config(name: str, config: Any, directory: Path) -> InputSpec | None:
    if name in ("input_ids", "attention_mask"):
        return InputSpec(name, ("batch", "tokens"), torch.int64)
    if name == "decoder_input_ids":
        return InputSpec(name, ("batch", "decoder_tokens"), torch.int64)
    shape = _FLOATS[name](config, directory) if name in _FLOATS else None
    return None if shape is None else InputSpec(name, ("batch", *shape))


def _pixels(config: Any, directory: Path) -> tuple[int, ...] | None:
    """(channels, height, width), of a video (frames, channels, height, width)."""
    vision = getattr(config, "vision_config", config)
    written = _preprocessor(directory)
    size = getattr(vision, "image_size", None) or written.get("crop_size") or written.get("size")
    if isinstance(size, dict):
        side = size.get("shortest_edge")
        size = (size.get("height", side), size.get("width", side))
    height, width = size if isinstance(size, list | tuple) and len(size) == 2 else (size, size)
    if not isinstance(height, int) or not isinstance(width, int):
        return None
    frames = getattr(vision, "num_frames", None)
    channels = int(getattr(vision, "num_channels", 3))
    return (frames, channels, height, width) if isinstance(frames, int) else (channels, height, width)


def _sound(config: Any, directory: Path) -> tuple[int, ...]:
    """(samples,), or (frames, mel bins) where the model reads a spectrogram as it does an image."""
    bins, frames = getattr(config, "num_mel_bins", None), getattr(config, "max_length", None)
    if isinstance(bins, int) and isinstance(frames, int):
        return (frames, bins)
    rate = _preprocessor(directory).get("sampling_rate")
    return (rate if isinstance(rate, int) else _SAMPLING_RATE,)


def _features(config: Any, _directory: Path) -> tuple[int | str, ...] | None:
    """(mel bins, frames) of a Whisper, which halves the frames; else (frames, features)."""
    bins, positions = getattr(config, "num_mel_bins", None), getattr(config, "max_source_positions", None)
    if isinstance(bins, int) and isinstance(positions, int):
        return (bins, 2 * positions)
    for name in ("feature_projection_input_dim", "input_feat_per_channel"):
        if isinstance(getattr(config, name, None), int):
            return ("frames", int(getattr(config, name)))
    return None


def _series(config: Any, _directory: Path) -> tuple[int, ...] | None:
    """(steps, channels)."""
    steps, channels = getattr(config, "context_length", None), getattr(config, "num_input_channels", None)
    return (steps, channels) if isinstance(steps, int) and isinstance(channels, int) else None


def _preprocessor(directory: Path) -> dict[str, Any]:
    """What the model's preprocessor was saved with; nothing where there is none that can be read."""
    try:
        written = json.loads((directory / _PREPROCESSOR).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return written if isinstance(written, dict) else {}


_FLOATS: dict[str, Callable[[Any, Path], tuple[int | str, ...] | None]] = {
    "pixel_values": _pixels,
    "input_values": _sound,
    "input_features": _features,
    "past_values": _series,
}
