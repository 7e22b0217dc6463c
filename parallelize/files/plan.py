"""Read a plan.json."""

from __future__ import annotations

from pathlib import Path

from passes.errors import ParallelizeError
from passes.plan import Plan


def read_plan(path: Path) -> Plan:
    """The plan in a file.

    Raises:
        ParallelizeError: it cannot be read, or is no plan.
    """
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ParallelizeError(f"The plan {path} cannot be read: {error}.", "Name a plan.json with --plan.") from error
    return Plan.from_json(text)
