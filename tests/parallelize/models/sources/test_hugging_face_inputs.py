"""What a model reads is told by its config, its forward and its preprocessor, and data overrides."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from parallelize.data import InputSpec
from parallelize.models.sources.hugging_face_inputs import input_specs
from passes.errors import ParallelizeError


class Model(nn.Module):
    """Reads `main_input_name` and whatever else its forward names."""

    def __init__(self, main: str, forward: Callable[..., Any], **traits: Any) -> None:
        super().__init__()
        self.main_input_name, self.forward = main, forward
        self.__dict__.update(traits)


def shapes(module: nn.Module, directory: Path, arrays: dict[Any, Any] | None = None, **config: Any) -> dict[Any, Any]:
    specs = input_specs(module, SimpleNamespace(**config), directory, arrays or {})
    return {spec.name: spec.shape for spec in specs}


TEXT = Model("input_ids", lambda input_ids=None, attention_mask=None, token_type_ids=None, labels=None: None)
PIXELS = Model("pixel_values", lambda pixel_values=None, labels=None: None)
SOUND = Model("input_values", lambda input_values=None: None)
FEATURES = Model("input_features", lambda input_features=None: None)


def test_a_text_model_reads_tokens_and_their_mask_and_both_have_free_tokens(tmp_path: Path) -> None:
    specs = input_specs(TEXT, SimpleNamespace(), tmp_path, {})
    assert specs == tuple(InputSpec(n, ("batch", "tokens"), torch.int64) for n in ("input_ids", "attention_mask"))


def test_a_decoder_beside_an_encoder_and_images_beside_text_are_read_too(tmp_path: Path) -> None:
    both = Model("input_ids", lambda input_ids, decoder_input_ids=None: None)
    assert shapes(both, tmp_path, is_encoder_decoder=True) == {
        "input_ids": ("batch", "tokens"),
        "decoder_input_ids": ("batch", "decoder_tokens"),
    }
    seeing = Model("input_ids", lambda input_ids=None, pixel_values=None: None, input_modalities=("image", "text"))
    assert shapes(seeing, tmp_path, vision_config=SimpleNamespace(image_size=32))["pixel_values"] == (
        ("batch", 3, 32, 32)
    )


@pytest.mark.parametrize(
    ("config", "preprocessor", "shape"),
    [
        ({"image_size": 32}, {}, (3, 32, 32)),
        ({"image_size": [24, 32], "num_channels": 1}, {"size": 64}, (1, 24, 32)),
        ({}, {"size": {"height": 24, "width": 32}}, (3, 24, 32)),
        ({}, {"size": {"shortest_edge": 96}, "crop_size": 64}, (3, 64, 64)),
        ({"vision_config": SimpleNamespace(image_size=16, num_channels=4)}, {}, (4, 16, 16)),
        ({"image_size": 32, "num_frames": 4}, {}, (4, 3, 32, 32)),
    ],
)
def test_sizes_of_images_are_the_configs_else_the_preprocessors(
    tmp_path: Path, config: dict[str, Any], preprocessor: dict[str, Any], shape: tuple[int, ...]
) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    assert shapes(PIXELS, tmp_path, **config) == {"pixel_values": ("batch", *shape)}


@pytest.mark.parametrize(
    ("module", "config", "shape"),
    [
        (SOUND, {}, ("batch", 16_000)),
        (SOUND, {"num_mel_bins": 32, "max_length": 64}, ("batch", 64, 32)),
        (FEATURES, {"num_mel_bins": 20, "max_source_positions": 50}, ("batch", 20, 100)),
        (FEATURES, {"feature_projection_input_dim": 12}, ("batch", "frames", 12)),
        (FEATURES, {"input_feat_per_channel": 40}, ("batch", "frames", 40)),
        (
            Model("past_values", lambda past_values: None),
            {"context_length": 8, "num_input_channels": 2},
            ("batch", 8, 2),
        ),
    ],
)
def test_sound_and_series_have_the_sizes_of_the_config(
    tmp_path: Path, module: nn.Module, config: dict[str, Any], shape: tuple[int | str, ...]
) -> None:
    assert list(shapes(module, tmp_path, **config).values()) == [shape]


def test_the_preprocessor_tells_the_sampling_rate_and_one_that_cannot_be_read_tells_nothing(tmp_path: Path) -> None:
    file = tmp_path / "preprocessor_config.json"
    for text, samples in {'{"sampling_rate": 8000}': 8000, "{": 16_000, "[]": 16_000}.items():
        file.write_text(text)
        assert shapes(SOUND, tmp_path) == {"input_values": ("batch", samples)}


@pytest.mark.parametrize(
    ("module", "name", "example"),
    [
        (PIXELS, "pixel_values", "batchx3x224x224"),
        (FEATURES, "input_features", "batchx80x3000"),
        (Model("past_values", lambda past_values: None), "past_values", "batchx16"),
        (Model("states", lambda states: None), "states", "batchx16"),
    ],
)
def test_a_shape_that_nothing_tells_is_asked_for_with_one_of_its_rank(
    tmp_path: Path, module: nn.Module, name: str, example: str
) -> None:
    with pytest.raises(ParallelizeError) as caught:
        shapes(module, tmp_path, context_length=8, num_mel_bins=20)
    assert str(caught.value) == f"The config of {tmp_path} does not tell the shape of the input {name!r}."
    assert caught.value.hint == f"Give it with --input {name}:{example}, or data with --inputs."


def test_data_chooses_what_is_read_and_labels_are_not(tmp_path: Path) -> None:
    ids = np.ones((5, 9), np.uint8)
    arrays = {"token_type_ids": ids, "input_ids": ids, "labels": np.zeros(5), "other": ids}
    specs = input_specs(TEXT, SimpleNamespace(), tmp_path, arrays)
    assert [(spec.name, spec.shape, spec.dtype) for spec in specs] == [
        (name, ("batch", "tokens"), torch.int64) for name in ("input_ids", "token_type_ids")
    ]
    assert shapes(TEXT, tmp_path, {"": ids}) == {"input_ids": ("batch", "tokens")}


def test_data_of_another_size_or_rank_overrides_the_config_and_pixels_are_floats(tmp_path: Path) -> None:
    arrays = {"pixel_values": np.zeros((2, 3, 64, 48), np.uint8)}
    (spec,) = input_specs(PIXELS, SimpleNamespace(image_size=32), tmp_path, arrays)
    assert spec == InputSpec("pixel_values", ("batch", 3, 64, 48), torch.float32)
    for size in ((50, 8), (16_000, 8)):
        assert shapes(SOUND, tmp_path, {"input_values": np.zeros((2, *size))}) == {"input_values": ("batch", *size)}


def test_axes_that_the_config_leaves_free_stay_free_where_the_data_fits_the_rest(tmp_path: Path) -> None:
    for width, shape in ((12, ("batch", "frames", 12)), (13, ("batch", 9, 13))):
        arrays = {"input_features": np.zeros((2, 9, width))}
        assert shapes(FEATURES, tmp_path, arrays, input_feat_per_channel=12) == {"input_features": shape}


@pytest.mark.parametrize("array", [np.array("text"), np.array(["a"]), np.float32(1)])
def test_arrays_that_hold_no_samples_are_refused(tmp_path: Path, array: Any) -> None:
    with pytest.raises(ParallelizeError, match=r"^The array 'input_ids' is no array of samples\.$"):
        shapes(TEXT, tmp_path, {"input_ids": array})
