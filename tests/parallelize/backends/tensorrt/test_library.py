"""Which TensorRT is here, and what is said where there is none."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType, SimpleNamespace

import pytest

from parallelize.backends.tensorrt.library import (
    Library,
    capabilities,
    find_library,
    gpu_capability,
)
from passes.errors import EnvironmentLackError
from tests.parallelize.backends.tensorrt.machines import ADA, BOTH, NO_GPU, seem, stand_in


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ImportError("libnvinfer.so.10:\n cannot open"), "(libnvinfer.so.10: cannot open)"),
        (OSError("no libcudart"), "(no libcudart)"),
        (ImportError(), "(ImportError)"),
    ],
)
def test_a_library_that_does_not_load_is_refused_with_the_reason(
    error: Exception, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(name: str) -> ModuleType:
        raise error

    monkeypatch.setattr(importlib, "import_module", fail)
    with pytest.raises(EnvironmentLackError) as caught:
        find_library("tensorrt")
    assert str(caught.value).endswith(f"{told}.")


def test_a_library_without_strongly_typed_networks_is_refused_with_its_version(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = stand_in("8.6.1")
    vars(module)["NetworkDefinitionCreationFlag"] = SimpleNamespace(EXPLICIT_BATCH=0)
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    with pytest.raises(EnvironmentLackError, match=r"^tensorrt 8\.6\.1 is too old: it has no strongly typed networks"):
        find_library("tensorrt")


def test_an_empty_package_of_the_same_name_is_no_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", ModuleType("tensorrt"))
    with pytest.raises(EnvironmentLackError, match=r"^The package tensorrt that imports here is no TensorRT\.$"):
        find_library("tensorrt")


def test_capabilities_are_those_with_a_number_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    seem(monkeypatch, NO_GPU, *BOTH)
    assert capabilities(find_library("tensorrt-rtx")) == ("7.5", "8.9", "12.0")
    assert capabilities(find_library("tensorrt")) == ()


def test_titles_name_the_library_and_its_version() -> None:
    assert Library("tensorrt", stand_in("11.1")).title == "TensorRT 11.1"
    assert Library("tensorrt-rtx", stand_in("1.7")).title == "TensorRT for RTX 1.7"


def test_the_capability_of_the_gpu_is_none_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    seem(monkeypatch, ADA)
    assert gpu_capability() == "8.9"
    seem(monkeypatch, NO_GPU)
    assert gpu_capability() is None
