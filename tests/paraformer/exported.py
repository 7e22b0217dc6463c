"""What torch.export makes of a model, counted."""

from __future__ import annotations

from collections import Counter

import torch
from torch import nn

from tests.paraformer.models import Inputs

# operators that only say where a value lies; `reshape` may copy, and is counted with those that compute
VIEWS = (
    "view", "flatten", "transpose", "permute", "unbind", "getitem", "slice", "select", "unsqueeze", "expand", "squeeze",
)  # fmt: skip


def operators(model: nn.Module, inputs: Inputs) -> dict[str, int]:
    """How often each ATen operator is called."""
    graph = torch.export.export(model, inputs).graph
    names = (node.target.__name__ for node in graph.nodes if node.op == "call_function")
    return dict(Counter(name.split(".")[0] for name in names))


def computing(counts: dict[str, int]) -> int:
    """Operators that are no view."""
    return sum(count for name, count in counts.items() if name not in VIEWS)
