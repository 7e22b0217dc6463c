"""Which backend is taken, and what is said where there is none."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from parallelize.backends.tensorrt.library import (
    INSTALL,
    Library,
    capabilities,
    choose_backend,
    choose_engine_backend,
    find_library,
    gpu_capability,
    is_installed,
)
from passes.errors import EnvironmentLackError, ParallelizeError

NO_GPU, ADA, HOPPER = None, "8.9", "9.0"
AUTO_TENSORRT = ("tensorrt", "there is a GPU and TensorRT is installed")
AUTO_RTX = ("tensorrt-rtx", "there is a GPU that TensorRT for RTX knows")
BUILDS_RTX = ("tensorrt-rtx", "it builds without a GPU")
ASKED = "it was asked for"


def _module(version: str, **names: Any) -> ModuleType:
    module = ModuleType("stand-in")
    flags = SimpleNamespace(STRONGLY_TYPED=1)
    vars(module).update(__version__=version, NetworkDefinitionCreationFlag=flags, **names)
    return module


def _set(monkeypatch: pytest.MonkeyPatch, capability: str | None, *installed: str) -> None:
    """A machine with a GPU of a compute capability, or none, and with these libraries."""
    members = dict.fromkeys(["NONE", "CURRENT", "SM120", "SM75", "SM89"], 0)
    modules = {
        "tensorrt": _module("10.12.0.36"),
        "tensorrt_rtx": _module("1.7.1.116", ComputeCapability=SimpleNamespace(__members__=members)),
    }
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module if name.replace("_", "-") in installed else None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: capability is not None)
    numbers = tuple(map(int, (capability or "0.0").split(".")))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: numbers)


BOTH = ("tensorrt", "tensorrt-rtx")


@pytest.mark.parametrize(
    ("capability", "installed", "chosen"),
    [
        (ADA, BOTH, AUTO_TENSORRT),
        (ADA, ("tensorrt",), AUTO_TENSORRT),
        (ADA, ("tensorrt-rtx",), AUTO_RTX),
        (HOPPER, BOTH, AUTO_TENSORRT),
        (HOPPER, ("tensorrt-rtx",), ("onnxruntime", f"no TensorRT for this GPU is installed ({INSTALL['tensorrt']})")),
        (ADA, (), ("onnxruntime", f"no TensorRT for this GPU is installed ({INSTALL['tensorrt']})")),
    ],
)
def test_auto_takes_the_tensorrt_that_runs_on_this_gpu_and_says_why(
    capability: str, installed: tuple[str, ...], chosen: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _set(monkeypatch, capability, *installed)
    assert choose_backend("auto") == chosen


@pytest.mark.parametrize("installed", [BOTH, ("tensorrt",), ("tensorrt-rtx",), ()])
def test_auto_takes_onnxruntime_without_a_gpu_and_says_why(
    installed: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    _set(monkeypatch, NO_GPU, *installed)
    chosen, why = choose_backend("auto")
    assert chosen == "onnxruntime"
    assert why.startswith("there is no CUDA GPU here")


@pytest.mark.parametrize(
    ("capability", "installed", "chosen"),
    [
        (NO_GPU, BOTH, BUILDS_RTX),
        (NO_GPU, ("tensorrt-rtx",), BUILDS_RTX),
        (ADA, BOTH, AUTO_TENSORRT),
        (HOPPER, ("tensorrt",), AUTO_TENSORRT),
        (HOPPER, ("tensorrt-rtx",), BUILDS_RTX),
    ],
)
def test_auto_takes_the_tensorrt_that_builds_here_and_says_why(
    capability: str | None, installed: tuple[str, ...], chosen: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _set(monkeypatch, capability, *installed)
    assert choose_engine_backend("auto") == chosen


@pytest.mark.parametrize(("capability", "installed"), [(NO_GPU, ()), (ADA, ())])
def test_auto_builds_nothing_without_a_tensorrt_and_says_how_to_install_one(
    capability: str | None, installed: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    _set(monkeypatch, capability, *installed)
    with pytest.raises(EnvironmentLackError, match=r"^No TensorRT is installed\.$") as caught:
        choose_engine_backend("auto")
    assert all(command in caught.value.hint for command in INSTALL.values())


@pytest.mark.parametrize("choose", [choose_backend, choose_engine_backend])
@pytest.mark.parametrize("backend", BOTH)
@pytest.mark.parametrize("capability", [NO_GPU, ADA])
def test_a_backend_that_is_asked_for_is_taken_with_or_without_a_gpu(
    choose: Any, backend: str, capability: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    _set(monkeypatch, capability, backend)
    assert choose(backend) == (backend, ASKED)


@pytest.mark.parametrize("choose", [choose_backend, choose_engine_backend])
@pytest.mark.parametrize(("backend", "package"), [("tensorrt", "tensorrt"), ("tensorrt-rtx", "tensorrt_rtx")])
def test_a_backend_that_is_asked_for_and_not_installed_is_refused_with_the_command(
    choose: Any, backend: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _set(monkeypatch, ADA, *(other for other in BOTH if other != backend))
    with pytest.raises(EnvironmentLackError) as caught:
        choose(backend)
    assert str(caught.value).startswith(
        f"The backend {backend} needs the package {package}, which does not import here ("
    )
    assert caught.value.hint == INSTALL[backend]
    assert caught.value.exit_code == 3


def test_onnxruntime_is_taken_where_it_is_asked_for_but_builds_no_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    _set(monkeypatch, ADA, *BOTH)
    assert choose_backend("onnxruntime") == ("onnxruntime", ASKED)
    with pytest.raises(ParallelizeError, match=r"^The backend onnxruntime builds no engines\.$") as caught:
        choose_engine_backend("onnxruntime")
    assert caught.value.hint == "Use tensorrt-rtx or tensorrt."


@pytest.mark.parametrize("choose", [choose_backend, choose_engine_backend])
def test_an_unknown_backend_is_refused_with_those_there_are(choose: Any) -> None:
    with pytest.raises(ParallelizeError, match=r"^There is no backend 'tensorflow'\.$") as caught:
        choose("tensorflow")
    assert caught.value.hint == "The backends are auto, onnxruntime, tensorrt-rtx, tensorrt."


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
    assert not is_installed("tensorrt")


def test_a_library_without_strongly_typed_networks_is_refused_with_its_version(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = _module("8.6.1")
    vars(module)["NetworkDefinitionCreationFlag"] = SimpleNamespace(EXPLICIT_BATCH=0)
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    with pytest.raises(EnvironmentLackError, match=r"^tensorrt 8\.6\.1 is too old: it has no strongly typed networks"):
        find_library("tensorrt")


def test_an_empty_package_of_the_same_name_is_no_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", ModuleType("tensorrt"))
    with pytest.raises(EnvironmentLackError, match=r"^The package tensorrt that imports here is no TensorRT\.$"):
        find_library("tensorrt")


def test_capabilities_are_those_with_a_number_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    _set(monkeypatch, NO_GPU, *BOTH)
    assert capabilities(find_library("tensorrt-rtx")) == ("7.5", "8.9", "12.0")
    assert capabilities(find_library("tensorrt")) == ()


def test_titles_name_the_library_and_its_version() -> None:
    assert Library("tensorrt", _module("11.1")).title == "TensorRT 11.1"
    assert Library("tensorrt-rtx", _module("1.7")).title == "TensorRT for RTX 1.7"


def test_the_capability_of_the_gpu_is_none_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    _set(monkeypatch, ADA)
    assert gpu_capability() == "8.9"
    _set(monkeypatch, NO_GPU)
    assert gpu_capability() is None
