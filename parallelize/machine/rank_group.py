"""The process group in which ranks compute a network together, beside the one in which they keep in touch.

NCCL where they are on GPUs, gloo on CPUs. Who is gone is noticed by the pulse within seconds, so a collective waits for
as long as a slow rank takes.
"""

from __future__ import annotations

from datetime import timedelta

import torch

PATIENCE = timedelta(days=1)


def rank_group(device: torch.device) -> str:
    """The name of a new group of all ranks; each of them calls this at the same point.

    Args:
        device: where this rank computes.
    """
    from torch import distributed

    group = distributed.new_group(backend="nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    return str(group.group_name)
