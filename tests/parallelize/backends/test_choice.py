"""Which backend a conversion and a build take, why, and what is said where there is none."""

from __future__ import annotations

from typing import Any

import pytest

from parallelize.backends.choice import Choice, choose_backend, choose_engine_backend
from parallelize.backends.tensorrt.library import INSTALL
from passes.errors import EnvironmentLackError, ParallelizeError
from tests.parallelize.backends.tensorrt.machines import ADA, BOTH, HOPPER, NO_GPU, seem

AUTO_TENSORRT = ("tensorrt", "there is a GPU and TensorRT is installed")
AUTO_RTX = ("tensorrt-rtx", "there is a GPU that TensorRT for RTX knows")
BUILDS_RTX = ("tensorrt-rtx", "it builds without a GPU")
ASKED = "it was asked for"


def told(choice: Choice[Any]) -> tuple[str, str]:
    return choice.backend.name, choice.why


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
    seem(monkeypatch, capability, *installed)
    assert told(choose_backend("auto")) == chosen


@pytest.mark.parametrize("installed", [BOTH, ("tensorrt",), ("tensorrt-rtx",), ()])
def test_auto_takes_onnxruntime_without_a_gpu_and_says_why(
    installed: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    seem(monkeypatch, NO_GPU, *installed)
    chosen, why = told(choose_backend("auto"))
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
    seem(monkeypatch, capability, *installed)
    assert told(choose_engine_backend("auto")) == chosen


@pytest.mark.parametrize(("capability", "installed"), [(NO_GPU, ()), (ADA, ())])
def test_auto_builds_nothing_without_a_tensorrt_and_says_how_to_install_one(
    capability: str | None, installed: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    seem(monkeypatch, capability, *installed)
    with pytest.raises(EnvironmentLackError, match=r"^No TensorRT is installed\.$") as caught:
        choose_engine_backend("auto")
    assert all(command in caught.value.hint for command in INSTALL.values())


@pytest.mark.parametrize("choose", [choose_backend, choose_engine_backend])
@pytest.mark.parametrize("backend", BOTH)
@pytest.mark.parametrize("capability", [NO_GPU, ADA])
def test_a_backend_that_is_asked_for_is_taken_with_or_without_a_gpu(
    choose: Any, backend: str, capability: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    seem(monkeypatch, capability, backend)
    assert told(choose(backend)) == (backend, ASKED)


@pytest.mark.parametrize("choose", [choose_backend, choose_engine_backend])
@pytest.mark.parametrize(("backend", "package"), [("tensorrt", "tensorrt"), ("tensorrt-rtx", "tensorrt_rtx")])
def test_a_backend_that_is_asked_for_and_not_installed_is_refused_with_the_command(
    choose: Any, backend: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seem(monkeypatch, ADA, *(other for other in BOTH if other != backend))
    with pytest.raises(EnvironmentLackError) as caught:
        choose(backend)
    assert str(caught.value).startswith(
        f"The backend {backend} needs the package {package}, which does not import here ("
    )
    assert caught.value.hint == INSTALL[backend]
    assert caught.value.exit_code == 3


def test_onnxruntime_is_taken_where_it_is_asked_for_but_builds_no_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    seem(monkeypatch, ADA, *BOTH)
    assert told(choose_backend("onnxruntime")) == ("onnxruntime", ASKED)
    with pytest.raises(ParallelizeError, match=r"^The backend onnxruntime builds no engines\.$") as caught:
        choose_engine_backend("onnxruntime")
    assert caught.value.hint == "Use tensorrt-rtx or tensorrt."


@pytest.mark.parametrize("choose", [choose_backend, choose_engine_backend])
def test_an_unknown_backend_is_refused_with_those_there_are(choose: Any) -> None:
    with pytest.raises(ParallelizeError, match=r"^There is no backend 'tensorflow'\.$") as caught:
        choose("tensorflow")
    assert caught.value.hint == "The backends are auto, onnxruntime, tensorrt-rtx, tensorrt."
