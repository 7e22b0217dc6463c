"""Machines with and without a GPU and the TensorRT libraries, as these tests need them."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

BOTH = ("tensorrt", "tensorrt-rtx")
NO_GPU, ADA, HOPPER = None, "8.9", "9.0"


def stand_in(version: str, **names: Any) -> ModuleType:
    module = ModuleType("stand-in")
    flags = SimpleNamespace(STRONGLY_TYPED=1)
    vars(module).update(__version__=version, NetworkDefinitionCreationFlag=flags, **names)
    return module


def seem(monkeypatch: pytest.MonkeyPatch, capability: str | None, *installed: str) -> None:
    """A machine with a GPU of a compute capability, or none, and with these libraries."""
    members = dict.fromkeys(["NONE", "CURRENT", "SM120", "SM75", "SM89"], 0)
    modules = {
        "tensorrt": stand_in("10.12.0.36"),
        "tensorrt_rtx": stand_in("1.7.1.116", ComputeCapability=SimpleNamespace(__members__=members)),
    }
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module if name.replace("_", "-") in installed else None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: capability is not None)
    numbers = tuple(map(int, (capability or "0.0").split(".")))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: numbers)
