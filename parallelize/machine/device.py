"""The device that a job runs on: decided here alone, and handed down with the program and its samples."""

from __future__ import annotations

import torch

from passes.errors import EnvironmentLackError, ParallelizeError

CPU = torch.device("cpu")
_SHARE = 0.25  # of the free memory of a device, which what only might be there may take


def choose_device(name: str | None, local: int | None = None) -> torch.device:
    """The device of that name, or else a GPU where there is one.

    Args:
        name: such as "cpu", "cuda" or "cuda:1"; None leaves it open.
        local: number of this process among several on its machine: where the name leaves open which GPU, each has its
            own.

    Raises:
        ParallelizeError: there is no such name.
        EnvironmentLackError: there is no such GPU.
    """
    if local is not None and name in (None, "cuda") and torch.cuda.is_available():
        return _own_gpu(local)
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


def described(device: torch.device) -> str:
    """The device as a reader of a report should know it: "cpu", or "cuda:0, NVIDIA H200"."""
    return str(device) if device.type != "cuda" else f"{device}, {torch.cuda.get_device_name(device)}"


def free_memory(device: torch.device) -> int | None:
    """Bytes that a job can still take on a GPU, with what torch holds there unused; None on the host, which swaps."""
    if device.type != "cuda":
        return None
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0]) + unused


def _own_gpu(local: int) -> torch.device:
    """The GPU of one of several processes of a machine."""
    count = torch.cuda.device_count()
    if local >= count:
        raise EnvironmentLackError(
            f"There is no GPU for process {local} of this machine, which has {count}.",
            "Start as many processes as there are GPUs, or name one that they share with --device cuda:0.",
        )
    return torch.device("cuda", local)


def has_room(device: torch.device, size: int, held: int = 0) -> bool:
    """Whether so many bytes, with those that are held there, take a small part of what would be free on a GPU.

    The host's memory is not asked.
    """
    free = free_memory(device)
    return free is None or size + held <= _SHARE * (free + held)
