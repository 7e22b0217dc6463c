"""A progress line on the terminal's error stream; nothing where that is no terminal but one line for each step."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn


class Told(str):
    """A sentence that stays on the terminal, given to a report in the place of a step."""

    __slots__ = ()


Report = Callable[[str, float | None], None]  # what is being done, and the share of it that is done where known


@contextmanager
def reporting() -> Iterator[Report]:
    """Yield a function (what is being done, share of it that is done or None)."""
    if not sys.stderr.isatty():
        yield _plain()
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=None)

        def report(what: str, share: float | None) -> None:
            if isinstance(what, Told):
                progress.console.print(what, markup=False, highlight=False)
                return
            progress.update(task, description=what, total=None if share is None else 1.0, completed=share or 0.0)

        yield report


def _plain() -> Report:
    said = ""

    def report(what: str, _share: float | None) -> None:
        nonlocal said
        if what != said:
            said = what
            sys.stderr.write(f"{what}\n")
            sys.stderr.flush()

    return report
