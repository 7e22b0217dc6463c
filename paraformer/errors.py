"""What can go wrong here, each with one sentence and a hint that says what to do."""

from __future__ import annotations


class ParaFormerError(Exception):
    """A problem that the user can mend.

    Attributes:
        hint: one sentence that says how.
        exit_code: what a command ends with: 2 for wrong usage or input.
    """

    exit_code = 2

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


class DatasetError(ParaFormerError):
    """A data set is absent or damaged."""


class CheckpointError(ParaFormerError):
    """A file is not a checkpoint of this package, or a damaged one."""


class TrainingError(ParaFormerError):
    """A training that cannot be done as it was asked for."""


class AbsentLibraryError(ParaFormerError):
    """An optional library is not installed."""

    exit_code = 3
