"""Texts of Debian packages, and which of them are tested.

A package has a short description, one line, and a long one. Packages of one family, such as `libreoffice-calc` and
`libreoffice-writer`, share sentences. So families are split, not packages: one package is tested of each of some
families, and calibration sees none of these families.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

LANGUAGE = "Description-en"
OPENING = 200  # characters of a long description that make it different from others


@dataclass(frozen=True)
class Description:
    """What Debian says about a package; paragraphs of `long` are lines."""

    package: str
    short: str
    long: str

    @property
    def text(self) -> str:
        """Both, as one text."""
        return f"{self.short}\n{self.long}"


@dataclass(frozen=True)
class Split:
    """Descriptions in random order."""

    tested: tuple[Description, ...]
    calibration: tuple[Description, ...]


def read_descriptions(path: Path) -> tuple[Description, ...]:
    """The packages of a Translation-en list that have both descriptions; of those described alike the first.

    Alike are equal short ones and long ones of equal beginnings: they would not tell which package is meant.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    stanzas = (list(stanza) for is_stanza, stanza in groupby(lines, key=bool) if is_stanza)
    found = (description for stanza in stanzas if (description := _description(stanza)) is not None)
    distinct, seen = [], set[str]()
    for description in found:
        texts = {description.short.casefold(), description.long[:OPENING].casefold()}
        if seen.isdisjoint(texts):
            distinct.append(description)
        seen |= texts
    return tuple(distinct)


def _description(stanza: list[str]) -> Description | None:
    """One package; the lines of the long description follow the short one and start with a space."""
    package = stanza[0].removeprefix("Package: ")
    start = next((i for i, line in enumerate(stanza) if line.startswith(f"{LANGUAGE}: ")), None)
    if start is None:
        return None
    short = stanza[start].removeprefix(f"{LANGUAGE}: ").strip()
    long = "\n".join(_paragraphs(line[1:] for line in stanza[start + 1 :] if line.startswith(" ")))
    return Description(package, short, long) if short and long else None


def _paragraphs(lines: Iterable[str]) -> Iterator[str]:
    """Lines that are wrapped are one paragraph; a full stop alone is an empty line, a deeper line stands for itself."""
    for is_text, run in groupby(lines, key=lambda line: line != "." and not line.startswith(" ")):
        kept = [line.strip() for line in run if line != "."]
        yield from [" ".join(kept)] if is_text else kept


def family(package: str) -> str:
    """The first word of a package's name, without `lib` before it and version numbers behind."""
    word = package.removeprefix("lib").split("-")[0]
    return word.rstrip("0123456789.+") or word


def split(descriptions: Iterable[Description], tested: int, seed: int) -> Split:
    """Draw the families that are tested."""
    families: dict[str, list[Description]] = {}
    for description in descriptions:
        families.setdefault(family(description.package), []).append(description)
    names = sorted(families)
    draw = random.Random(seed)  # noqa: S311  (a reproducible draw, no secret)
    draw.shuffle(names)
    rest = [description for name in names[tested:] for description in families[name]]
    draw.shuffle(rest)
    return Split(tuple(draw.choice(families[name]) for name in names[:tested]), tuple(rest))
