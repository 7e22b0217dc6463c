"""Running code that the user names: whatever it raises becomes one sentence."""

from __future__ import annotations

from typing import Any

from parallelize.capturing import first_sentence
from passes.errors import ParallelizeError


def called(factory: Any, reference: str) -> Any:
    """What a factory gives when it is called without arguments; a value that cannot be called stands for itself."""
    if not callable(factory):
        return factory
    try:
        return factory()
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        raise ParallelizeError(
            f"{reference} raised {described(error)}.", "The factory must give the model when called without arguments."
        ) from error


def described(error: BaseException) -> str:
    """Type and first sentence of an exception."""
    name, text = type(error).__name__, first_sentence(error)
    return name if text == name else f"{name}: {text}"
