"""How commands print tables and notes, the same everywhere. Rich is imported when something is printed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

TABLE_WIDTH = 100  # where a terminal is narrower it wraps the lines; rich would cut off numbers


def print_table(table: Table) -> Console:
    """Print a table whole; returns the console for what comes below it."""
    from rich.console import Console

    console = Console()
    Console(width=max(console.width, TABLE_WIDTH)).print(table)
    return console


def print_notes(notes: Iterable[str], console: Console) -> None:
    """Print what a reader of the table should not miss; names in it are no markup."""
    from rich.text import Text

    for note in notes:
        console.print(Text(f"note: {note}", "yellow"))
