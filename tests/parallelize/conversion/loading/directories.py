"""Directories as a conversion leaves them, without one: small networks that return each kind of container."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from parallelize.export.onnx import write_onnx
from parallelize.models.capture import capture
from parallelize.models.program import Program
from parallelize.models.returned import Container
from parallelize.models.saving import save_program
from tests.parallelize.conversion.small_result import result

KINDS: tuple[Container, ...] = ("tensor", "tuple", "dict")
WORDS = 11


class Words(nn.Module):
    """Token ids and their mask (batch, tokens) -> logits (batch, tokens, 3), alone, or beside their mean by the mask.

    It makes tensors out of nothing, on a device that is written into its graph.
    """

    def __init__(self, kind: Container) -> None:
        super().__init__()
        self.kind = kind
        self.embed, self.head = nn.Embedding(WORDS, 4), nn.Linear(4, 3)
        self.register_buffer("shift", torch.full((4,), 0.5), persistent=False)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        x = self.embed(input_ids) + self.shift + torch.arange(4) + torch.zeros(4, device=input_ids.device)
        logits = self.head(x)
        mean = (logits * attention_mask[..., None]).sum(1)
        if self.kind == "tensor":
            return logits * attention_mask[..., None]
        return {"logits": logits, "input_ids": mean} if self.kind == "dict" else (logits, mean)


@functools.cache
def module(kind: Container) -> Words:
    torch.manual_seed(0)
    return Words(kind).eval()


@functools.cache
def words(kind: Container) -> Program:
    ids = torch.zeros(2, 7, dtype=torch.int64)
    free = {0: "batch", 1: "tokens"}
    return capture(module(kind), (ids,), {"attention_mask": ids}, dynamic=[free, free], origin=f"words in a {kind}")


def given(count: int = 3, tokens: int = 5, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, WORDS, (count, tokens), generator=generator)
    return {"input_ids": ids, "attention_mask": (ids > 2).long()}


@functools.cache
def _files(kind: Container) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as name:
        save_program(words(kind), Path(name) / "model.pt2")
        write_onnx(words(kind), Path(name) / "model.onnx")
        return {path.name: path.read_bytes() for path in Path(name).iterdir()}


def write(directory: Path, kind: Container = "dict") -> Path:
    """A directory with model.pt2, model.onnx and the report of some conversion."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in _files(kind).items():
        (directory / name).write_bytes(content)
    (directory / "report.json").write_text(result(model="words").to_json())
    return directory


def same(found: Any, expected: Any) -> bool:
    """Whether two results are alike in container, names and numbers."""
    if isinstance(expected, Tensor):
        return isinstance(found, Tensor) and torch.allclose(found.detach(), expected.detach(), atol=1e-5)
    if isinstance(expected, dict):
        return (
            isinstance(found, dict)
            and list(found) == list(expected)
            and same((*found.values(),), (*expected.values(),))
        )
    return type(found) is tuple and len(found) == len(expected) and all(map(same, found, expected))


def arrays(values: dict[str, Tensor]) -> dict[str, np.ndarray[Any, Any]]:
    return {name: value.numpy() for name, value in values.items()}
