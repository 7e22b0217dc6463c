"""The shapes that an engine takes, and what auto makes where there is no GPU."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch

from parallelize.backends.tensorrt.options import BuildOptions
from parallelize.backends.tensorrt.profiles import Profile, ShapeOptions
from parallelize.backends.tensorrt.sidecar import read_sidecar
from parallelize.conversion import engines
from parallelize.conversion.convert import convert
from parallelize.conversion.notes import facts
from parallelize.export.onnx_file import read_onnx
from parallelize.models.capture import capture
from tests.parallelize.conversion.engine_cases import FILES, WITHOUT_GPU, options, rows
from tests.parallelize.small_models import language, text

pytest.importorskip("tensorrt_rtx")


def test_shapes_are_batches_to_32_and_the_other_sizes_of_the_data(data: Path, tmp_path: Path) -> None:
    free = capture(
        language().module,
        (),
        {name: array[:3] for name, array in text(3, 0).arrays.items()},
        dynamic=[{0: "batch", 1: "tokens"}] * 2,
        origin="free",
    )
    assert free.inputs[0].shape == ("batch", "tokens")
    made = engines._shapes(free, text(3, 0))
    assert made.least == {"input_ids": (1, 6), "attention_mask": (1, 6)}
    assert made.usual == made.least
    assert made.largest == {"input_ids": (32, 6), "attention_mask": (32, 6)}


@pytest.mark.slow
def test_the_users_shapes_are_used_and_a_sample_that_they_leave_out_is_told(data: Path, tmp_path: Path) -> None:
    shapes = ShapeOptions(least={"x": (2, 8)}, usual={"x": (4, 8)}, largest={"x": (6, 8)})
    building = BuildOptions(shapes=shapes, compute_capabilities=("8.9",))
    made = convert(rows(), tmp_path / "out", inputs=data / "rows.npz", options=options(build=building))
    sidecar = read_sidecar(made.output / "model.engine")
    assert sidecar.profiles == (Profile("x", (2, 8), (4, 8), (6, 8)),)
    assert sidecar.targets == ("8.9",)
    engine = made.report.backend.engine
    assert engine is not None
    assert engine.not_run == "It takes x 2x8 / 4x8 / 6x8, and the samples that judge make 1x8."


@pytest.mark.slow
@WITHOUT_GPU
def test_auto_says_which_backend_it_took_and_why_and_casts_all_the_same(data: Path, tmp_path: Path) -> None:
    wanted = options(backend="auto", precision="fp16")
    made = convert(rows(), tmp_path / "out", inputs=data / "rows.npz", options=wanted)
    backend = made.report.backend
    assert (backend.backend, backend.engine) == ("onnxruntime", None)
    assert "Backend onnxruntime: there is no CUDA GPU here (an engine can be built all the same" in " ".join(
        facts(made.report)
    )
    assert {path.name for path in made.output.iterdir()} == FILES - {"model.engine", "model.engine.json"}
    assert {product.dtype for product in read_onnx(made.output / "model.onnx").products} == {"float16"}


@pytest.mark.slow
def test_weights_that_lay_beside_the_onnx_in_fp32_do_not_stay_where_the_cast_one_has_them_inside(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from parallelize.export import weight_files

    limit = 1 << 10
    monkeypatch.setattr(weight_files, "INLINE_LIMIT", limit)
    wanted = options(backend="onnxruntime")
    first = convert(rows(), tmp_path / "fp32", inputs=data / "rows.npz", options=wanted)
    beside = {path.name for path in first.output.iterdir()} - FILES
    assert beside == {"model.onnx.data"}
    size = sum(v.numel() * v.element_size() for v in torch.export.load(first.output / "model.pt2").state_dict.values())
    monkeypatch.setattr(weight_files, "INLINE_LIMIT", size)
    half = convert(
        rows(), tmp_path / "fp16", inputs=data / "rows.npz", options=options(backend="onnxruntime", precision="fp16")
    )
    assert not {path.name for path in half.output.iterdir()} - FILES
    onnx.checker.check_model(str(half.output / "model.onnx"))
