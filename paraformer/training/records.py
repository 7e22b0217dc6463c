"""What one epoch ended with, as plain values."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class EpochRecord:
    """The scores of an epoch.

    Attributes:
        epoch: from 1.
        loss: mean over its steps.
        top1: share of test samples classified rightly.
        seconds: without scoring.
        prefixes: that share of each prefix of branches, where the objective trains them.
        held_out_loss: cross entropy of training samples that are held out, where some are.
        held_out_top1: share of them classified rightly.
    """

    epoch: int
    loss: float
    top1: float
    seconds: float
    prefixes: tuple[float, ...] = ()
    held_out_loss: float | None = None
    held_out_top1: float | None = None

    def rank(self) -> tuple[float, float]:
        """On what is held out: top-1, then the loss."""
        return (self.held_out_top1 or 0.0, -(self.held_out_loss or 0.0))

    def curves(self) -> dict[str, float | None]:
        """The scores by their names in logs."""
        prefixes = {f"test/top1_of_{count}": share for count, share in enumerate(self.prefixes, 1)}
        held_out = {"held_out/loss": self.held_out_loss, "held_out/top1": self.held_out_top1}
        return {"test/top1": self.top1, **prefixes, **held_out}

    def to_dict(self) -> dict[str, Any]:
        """As a checkpoint stores it."""
        return {**asdict(self), "prefixes": list(self.prefixes)}

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> EpochRecord:
        """Read what `to_dict` gave."""
        return cls(**{**value, "prefixes": tuple(value["prefixes"])})
