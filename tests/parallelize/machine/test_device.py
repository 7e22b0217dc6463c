"""The device that a word names."""

from __future__ import annotations

import pytest
import torch

from parallelize.machine.device import CPU, choose_device, described, has_room
from passes.errors import EnvironmentLackError, ParallelizeError


def test_devices_that_do_not_exist_are_refused() -> None:
    with pytest.raises(ParallelizeError, match="'toaster' names no device"):
        choose_device("toaster")
    with pytest.raises(ParallelizeError, match="'meta' is neither the CPU nor a CUDA GPU"):
        choose_device("meta")
    with pytest.raises(EnvironmentLackError, match="no GPU cuda:99"):
        choose_device("cuda:99")
    assert choose_device("cpu") == torch.device("cpu")


def test_a_gpu_is_told_with_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"name of {device}")
    assert described(torch.device("cuda:1")) == "cuda:1, name of cuda:1"
    assert described(CPU) == "cpu"


def test_the_memory_of_the_host_is_not_asked() -> None:
    assert has_room(CPU, 2**60)
