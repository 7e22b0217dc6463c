"""The one exception family: a sentence that says what is wrong, a hint that says what to do, an exit code."""

from __future__ import annotations


class ParallelizeError(Exception):
    """A problem that the user can mend. `str(error)` is one sentence.

    Attributes:
        hint: one sentence that says what to do about it.
        exit_code: what a command that ends with this error returns to the shell (2: wrong usage or input).
    """

    exit_code = 2

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


class CheckError(ParallelizeError):
    """Two things that must be equal are not, or a budget was not met."""

    exit_code = 1


class EnvironmentLackError(ParallelizeError):
    """This machine lacks a package, a GPU or a right that the command needs."""

    exit_code = 3


class PassError(ParallelizeError):
    """A pass broke its own promise: a bug in this project, not in the model."""

    exit_code = 4
