"""The device that a job runs on: decided here alone, and handed down with the program and its samples."""

from __future__ import annotations

import torch

from passes.errors import EnvironmentLackError, ParallelizeError

CPU = torch.device("cpu")
_SHARE = 0.25  # of the free memory of a device, which what only might be there may take


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


def has_room(device: torch.device, size: int) -> bool:
    """Whether so many bytes take a small part of what is free on a GPU; the host's memory is not asked."""
    return device.type != "cuda" or size <= _SHARE * torch.cuda.mem_get_info(device)[0]
