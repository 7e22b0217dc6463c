"""Clean a captured program, so that every later step meets each operator in one form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from parallelize.models.program import Program
from passes.registry import CLEANING
from passes.runner import PassRecord, run_passes


def clean(program: Program, probe: Sequence[Any] | None = None) -> tuple[Program, tuple[PassRecord, ...]]:
    """Run the exact passes that come before every rewrite.

    Args:
        program: a captured model.
        probe: flat inputs on which the outputs must stay the same up to rounding.

    Raises:
        PassError: a pass changed the outputs.
    """
    module, records = run_passes(program.module, CLEANING, probe)
    return replace(program, module=module), records
