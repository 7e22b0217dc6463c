"""Shapes of inputs as the docstring of a model of transformers tells them, for a hint of the right rank.

past_values (`torch.FloatTensor` of shape `(bs, sequence_length, num_input_channels)`)    ->    batchx32x2
"""

from __future__ import annotations

import re
from typing import Any

from torch import nn

_OTHER = 16
_USUAL = {"num_channels": 3, "channels": 1, "image_size": 224, "height": 224, "width": 224}
_FROM = {"sequence_length": "context_length", "height": "image_size", "width": "image_size"}
_DTYPES = {"Long": "@int64", "Int": "@int64", "Bool": "@bool"}


def documented(module: nn.Module, name: str, config: Any) -> str | None:
    """How an input is given to `--input`, batch and sizes: those of the config where it has them, else usual ones."""
    text = module.forward.__doc__ or ""
    found = re.search(rf"\b{name} \(`(?:torch\.)?(?P<kind>[A-Za-z]*)[^`]*` of shape `\((?P<shape>[^)]*)\)`", text)
    words = [word.strip().rpartition(".")[2] for word in found["shape"].split(",")] if found else []
    if found is None or len(words) < 2:
        return None
    dtype = next((dtype for start, dtype in _DTYPES.items() if found["kind"].startswith(start)), "")
    return "x".join(["batch", *(str(_size(word, config)) for word in words[1:] if word)]) + dtype


def _size(word: str, config: Any) -> int:
    if word.isdigit():
        return int(word)
    for name in (word, _FROM.get(word, word)):
        size = getattr(config, name, None)
        if isinstance(size, int):
            return size
    return _USUAL.get(word, _OTHER)
