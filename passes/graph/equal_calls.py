"""When two calls compute the same."""

from __future__ import annotations

from typing import Any


def key_of(target: Any, args: Any, kwargs: Any) -> Any:
    """Equal for calls that compute the same; 1, 1.0 and True differ, and so do the zeros 0.0 and -0.0."""
    return target, _frozen(args), _frozen(kwargs)


def _frozen(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(_frozen(part) for part in value)
    if isinstance(value, dict):
        return tuple((name, _frozen(part)) for name, part in sorted(value.items()))
    if isinstance(value, slice):
        return "slice", _frozen((value.start, value.stop, value.step))
    if isinstance(value, float | complex):
        return type(value), repr(value)
    return type(value), value
