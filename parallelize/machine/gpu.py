"""The GPU of this machine: its name, and the versions of CUDA and of its driver."""

from __future__ import annotations

import re
from pathlib import Path

_DRIVER = Path("/proc/driver/nvidia/version")


def gpu_name() -> str | None:
    """Such as "NVIDIA L4", or None where there is none."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def cuda_version() -> str | None:
    """Of the CUDA that PyTorch was built with; None for a build without."""
    import torch

    return torch.version.cuda


def driver_version() -> str | None:
    """Of the kernel's driver, such as "580.159.04"; None where there is none or it does not tell."""
    try:
        text = _DRIVER.read_text()
    except OSError:
        return None
    found = re.search(r"\b\d{3}\.\d+(\.\d+)?\b", text)
    return found[0] if found else None
