"""What is measured, counted."""

from __future__ import annotations

import pytest

from parallelize.planning.costs import GroupCosts
from parallelize.planning.forms import GroupForm


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the groups that are measured."""
    names: list[str] = []
    measure = GroupCosts._measure

    def counted(self: GroupCosts, number: int, form: GroupForm) -> float:
        names.append(self.key(number, form))
        return measure(self, number, form)

    monkeypatch.setattr(GroupCosts, "_measure", counted)
    return names
