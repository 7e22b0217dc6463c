"""What a machine can do is found by trying, and whatever is raised is told in one line."""

from __future__ import annotations

import sys

import pytest
import torch

from parallelize.machine.findings import Finding, has_torch, looked_at, package_version


def test_what_works_is_told_with_what_it_is_for_and_no_advice() -> None:
    assert looked_at("GPU", lambda: "two of them", "speed", "buy one") == Finding("GPU", True, "two of them", "speed")


@pytest.mark.parametrize(
    ("error", "found"),
    [(ImportError("No module named 'x'\nmore"), "No module named 'x'"), (RuntimeError(), "RuntimeError")],
)
def test_what_is_broken_is_told_by_the_first_line_with_advice(error: Exception, found: str) -> None:
    def describe() -> str:
        raise error

    assert looked_at("GPU", describe, "speed", "buy one") == Finding("GPU", False, found, "speed", "buy one")


def test_a_user_who_interrupts_is_heard() -> None:
    def describe() -> str:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        looked_at("GPU", describe, "", "")


def test_versions_are_those_of_packages_that_import(monkeypatch: pytest.MonkeyPatch) -> None:
    assert package_version("torch") == torch.__version__
    assert has_torch()
    monkeypatch.setitem(sys.modules, "torch", None)
    assert not has_torch()
    with pytest.raises(ModuleNotFoundError):
        package_version("no_such_package")
