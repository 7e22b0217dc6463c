"""Options of an engine that cannot be had are refused before anything takes time."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from parallelize.backends.choice import Choice
from parallelize.backends.onnxruntime.backend import ONNXRUNTIME
from parallelize.backends.tensorrt.options import BuildOptions
from parallelize.backends.tensorrt.profiles import ShapeOptions
from parallelize.backends.tensorrt.rtx import RTX_BACKEND
from parallelize.conversion.engine_options import check_precision, check_shapes, check_timing, require_timing, settle
from parallelize.conversion.goal import AtDepth, Faster
from parallelize.conversion.options import EngineOptions
from parallelize.models.capture import capture
from parallelize.models.program import Program
from passes.errors import EnvironmentLackError, ParallelizeError

SHAPES = BuildOptions(shapes=ShapeOptions(least={"input": (1, 4)}))


def program(dtype: torch.dtype = torch.float32) -> Program:
    example = torch.zeros(2, 4, dtype=dtype)
    return capture(nn.Linear(4, 3).to(dtype).eval(), (example,), dynamic=[{0: "batch"}], origin="net")


def test_without_an_engine_everything_that_is_for_one_alone_is_refused() -> None:
    assert settle(EngineOptions("onnxruntime", "fp16")) == Choice(ONNXRUNTIME, "it was asked for")
    for options, sentence in {
        "shapes": (EngineOptions("onnxruntime", build=SHAPES), "Shapes and other options of an engine were given"),
        "targets": (
            EngineOptions("onnxruntime", build=BuildOptions(compute_capabilities=("8.9",))),
            "Shapes and other options of an engine were given",
        ),
        "tf32": (EngineOptions("onnxruntime", "tf32"), "tf32 is how an engine computes, not how a model is stored"),
    }.values():
        with pytest.raises(ParallelizeError) as caught:
            settle(options)
        assert str(caught.value) == f"{sentence}, but the backend is onnxruntime: it was asked for."
        assert caught.value.hint.startswith("Add --backend tensorrt-rtx or --backend tensorrt, or leave ")


def test_an_unknown_backend_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ParallelizeError, match=r"^There is no backend 'openvino'\.$") as caught:
        settle(EngineOptions("openvino"))
    assert caught.value.hint == "The backends are auto, onnxruntime, tensorrt-rtx, tensorrt."


def test_shapes_are_held_against_the_inputs_of_the_model() -> None:
    check_shapes(program(), EngineOptions())
    check_shapes(program(), EngineOptions(build=SHAPES))
    for shapes, sentence in (({"y": (1, 4)}, "no input 'y'"), ({"input": (1, 5)}, "fixes 4")):
        with pytest.raises(ParallelizeError, match=sentence):
            check_shapes(program(), EngineOptions(build=BuildOptions(shapes=ShapeOptions(least=shapes))))


@pytest.mark.parametrize(("dtype", "spelled"), [(torch.bfloat16, "bf16"), (torch.float16, "fp16")])
def test_an_engine_in_fp32_of_a_model_in_half_precision_is_refused(dtype: torch.dtype, spelled: str) -> None:
    half, engine = program(dtype), Choice(RTX_BACKEND, "")
    with pytest.raises(ParallelizeError) as caught:
        check_precision(half, EngineOptions(), engine)
    assert str(caught.value) == f"net computes in {spelled} already, so its engine cannot be fp32."
    assert caught.value.hint == f"Use --precision {spelled}, or --backend onnxruntime for no engine."
    check_precision(half, EngineOptions(precision="fp16"), engine)
    check_precision(half, EngineOptions(), Choice(ONNXRUNTIME, ""))
    check_precision(program(), EngineOptions(), engine)


def test_a_speed_on_an_engine_that_does_not_run_here_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, here = Choice(RTX_BACKEND, ""), ["there is a GPU"]
    monkeypatch.setattr(type(RTX_BACKEND), "runs_here", lambda _self: here[0] if here else None)
    require_timing(Faster(2.0), engine, None)
    here.clear()
    with pytest.raises(EnvironmentLackError) as caught:
        require_timing(Faster(2.0), engine, None)
    assert str(caught.value) == (
        "How fast a network is on tensorrt-rtx is measured on a GPU that runs its engines, and there is none here."
    )
    assert "--backend onnxruntime" in caught.value.hint
    require_timing(Faster(2.0), engine, "h200")
    require_timing(AtDepth(2), engine, None)
    require_timing(Faster(2.0), Choice(ONNXRUNTIME, ""), None)


def test_a_speed_in_a_precision_that_onnx_runtime_is_not_timed_in_is_refused() -> None:
    runtime = Choice(ONNXRUNTIME, "")
    with pytest.raises(ParallelizeError, match="ONNX Runtime times networks in fp32, and fp16 was asked for"):
        check_timing(Faster(2.0), EngineOptions(precision="fp16"), "fp32", runtime)
    check_timing(Faster(2.0), EngineOptions(precision="fp16"), "fp16", runtime)
    check_timing(Faster(2.0), EngineOptions(precision="fp16"), "fp32", Choice(RTX_BACKEND, ""))
    check_timing(AtDepth(2), EngineOptions(precision="fp16"), "fp32", runtime)
