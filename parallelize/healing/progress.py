"""How far a healing is: what its state file keeps beside weights, optimizer and pace."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Evaluation:
    """After `step` steps: the mean loss since the evaluation before, and the error on held-out samples."""

    step: int
    loss: float
    error: float


@dataclass
class Progress:
    """What changes from step to step.

    Attributes:
        step: steps so far.
        seconds: that they took, evaluations included.
        before: error on held-out samples at the start.
        best_error: the smallest one so far.
        best_step: the step that it is of.
        best: the weights that it is of, one for each leaf.
        history: all evaluations.
    """

    step: int = 0
    seconds: float = 0.0
    before: float = math.inf
    best_error: float = math.inf
    best_step: int = 0
    best: list[Tensor] = field(default_factory=list)
    history: list[Evaluation] = field(default_factory=list)

    def told(self, total: int | None) -> str:
        """Where a run of so many steps is, in words."""
        of = "" if total is None else f" of {total}"
        loss = f", loss {self.history[-1].loss:.4f}" if self.history else ""
        return f"step {self.step}{of}{loss}, held-out error {self.best_error:.4f} at best, {self.before:.4f} at first"

    def as_plain(self) -> dict[str, Any]:
        """Plain values and tensors, by the names of the fields."""
        return {**vars(self), "history": [asdict(evaluation) for evaluation in self.history]}

    @staticmethod
    def from_plain(state: Mapping[str, Any]) -> Progress:
        """What `as_plain` gave, among other values."""
        values = {part.name: state[part.name] for part in fields(Progress)}
        return Progress(**{**values, "history": [Evaluation(**evaluation) for evaluation in state["history"]]})
