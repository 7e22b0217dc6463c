"""Prefixes in a conversion: files of each, one that answers after each, rows of the table, a curve, and refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from parallelize.backends.onnxruntime.session import OnnxRuntime
from parallelize.conversion.convert import Conversion, convert
from parallelize.conversion.loading.load import load
from parallelize.conversion.notes import facts, notes
from parallelize.conversion.options import ConvertOptions, EngineOptions
from parallelize.conversion.result import Result
from parallelize.measuring.bench import bench
from parallelize.measuring.options import BenchOptions
from parallelize.models.saving import BRANCHES
from passes.errors import ParallelizeError
from tests.parallelize.branched import parallel
from tests.parallelize.conversion.conversions import three_mlps
from tests.parallelize.small_models import stack_plan

ROWS = ["serial", "fused", "prefix 1 of 3", "prefix 3 of 3", "every prefix"]
EVERY = ("logits_prefix_1", "logits_prefix_3", "doubled")
SCHEDULED = stack_plan(3, [[[0]], [[1], [2]]], "affine")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "x.npz"
    np.savez(path, x=np.random.default_rng(0).standard_normal((40, 6)), labels=np.arange(40) % 5)
    return path


@pytest.fixture(scope="module")
def conversion(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Conversion:
    """Of a network that is parallel as it is."""
    model = parallel()[0].float()
    options = ConvertOptions(prefixes="1,3", prefix_outputs=True, rounds=1)
    output = tmp_path_factory.mktemp("out") / "first"
    made = convert(model, output, example=(torch.zeros(1, 6),), inputs=data, labels="labels", options=options)
    model.double()
    return made


def test_every_prefix_is_a_row_a_program_and_an_onnx_file(conversion: Conversion) -> None:
    assert list(conversion.report.names) == ROWS
    written = {path.name for path in conversion.output.iterdir()}
    stems = ("model", "prefix_1", "prefix_3", "prefixes")
    assert written >= {f"{stem}{suffix}" for stem in stems for suffix in (".pt2", ".onnx")} | {"prefixes.svg"}
    assert not any(name.startswith("scratch") for name in written)


@pytest.mark.parametrize("batch", [1, 3])
def test_one_run_answers_as_the_files_of_the_prefixes_do(conversion: Conversion, batch: int) -> None:
    x = torch.randn(batch, 6)
    every = dict(zip(EVERY, OnnxRuntime(conversion.output / "prefixes.onnx", 1)([x]), strict=True))
    for count in (1, 3):
        alone = OnnxRuntime(conversion.output / f"prefix_{count}.onnx", 1)([x])
        torch.testing.assert_close(every[f"logits_prefix_{count}"], alone[0], rtol=1e-4, atol=1e-5)
        program = torch.export.load(conversion.output / f"prefix_{count}.pt2").module()
        torch.testing.assert_close(program(x)["logits"], alone[0], rtol=1e-4, atol=1e-5)
    whole = OnnxRuntime(conversion.output / "model.onnx", 1)([x])
    torch.testing.assert_close(every["logits_prefix_3"], whole[0], rtol=1e-4, atol=1e-5)
    model = onnx.load(conversion.output / "prefixes.onnx")
    assert [value.name for value in model.graph.output] == list(EVERY)
    assert model.graph.output[0].type.tensor_type.shape.dim[0].dim_param == "batch"


def test_the_report_tells_of_prefixes_and_is_read_back(conversion: Conversion) -> None:
    result = Result.from_json((conversion.output / "report.json").read_text())
    found = result.prefixes
    assert found is not None
    assert found == conversion.report.prefixes
    assert (found.branches, found.scheduled) == (3, False)
    assert [network.files for network in found.networks] == [
        (f"prefix_{count}.pt2", f"prefix_{count}.onnx") for count in (1, 3)
    ]
    assert found.every is not None
    assert found.every.outputs == EVERY
    errors = [result[name].errors["relative-l2"] for name in ROWS[2:]]
    assert errors[0] > 1e-3
    assert max(errors[1:]) < 1e-6
    said = " ".join(facts(result))
    assert "has 3 branches; measured were its prefixes of 1 and 3" in said
    assert "prefixes.onnx answers after each of them in one run" in said
    assert not any("no training" in note for note in notes(result))


def test_the_page_shows_the_curve(conversion: Conversion) -> None:
    page = (conversion.output / "report.html").read_text()
    assert "<h2>Prefixes</h2>" in page
    assert page.count("<svg") == 3
    assert "logits_prefix_1, logits_prefix_3, doubled" in page
    assert all(name in page for name in ROWS)


def test_bench_times_the_prefixes_of_a_directory_unless_told_not_to(conversion: Conversion) -> None:
    options = BenchOptions(duration=0, warm_up=0)
    directory = f"{conversion.output}@onnxruntime"
    found = bench(directory, options=options)
    names = ["prefix 1", "prefix 3", "every prefix"]
    assert [timing.label for timing in found.timings] == [directory, *(f"{directory}, {name}" for name in names)]
    alone = bench(directory, options=BenchOptions(duration=0, warm_up=0, prefixes=False))
    assert len(alone.timings) == 1


def test_prefixes_of_a_refitted_schedule_are_measured_and_said_to_be_no_more(data: Path, tmp_path: Path) -> None:
    options = ConvertOptions(plan=SCHEDULED, prefix_outputs=True, branches=True, rounds=1)
    report = convert(three_mlps(), tmp_path / "out", inputs=data, options=options).report
    assert report.names[-3:] == ("prefix 1 of 2", "prefix 2 of 2", "every prefix")
    assert not (tmp_path / "out" / "prefix_1.onnx").exists()
    errors = [report[name].errors["kl"] for name in (report.product.name, *report.names[-2:])]
    assert errors[1:] == pytest.approx([errors[0]] * 2, abs=1e-5)
    assert any("no training has meant them" in note for note in notes(report))
    fused, apart = (load(tmp_path / "out" / name) for name in ("model.pt2", BRANCHES))
    x = torch.randn(3, 6)
    torch.testing.assert_close(apart(x), fused(x), rtol=1e-5, atol=1e-6)
    assert len(apart.state_dict()) > len(fused.state_dict())


def test_a_cast_reaches_every_prefix(tmp_path: Path) -> None:
    plan, engine = SCHEDULED.with_refit("none"), EngineOptions("onnxruntime", "fp16")
    options = ConvertOptions(plan=plan, prefixes=(1,), prefix_outputs=True, rounds=1, engine=engine)
    convert(three_mlps(), tmp_path / "out", options=options)
    for name in ("model.onnx", "prefix_1.onnx", "prefixes.onnx"):
        weights = onnx.load(tmp_path / "out" / name).graph.initializer
        assert onnx.TensorProto.FLOAT16 in {weight.data_type for weight in weights}


@pytest.mark.slow
def test_an_engine_is_built_of_every_prefix(tmp_path: Path) -> None:
    engine = EngineOptions("tensorrt-rtx")
    options = ConvertOptions(
        plan=SCHEDULED.with_refit("none"), prefixes="all", prefix_outputs=True, rounds=1, engine=engine
    )
    report = convert(three_mlps(), tmp_path / "out", options=options).report
    for stem in ("model", "prefix_1", "prefix_2", "prefixes"):
        assert (tmp_path / "out" / f"{stem}.engine").exists()
        assert (tmp_path / "out" / f"{stem}.engine.json").exists()
    assert report.backend.engine is not None
    layers = report.backend.engine.layers
    assert list(layers) == ["serial", "rewrite", "prefix 1 of 2", "prefix 2 of 2", "every prefix"]
    assert layers["every prefix"].kernels <= layers["rewrite"].kernels + 4


@pytest.mark.parametrize(
    ("plan", "prefixes", "sentence"),
    [
        (SCHEDULED.with_refit("none"), "3", "There is no prefix of 3 branches"),
        (SCHEDULED.with_refit("none"), "0", "not numbers of branches from 1 on"),
        (stack_plan(3, [[[0]], [[1]], [[2]]], "none"), "1", "has no prefixes: the network has no level of several"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_made(
    tmp_path: Path, plan: object, prefixes: str, sentence: str
) -> None:
    options = ConvertOptions(plan=plan, prefixes=prefixes)  # type: ignore[arg-type]
    with pytest.raises(ParallelizeError, match=sentence):
        convert(three_mlps(), tmp_path / "out", options=options)
    assert not (tmp_path / "out").exists()
