"""What a run depends on, as one hash: a run may go on from what another one left if their identities are equal.

Two models of equal weights may differ in their graphs, and equal arrays in what is padding, so these are in it too.
Which of several GPUs a graph is on is not: each rank has its own.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, fx

from parallelize.data import Samples


def run_identity(teacher: fx.GraphModule, parts: Iterable[Samples], options: str) -> str:
    """SHA-256 over a model, its data and the options of the run."""
    graph = re.sub(r"\bcuda:\d+\b", "cuda", str(teacher.graph))
    digest = hashlib.sha256(json.dumps([options, graph]).encode())
    for name, tensor in teacher.state_dict().items():
        _add(digest, name, tensor)
    for samples in parts:
        digest.update(f"mask {samples.mask}".encode())
        for name, tensor in samples.stored.items():
            _add(digest, f"{name} {samples.feed(name)}", tensor)
        if samples.index is not None:
            _add(digest, "index", samples.index)
        if samples.labels is not None:
            _add(digest, "labels", samples.labels)
    return digest.hexdigest()


def _add(digest: Any, name: str, tensor: Tensor) -> None:
    digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    digest.update(flat.view(torch.uint8).numpy().data)
