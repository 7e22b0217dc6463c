"""Paragraphs, items and tables of a page in Markdown, line by line."""

from __future__ import annotations

from collections.abc import Iterator
from textwrap import wrap

from benchmarks.rows import table_row

_WIDTH = 116


def heading(title: str) -> Iterator[str]:
    """Of a section."""
    yield from (f"## {title}", "")


def prose(*parts: str) -> Iterator[str]:
    """A paragraph, and an empty line behind it."""
    yield from wrap(" ".join(parts), _WIDTH, break_on_hyphens=False, break_long_words=False)
    yield ""


def item(*parts: str) -> Iterator[str]:
    """An item of a list."""
    text = "- " + " ".join(parts)
    yield from wrap(text, _WIDTH, subsequent_indent="  ", break_on_hyphens=False, break_long_words=False)


def table(*heads: object) -> Iterator[str]:
    """The head of a table; its rows follow."""
    yield table_row(heads)
    yield "|" + "---|" * len(heads)
