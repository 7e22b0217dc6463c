"""Where a loaded network came from: the model, the file, and what the conversion found and decided."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from parallelize.conversion.result import Result
from passes.plan import Plan


@dataclass(frozen=True)
class Origin:
    """Where a network came from.

    Attributes:
        model: what the user called it.
        file: that was loaded; None of one that was made in memory.
        report: of the conversion that it is the product of; None where that is not known.
    """

    model: str
    file: Path | None = None
    report: Result | None = None

    @property
    def plan(self) -> Plan | None:
        """What the model was rewritten by."""
        return None if self.report is None else self.report.plan

    @property
    def depth(self) -> str:
        """How deep it is, in words; empty where that is not known."""
        if self.report is None:
            return ""
        product, serial = self.report.product.depth_blocks, self.report.serial.depth_blocks
        return f"{product} {'block' if product == 1 else 'blocks'} deep, of {serial}"
