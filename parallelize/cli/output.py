"""How commands print, the same everywhere. Rich is imported when something is printed.

Standard output is for what a command says, so that `--json` prints JSON whatever else prints meanwhile: a model when it
is imported or called, a library, a process that they start. All of that goes to the error stream.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

TABLE_WIDTH = 100  # where a terminal is narrower it wraps the lines; rich would cut off numbers


class _Said:
    """Where commands print."""

    stream: TextIO | None = None
    silenced: int | None = None  # the descriptor of the error stream, where nothing is printed


@contextlib.contextmanager
def stdout_alone() -> Iterator[None]:
    """Keep standard output for `echo`, `console` and what prints by them; other prints of Python code are noise."""
    _Said.stream = sys.stdout
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        _Said.stream = None


@contextlib.contextmanager
def notes_shown() -> Iterator[None]:
    """Print what our modules log, such as what was taken off the names of weights, as notes on the error stream."""
    logger, handler = logging.getLogger("parallelize"), logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("note:  %(message)s"))
    spread, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = spread


@contextlib.contextmanager
def descriptor_alone() -> Iterator[None]:
    """The same for what writes to descriptor 1, such as C code and other processes; until the very end."""
    try:
        sys.stdout.flush()
        kept = os.dup(1)
        os.dup2(2, 1)
    except (OSError, ValueError):  # there is no such descriptor: nothing can be printed there
        yield
        return
    sys.stdout = os.fdopen(kept, "w", encoding=sys.stdout.encoding, errors=sys.stdout.errors)
    try:
        yield
    finally:
        with contextlib.suppress(BrokenPipeError):
            sys.stdout.flush()
        sys.stdout = sys.stderr  # what is printed while Python ends comes after our last word


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Print nothing at all, on any stream, but for what is said `aloud_if`."""
    _Said.silenced = os.dup(2)
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    yield


@contextlib.contextmanager
def aloud_if(wanted: bool) -> Iterator[None]:
    """Print on the error stream where nothing else is printed."""
    if not wanted or _Said.silenced is None:
        yield
        return
    sys.stderr.flush()
    os.dup2(_Said.silenced, 2)
    yield
    sys.stderr.flush()


def echo(text: str) -> None:
    """Print a line."""
    typer.echo(text, file=_Said.stream)


def console() -> Console:
    """A console that prints what a command says."""
    from rich.console import Console

    return Console(file=_Said.stream)


def print_table(table: Table) -> Console:
    """Print a table whole; returns the console for what comes below it."""
    from rich.console import Console

    shown = console()
    Console(width=max(shown.width, TABLE_WIDTH), file=_Said.stream).print(table)
    return shown


def print_facts(facts: Iterable[str]) -> Console:
    """Print what was made, the first sentence as the headline; returns the console for what comes below it."""
    from rich.text import Text

    shown = console()
    for number, fact in enumerate(facts):
        shown.print(Text(fact, "" if number else "bold"))
    return shown


def print_notes(notes: Iterable[str], console: Console) -> None:
    """Print what a reader of the table should not miss; names in it are no markup."""
    from rich.text import Text

    for note in notes:
        console.print(Text(f"note: {note}", "yellow"))
