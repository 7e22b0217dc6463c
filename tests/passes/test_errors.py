"""Errors: one sentence, one hint, one exit code."""

from __future__ import annotations

import pytest

from passes.errors import CheckError, EnvironmentLackError, ParallelizeError, PassError


@pytest.mark.parametrize(
    ("error", "code"), [(ParallelizeError, 2), (CheckError, 1), (EnvironmentLackError, 3), (PassError, 4)]
)
def test_each_kind_of_error_has_its_own_exit_code(error: type[ParallelizeError], code: int) -> None:
    raised = error("This is wrong.", "Do that.")
    assert raised.exit_code == code
    assert str(raised) == "This is wrong."
    assert raised.hint == "Do that."


@pytest.mark.parametrize("error", [CheckError, EnvironmentLackError, PassError])
def test_one_except_clause_catches_every_error(error: type[ParallelizeError]) -> None:
    with pytest.raises(ParallelizeError):
        raise error("This is wrong.", "Do that.")
