"""Read a plan.json, or a plan that a caller has in another form."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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


def plan_of(given: Plan | str | os.PathLike[str] | Mapping[str, Any]) -> Plan:
    """A plan as it is, by its path, by the directory of `convert` that it lies in, or as what stands in its file.

    Raises:
        ParallelizeError: it cannot be read, or is no plan.
    """
    if isinstance(given, Plan):
        return given
    if isinstance(given, Mapping):
        return Plan.from_json(json.dumps(given))
    path = Path(given)
    return read_plan(path / "plan.json" if path.is_dir() else path)
