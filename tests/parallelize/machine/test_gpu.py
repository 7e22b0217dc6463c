"""What there is of a GPU, and None for what there is not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from parallelize.machine import gpu
from parallelize.machine.gpu import cuda_version, driver_version, gpu_name

OPEN = """NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build  (dvs-builder)
GCC version:  gcc version 12.3.0 (Ubuntu 12.3.0-1ubuntu1)
"""
CLOSED = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.54  Tue Jun  6 22:20:39 UTC 2023"


@pytest.mark.parametrize(("text", "version"), [(OPEN, "580.159.04"), (CLOSED, "535.54"), ("no version", None)])
def test_the_version_of_the_driver_is_read_from_the_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, version: str | None
) -> None:
    monkeypatch.setattr(gpu, "_DRIVER", tmp_path / "version")
    assert driver_version() is None
    (tmp_path / "version").write_text(text)
    assert driver_version() == version


def test_name_and_cuda_are_those_of_torch() -> None:
    assert (gpu_name() is None) == (not torch.cuda.is_available())
    assert cuda_version() == torch.version.cuda
