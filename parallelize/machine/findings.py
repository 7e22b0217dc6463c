"""One thing that a machine can or cannot do, as doctor tells it."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One thing that a machine can or cannot do.

    Attributes:
        part: what was looked at.
        works: whether it can be used.
        found: versions, or what is missing.
        enables: what it is for.
        advice: what to do where it does not work; empty where it does.
    """

    part: str
    works: bool
    found: str
    enables: str
    advice: str = ""


def looked_at(part: str, describe: Callable[[], str], enables: str, advice: str) -> Finding:
    """What `describe` says, or the first line of what it raises."""
    try:
        return Finding(part, True, describe(), enables)
    except Exception as error:  # noqa: BLE001  (what is broken raises anything, and doctor is to say so)
        return Finding(part, False, _first_line(error), enables, advice)


def package_version(module: str) -> str:
    """The version of a package; raises whatever it does where it does not import."""
    return str(importlib.import_module(module).__version__)


def has_torch() -> bool:
    """Whether PyTorch imports."""
    return looked_at("PyTorch", lambda: package_version("torch"), "", "").works


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
