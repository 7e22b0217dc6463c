"""Options of a command that are the fields of a dataclass.

    @takes(healing=HealOptions)
    def heal(model: Model, healing: HealOptions) -> None: ...

The command line then has an option for each field that was made by `option`, and the command gets them as one value.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from dataclasses import Field, fields
from typing import Annotated, Any, get_type_hints

import typer

from parallelize.terminal.option_field import KEY, OptionField


def takes(**groups: type[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Put an option for each field of a dataclass in the place of a parameter of that name.

    Args:
        groups: parameters of the command, and the dataclasses that they take.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(command, include_extras=True)
        parameters: list[inspect.Parameter] = []
        for parameter in inspect.signature(command).parameters.values():
            group = groups.get(parameter.name)
            if group is not None:
                parameters.extend(_options(group))
                continue
            kind = inspect.Parameter.KEYWORD_ONLY
            parameters.append(parameter.replace(kind=kind, annotation=hints[parameter.name]))

        @functools.wraps(command)
        def wrapped(**given: Any) -> None:
            for name, group in groups.items():
                given[name] = group(**{part.name: given.pop(part.name) for part in _offered(group)})
            command(**given)

        wrapped.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        wrapped.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return wrapped

    return decorate


def _offered(group: type[Any]) -> list[Field[Any]]:
    return [part for part in fields(group) if KEY in part.metadata]


def _options(group: type[Any]) -> Iterator[inspect.Parameter]:
    hints = get_type_hints(group)
    for part in _offered(group):
        said: OptionField = part.metadata[KEY]
        least = {} if said.least is None else {"min": said.least}
        option = typer.Option(help=said.help, metavar=said.metavar, show_default=said.shows_default, **least)  # type: ignore[arg-type]
        yield inspect.Parameter(
            part.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=part.default,
            annotation=Annotated[hints[part.name], option],
        )
