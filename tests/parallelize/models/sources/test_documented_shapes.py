"""The rank of an input is read off the docstring of `forward`, sizes off the config where it has them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from parallelize.models.sources.documented_shapes import documented


class Model(nn.Module):
    def forward(self) -> None:
        """Reads much.

        past_values (`torch.FloatTensor` of shape `(bs, sequence_length, num_input_channels)`):
            Steps.
        ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*):
            Numbers.
        seen (`torch.BoolTensor` of shape `(batch_size, config.patches)`):
            What is seen.
        images (`torch.FloatTensor` of shape `(batch_size, num_channels, height, width)`):
            Pixels.
        states (`torch.FloatTensor` of shape `(batch_size, 7, something_else,)`):
            States.
        weight (`torch.FloatTensor` of shape `(batch_size,)`, *optional*):
            One number for each sample.
        table (`torch.FloatTensor` of shape `(rows)`):
            No samples.
        """


@pytest.mark.parametrize(
    ("name", "config", "spelled"),
    [
        ("past_values", {"context_length": 32, "num_input_channels": 2}, "batchx32x2"),
        ("ids", {}, "batchx16@int64"),
        ("seen", {"patches": 9}, "batchx9@bool"),
        ("images", {}, "batchx3x224x224"),
        ("images", {"image_size": 32, "num_channels": 1}, "batchx1x32x32"),
        ("images", {"image_size": [24, 32]}, "batchx3x224x224"),
        ("states", {}, "batchx7x16"),
        ("weight", {}, "batch"),
        ("table", {}, None),
        ("values", {}, None),
    ],
)
def test_an_input_is_spelled_with_the_documented_rank(name: str, config: dict[str, Any], spelled: str | None) -> None:
    assert documented(Model(), name, SimpleNamespace(**config)) == spelled


def test_a_forward_without_words_tells_nothing() -> None:
    assert documented(nn.Linear(2, 2), "input", SimpleNamespace()) is None
