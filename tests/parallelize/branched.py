"""A network with a level of three branches, and an output that does not depend on it, captured once."""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

from parallelize.models.capture import capture
from parallelize.models.program import Program
from tests.parallelize.small_models import mlp


class Parallel(nn.Module):
    """(batch, 6) -> the head's answer to x + the sum of three MLPs, and x doubled."""

    def __init__(self) -> None:
        super().__init__()
        self.terms, self.head = nn.ModuleList(mlp(6, 12) for _ in range(3)), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        a, b, c = (term(x) for term in self.terms)
        return {"logits": self.head(x + a + b + c), "doubled": 2 * x}


@functools.cache
def parallel() -> tuple[Parallel, Program]:
    torch.manual_seed(0)
    model = Parallel().double().eval()
    return model, capture(model, (torch.zeros(1, 6, dtype=torch.float64),), origin="parallel")
