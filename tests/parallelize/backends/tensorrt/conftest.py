"""The double of `tensorrt` in the place of the library, on a machine that seems to have a GPU."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.parallelize.backends.tensorrt.double import make_double
from tests.parallelize.backends.tensorrt.strictness import Script

STREAM = 7


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """An L4 whose memory is that of the CPU."""
    empty = torch.empty

    def here(*sizes: Any, device: str = "cpu", **options: Any) -> torch.Tensor:
        assert device in ("cpu", "cuda")
        return empty(*sizes, **options)

    stream = SimpleNamespace(cuda_stream=STREAM, synchronize=lambda: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 9))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA L4")
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: stream)
    monkeypatch.setattr(torch.Tensor, "cuda", lambda tensor: tensor)
    monkeypatch.setattr(torch.Tensor, "is_cuda", property(lambda tensor: tensor.device.type == "cpu"))
    monkeypatch.setattr(torch, "empty", here)


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Script]:
    """A function that puts a double into the place of `tensorrt`, or of `tensorrt_rtx`, and returns its script."""

    def put(version: str = "10.12.0.36", *, rtx: bool = False, **script: Any) -> Script:
        made = Script(**script)
        module = make_double(made, version, rtx=rtx)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        return made

    return put
