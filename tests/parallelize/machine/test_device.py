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


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with two GPUs, as far as it is asked."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.mark.parametrize("name", [None, "cuda"])
def test_each_process_of_a_machine_has_a_gpu_of_its_own_unless_one_is_named(two_gpus: None, name: str | None) -> None:
    assert [choose_device(name, local) for local in (0, 1)] == [torch.device("cuda:0"), torch.device("cuda:1")]
    assert choose_device("cuda:0", 1) == torch.device("cuda:0")
    assert choose_device("cpu", 1) == CPU
    with pytest.raises(EnvironmentLackError, match="There is no GPU for process 2 of this machine, which has 2"):
        choose_device(name, 2)


def test_without_a_gpu_each_process_runs_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device(None, 1) == CPU


def test_a_gpu_is_told_with_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"name of {device}")
    assert described(torch.device("cuda:1")) == "cuda:1, name of cuda:1"
    assert described(CPU) == "cpu"


def test_the_memory_of_the_host_is_not_asked() -> None:
    assert has_room(CPU, 2**60)
