"""Sizes that data asks for, and models that it does not fit."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from paraformer.config import TokenConfig, VisionConfig
from paraformer.data.labelled import Dataset, Labelled
from paraformer.errors import TrainingError
from paraformer.training.fitting import check_fits, config_for
from tests.paraformer.training.striped import CONFIG, DATA, TRAIN

IDS = torch.ones(4, 6, dtype=torch.int64)
TEXTS = Labelled((IDS, IDS), torch.tensor([0, 1, 0, 1]))
WORDS = ("[PAD]", "[UNK]", "good", "bad")
REVIEWS = Dataset("reviews", TEXTS, TEXTS, ("no", "yes"), WORDS)
TOKENS = TokenConfig(depth=2, width=16, heads=2, hidden=32, classes=2, vocabulary=4, length=6)


def test_the_data_tells_what_is_not_asked_for() -> None:
    config = config_for(DATA, {"width": 32})
    assert isinstance(config, VisionConfig)
    assert (config.width, config.image_size, config.channels, config.classes) == (32, 8, 1, 2)
    assert config.pixel_mean == pytest.approx(float(TRAIN.inputs[0].float().mean()), abs=0.01)
    texts = config_for(REVIEWS, {"depth": 3})
    assert isinstance(texts, TokenConfig)
    assert (texts.depth, texts.vocabulary, texts.length, texts.classes) == (3, 4, 6, 2)


def test_images_of_one_grey_have_a_spread_of_one() -> None:
    grey = Labelled((torch.full((2, 1, 8, 8), 7, dtype=torch.uint8),), torch.tensor([0, 1]))
    config = config_for(replace(DATA, train=grey, test=grey), {})
    assert isinstance(config, VisionConfig)
    assert (config.pixel_mean, config.pixel_std) == (7.0, 1.0)


def test_what_fits_is_taken() -> None:
    check_fits(CONFIG, (), DATA)
    check_fits(replace(CONFIG, classes=5), (), DATA)
    check_fits(TOKENS, WORDS, REVIEWS)
    check_fits(replace(TOKENS, length=9, vocabulary=7), (), REVIEWS)


@pytest.mark.parametrize(
    ("config", "words", "data", "message"),
    [
        (CONFIG, (), REVIEWS, r"reads images, and reviews holds texts\."),
        (TOKENS, (), DATA, r"reads texts, and stripes holds images\."),
        (replace(CONFIG, image_size=12), (), DATA, r"reads samples of 1x12x12, and those of stripes are 1x8x8\."),
        (replace(TOKENS, length=5), (), REVIEWS, r"reads samples of 5, and those of reviews are 6\."),
        (replace(CONFIG, classes=1), (), DATA, r"tells 1 classes apart, and stripes has 2\."),
        (TOKENS, (*WORDS, "ugly"), REVIEWS, r"was trained on 5 other words than the 4 of reviews\."),
        (replace(TOKENS, vocabulary=3), (), REVIEWS, r"has a vocabulary of 3, and reviews has 4 words\."),
    ],
)
def test_what_does_not_fit_is_told_with_a_hint(
    config: VisionConfig | TokenConfig, words: tuple[str, ...], data: Dataset, message: str
) -> None:
    with pytest.raises(TrainingError, match=f"^The model {message}$") as caught:
        check_fits(config, words, data)
    assert caught.value.hint


def test_a_size_that_the_kind_of_model_has_not_is_refused() -> None:
    with pytest.raises(TrainingError, match=r"^stripes holds images, and a model of images has no task\.$") as caught:
        config_for(DATA, {"task": "classify"})
    assert caught.value.hint == "Leave --task out."
