"""Results of a benchmark that are kept row by row, so that a page can be made of rows measured at different times."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Rows:
    """A file of results in benchmarks/results.

    Attributes:
        path: of the .json.
        names: of all rows that there may be, in their order.
    """

    path: Path
    names: tuple[str, ...]

    def kept(self) -> dict[str, dict[str, Any]]:
        """All results so far, by row."""
        return json.loads(self.path.read_text()) if self.path.exists() else {}

    def keep(self, row: str, result: Mapping[str, Any]) -> None:
        """Put one row in the place of the old one."""
        results = {**self.kept(), row: result}
        ordered = {name: results[name] for name in self.names if name in results}
        self.path.write_text(json.dumps(ordered, indent=1) + "\n")


def table_row(cells: Iterable[object]) -> str:
    """A row of a table in Markdown."""
    return f"| {' | '.join(map(str, cells))} |"


def told(machine: Mapping[str, Any]) -> str:
    """Date, machine and versions, as the last line of a page has them."""
    return (
        f"{machine['date'][:10]}: {machine['processor']}, {machine['cores']} cores, torch {machine['torch']},"
        f" Python {machine['python']}"
    )
