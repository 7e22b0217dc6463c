"""Frozen dataclasses as JSON and back: fields are keys, in the order in which they are declared.

A value is read by the types of the fields. What has a JSON of its own, as a plan has, is written and read by that.

    read      dataclasses, tuples, mappings, literals, optional values, numbers, strings
    refused   a missing field without a default, and a value of another type, each by its place in the file
    left out  keys that no field has, as a later version may write them
"""

from __future__ import annotations

import json
import types
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from passes.errors import ParallelizeError

Kind = TypeVar("Kind")
_HINT = "It may be of another version of parallelize, or was changed by hand."


def to_plain(value: object) -> dict[str, Any]:
    """The fields of a dataclass as plain values: dictionaries, lists, numbers and strings."""
    assert is_dataclass(value)
    return {part.name: _plain(getattr(value, part.name)) for part in fields(value)}


def from_plain(kind: type[Kind], value: Any, place: str) -> Kind:
    """The dataclass that these plain values are of.

    Args:
        kind: a dataclass.
        value: what JSON gave.
        place: what the values are called in a message, such as the name of a file.

    Raises:
        ParallelizeError: a field is missing, or is not of its type.
    """
    made: Kind = _read_fields(kind, value, place)
    return made


def _plain(value: object) -> Any:
    if _has_own_json(type(value)):
        return json.loads(value.to_json())  # type: ignore[attr-defined]
    if is_dataclass(value):
        return to_plain(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value


def _read(kind: Any, value: Any, place: str) -> Any:
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return _read_union(parts, value, place)
    if origin is Literal:
        return _expect(value in parts, value, place, " or ".join(map(repr, parts)))
    if origin is tuple:
        return _read_tuple(parts, value, place)
    if origin is not None and issubclass(origin, Mapping):
        _expect(isinstance(value, dict), value, place, "an object")
        return {key: _read(parts[1], item, f"{place}.{key}") for key, item in value.items()}
    if _has_own_json(kind):
        return kind.from_json(json.dumps(value))
    if is_dataclass(kind):
        return _read_fields(kind, value, place)
    return _read_plain(kind, value, place)


def _read_union(parts: tuple[Any, ...], value: Any, place: str) -> Any:
    """Optional values, and strings or numbers, which the value tells apart."""
    if value is None and types.NoneType in parts:
        return None
    others = [part for part in parts if part is not types.NoneType]
    fitting = [part for part in others if part in _PLAIN and isinstance(value, _PLAIN[part])]
    return _read((fitting or others)[0], value, place)


def _read_tuple(parts: tuple[Any, ...], value: Any, place: str) -> tuple[Any, ...]:
    _expect(isinstance(value, list), value, place, "a list")
    if parts[-1] is not Ellipsis:
        _expect(len(value) == len(parts), value, place, f"a list of {len(parts)}")
        return tuple(
            _read(part, item, f"{place}[{n}]") for n, (part, item) in enumerate(zip(parts, value, strict=True))
        )
    return tuple(_read(parts[0], item, f"{place}[{number}]") for number, item in enumerate(value))


def _read_fields(kind: Any, value: Any, place: str) -> Any:
    _expect(isinstance(value, dict), value, place, "an object")
    hints = get_type_hints(kind)
    found = {
        part.name: _read(hints[part.name], value[part.name], f"{place}.{part.name}")
        for part in fields(kind)
        if part.name in value or not _has_default(part, place)
    }
    return kind(**found)


def _has_default(part: Field[Any], place: str) -> bool:
    if part.default is MISSING and part.default_factory is MISSING:
        raise ParallelizeError(f"{place} has no {part.name!r}.", _HINT)
    return True


_PLAIN: dict[Any, tuple[type, ...]] = {str: (str,), bool: (bool,), int: (int,), float: (int, float)}


def _read_plain(kind: Any, value: Any, place: str) -> Any:
    is_one = isinstance(value, _PLAIN[kind]) and (kind is bool or not isinstance(value, bool))
    return _expect(is_one, value, place, {str: "a string", bool: "true or false"}.get(kind, "a number"))


def _expect(is_so: bool, value: Any, place: str, wanted: str) -> Any:
    if not is_so:
        raise ParallelizeError(f"{place} is {json.dumps(value)[:40]}, not {wanted}.", _HINT)
    return value


def _has_own_json(kind: Any) -> bool:
    return hasattr(kind, "to_json") and hasattr(kind, "from_json")
