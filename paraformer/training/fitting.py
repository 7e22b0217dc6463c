"""Whether a model and a data set fit: kind, shape of a sample, classes, vocabulary; and the sizes that fit.

Refused, each with a sentence of its own:

    1. images for a model of tokens, or texts for one of images
    2. images of another shape, texts of more tokens than the model has places for
    3. more classes than the model tells apart
    4. words that are not those that the weights were trained on, or more than there are embeddings for
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from paraformer.config import ParaFormerConfig, TokenConfig, VisionConfig
from paraformer.data.labelled import Dataset
from paraformer.errors import TrainingError


def config_for(data: Dataset, sizes: Mapping[str, Any]) -> ParaFormerConfig:
    """The sizes that the data asks for and those that are wanted, which come first.

    Raises:
        TrainingError: sizes that do not fit each other, or that this kind of model has not.
    """
    kind = TokenConfig if data.is_text else VisionConfig
    strange = next((name for name in sizes if name not in {field.name for field in fields(kind)}), None)
    if strange is not None:
        raise TrainingError(
            f"{data.name} holds {_samples(data)}, and a model of {_samples(data)} has no {strange}.",
            f"Leave --{strange.replace('_', '-')} out.",
        )
    known = _of_texts(data) if data.is_text else _of_images(data)
    try:
        return kind(**{"classes": len(data.classes), **known, **sizes})
    except ValueError as error:
        raise TrainingError(f"The model cannot be trained: {error}.", "See `parallelize train --help`.") from error


def _of_texts(data: Dataset) -> dict[str, Any]:
    return {"vocabulary": len(data.words), "length": data.sample_shape[0]}


def _of_images(data: Dataset) -> dict[str, Any]:
    channels, side, _ = data.sample_shape
    pixels = data.train.inputs[0].float()
    mean, std = round(float(pixels.mean()), 2), round(float(pixels.std()), 2)
    return {"channels": channels, "image_size": side, "pixel_mean": mean, "pixel_std": std or 1.0}


def check_fits(config: ParaFormerConfig, words: Sequence[str], data: Dataset, model: str = "The model") -> None:
    """Refuse a model that the data does not fit.

    Args:
        config: of the model.
        words: its vocabulary; empty where it knows none yet.
        data: to learn from.
        model: the model as people know it, at the beginning of a sentence.

    Raises:
        TrainingError: see above.
    """
    reads = isinstance(config, TokenConfig)
    if reads != data.is_text:
        kinds = ("images", "texts")
        raise TrainingError(
            f"{model} reads {kinds[reads]}, and {data.name} holds {_samples(data)}.",
            "Name other --data, or another checkpoint.",
        )
    given, most = data.sample_shape, config.input_shape
    if given != most and not (reads and given <= most):
        shapes = ["x".join(map(str, shape)) for shape in (most, given)]
        raise TrainingError(
            f"{model} reads samples of {shapes[0]}, and those of {data.name} are {shapes[1]}.",
            "Bring them to one shape with --image-size or --length, or name other --data.",
        )
    if isinstance(config, TokenConfig):
        _check_words(config, words, data, model)
    if len(data.classes) > config.classes and not (isinstance(config, TokenConfig) and config.causal):
        raise TrainingError(
            f"{model} tells {config.classes} classes apart, and {data.name} has {len(data.classes)}.",
            "Name data with labels that fit, or train a model of as many classes from new weights.",
        )


def _check_words(config: TokenConfig, words: Sequence[str], data: Dataset, model: str) -> None:
    if words and list(words) != list(data.words):
        raise TrainingError(
            f"{model} was trained on {len(words)} other words than the {len(data.words)} of {data.name}.",
            "Name the texts that it was trained on, or begin with new weights.",
        )
    if len(data.words) > config.vocabulary:
        raise TrainingError(
            f"{model} has a vocabulary of {config.vocabulary}, and {data.name} has {len(data.words)} words.",
            "Name other --data, or begin with new weights.",
        )


def _samples(data: Dataset) -> str:
    return "texts" if data.is_text else "images"
