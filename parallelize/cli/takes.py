"""Options of a command that are the fields of a dataclass.

    @takes(healing=HealOptions)
    def heal(plan: Plan, healing: HealOptions) -> None: ...

The command line then has an option for each field that was made by `option`, and the command gets them as one value. A
dataclass of a package that knows no command line says the same in plain metadata, {"option": {"help": ..., ...}}.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import MISSING, Field, fields, replace
from types import new_class
from typing import Annotated, Any, get_type_hints

import typer

from parallelize.terminal.option_field import KEY, OptionField, OptionsField


def takes(
    *, without: Collection[str] = (), **groups: type[Any]
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Put an option for each field of a dataclass in the place of a parameter of that name.

    Args:
        without: fields that this command does not offer.
        groups: parameters of the command, and the dataclasses that they take.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(command, include_extras=True)
        parameters: list[inspect.Parameter] = []
        for parameter in inspect.signature(command).parameters.values():
            group = groups.get(parameter.name)
            if group is not None:
                parameters.extend(_parameters(group, without))
                continue
            kind = inspect.Parameter.KEYWORD_ONLY
            parameters.append(parameter.replace(kind=kind, annotation=hints[parameter.name]))

        @functools.wraps(command)
        def wrapped(**given: Any) -> None:
            values = {name: group(**_values(group, without, given)) for name, group in groups.items()}
            taken = {name for group in groups.values() for name in _names(group, without)}
            command(**{name: value for name, value in given.items() if name not in taken}, **values)

        wrapped.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        wrapped.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return wrapped

    return decorate


def _offered(group: type[Any], without: Collection[str]) -> Iterator[tuple[Field[Any], OptionField]]:
    for part in fields(group):
        said = part.metadata.get(KEY)
        said = OptionField(**said) if isinstance(said, Mapping) else said
        if isinstance(said, OptionField) and part.name not in without:
            yield part, said


def _nested(group: type[Any], without: Collection[str]) -> Iterator[tuple[Field[Any], type[Any], Collection[str]]]:
    """Fields that are dataclasses of options, and which of theirs are not offered."""
    for part in fields(group):
        said = part.metadata.get(KEY)
        if isinstance(said, OptionsField):
            hidden = {inner.name for inner in fields(said.group) if said.only and inner.name not in said.only}
            yield part, said.group, {*hidden, *without}


def _values(group: type[Any], without: Collection[str], given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a dataclass from what a command was given."""
    values = {
        part.name: given[part.name] if said.spelling is None else said.spelling.read(given[part.name])
        for part, said in _offered(group, without)
    }
    for part, inner, hidden in _nested(group, without):
        assert part.default_factory is not MISSING
        values[part.name] = replace(part.default_factory(), **_values(inner, hidden, given))
    return values


def _names(group: type[Any], without: Collection[str]) -> set[str]:
    inner = (_names(nested, hidden) for _, nested, hidden in _nested(group, without))
    return {part.name for part, _ in _offered(group, without)}.union(*inner)


def _parameters(group: type[Any], without: Collection[str]) -> Iterator[inspect.Parameter]:
    hints = _types(group, {part.name for part, said in _offered(group, without) if said.spelling is None})
    for part, said in _offered(group, without):
        kind, default = hints.get(part.name), part.default
        if said.spelling is not None:
            kind, default = said.spelling.type, said.spelling.default
        yield inspect.Parameter(
            part.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if said.is_argument else default,
            annotation=Annotated[kind, _parameter(part.name, said, default)],
        )
    for _, inner, hidden in _nested(group, without):
        yield from _parameters(inner, hidden)


def _types(group: type[Any], names: Collection[str]) -> dict[str, Any]:
    """The types of some fields; those of others may not be there without torch."""
    found: dict[str, Any] = {}
    for base in reversed(group.__mro__):
        read = {name: kind for name, kind in inspect.get_annotations(base).items() if name in names}
        part = new_class("part", exec_body=lambda space, read=read: space.update(__annotations__=read))  # type: ignore[misc]
        found |= get_type_hints(part, globalns=vars(sys.modules[base.__module__]))
    return found


def _parameter(name: str, said: OptionField, default: object) -> Any:
    """What typer is told of a field."""
    if said.is_argument:
        return typer.Argument(metavar=said.metavar, help=said.help)
    spelled = said.name or f"--{name.replace('_', '-')}"
    limits = {"min": said.least, "max": said.most}
    return typer.Option(
        *([spelled] if said.name is not None or default is False else []),  # without a name there is --no-name too
        help=said.help,
        metavar=f"<{'|'.join(said.choices)}>" if said.choices else said.metavar,
        show_default=said.shows_default,
        callback=_refusing(said.choices) if said.choices else None,
        **{key: limit for key, limit in limits.items() if limit is not None},  # type: ignore[arg-type]
    )


def _refusing(choices: tuple[str, ...]) -> Callable[[str], str]:
    def known(given: str) -> str:
        if given not in choices:
            raise typer.BadParameter(f"{given!r} is not one of {', '.join(map(repr, choices))}.")
        return given

    return known
