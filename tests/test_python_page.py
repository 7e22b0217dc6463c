"""The page on Python says what runs: its blocks, one after another."""

from __future__ import annotations

import re
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.backends import registry

PAGE = Path(__file__).parents[1] / "docs" / "python.md"


def test_every_block_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch._dynamo.list_backends()
    entry = EntryPoint("parallelize", "parallelize.conversion.dynamo:backend", "torch_dynamo_backends")
    monkeypatch.setitem(registry._BACKENDS, "parallelize", entry)
    torch.manual_seed(0)
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 4
    names: dict[str, Any] = {"__name__": "page"}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    torch._dynamo.reset()
