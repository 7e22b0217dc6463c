"""The device that networks are run or trained on."""

from __future__ import annotations

import torch

from passes.errors import EnvironmentLackError, ParallelizeError


def choose_device(name: str | None) -> torch.device:
    """The device of that name, or else a GPU where there is one.

    Raises:
        ParallelizeError: there is no such name.
        EnvironmentLackError: there is no such GPU.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ParallelizeError(f"{name!r} names no device.", "Use cpu, cuda or cuda:N.") from None
    if device.type not in ("cpu", "cuda"):
        raise ParallelizeError(f"{name!r} is neither the CPU nor a CUDA GPU.", "Use cpu, cuda or cuda:N.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise EnvironmentLackError(f"There is no GPU {name}.", "Leave out --device, or use --device cpu.")
    return device
