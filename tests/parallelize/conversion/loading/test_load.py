"""What was written is called as the original was, on every backend that runs here, and comes back through a pickle."""

from __future__ import annotations

import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

import parallelize
from parallelize.backends.registry import registered
from parallelize.backends.tensorrt.library import RTX
from parallelize.conversion.loading.load import load
from parallelize.models.returned import Container
from passes.errors import EnvironmentLackError, ParallelizeError
from tests.parallelize.backends.toy import TOY
from tests.parallelize.conversion.loading.directories import KINDS, arrays, given, module, same, write
from tests.parallelize.conversion.small_result import result
from tests.parallelize.written import write as write_vision

BACKENDS = ("torch", "onnxruntime")
MODEL = Path(__file__).parents[4] / "examples" / "fashion_vit" / "vit12.pt"


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_directory_is_called_by_names_and_returns_what_the_original_returned(
    kind: Container, backend: str, tmp_path: Path
) -> None:
    values = given()
    expected = module(kind)(**values)
    with load(write(tmp_path / "out", kind), backend=backend) as found:
        assert same(found(**values), expected)
        assert same(found(*values.values()), expected)
        assert same(found(**arrays(values)), expected)
        assert same(
            found(values["input_ids"].int(), attention_mask=values["attention_mask"] > 0, position_ids=None), expected
        )
        assert found.eval() is found
        assert [spec.name for spec in found.inputs] == ["input_ids", "attention_mask"]
        assert len(found.outputs) == (1 if kind == "tensor" else 2)


@pytest.mark.parametrize("kind", KINDS)
def test_files_alone_are_loaded_in_what_runs_their_kind(kind: Container, tmp_path: Path) -> None:
    write(tmp_path, kind)
    (tmp_path / "report.json").unlink()
    for name, backend in (("model.pt2", "torch"), ("model.onnx", "onnxruntime")):
        found = load(tmp_path / name)
        assert (found.backend, found.plan, found.report) == (backend, None, None)
        assert same(found(**given()), module(kind)(**given()))


def test_a_program_is_loaded_in_another_backend_too(tmp_path: Path) -> None:
    found = load(write(tmp_path) / "model.pt2", backend="onnxruntime")
    assert found.backend == "onnxruntime"
    assert same(found(**given()), module("dict")(**given()))


def test_a_checkpoint_of_a_para_former_is_loaded() -> None:
    found = load(MODEL)
    assert found(torch.zeros(2, *found.inputs[0].shape[1:])).shape[0] == 2


def test_it_says_what_it_is_and_where_it_is_from(tmp_path: Path) -> None:
    out = write(tmp_path / "out")
    with load(out) as found:
        assert repr(found) == f"<words, 2 blocks deep, of 4, torch on cpu, {out}/model.pt2>"
        assert found.plan == found.report.plan == result().plan  # type: ignore[union-attr]
    assert repr(found) == f"<words, 2 blocks deep, of 4, closed, {out}/model.pt2>"
    (out / "report.json").unlink()
    assert repr(load(out / "model.onnx")) == f"<onnxruntime on cpu, {out}/model.onnx>"


def _answers(contents: list[bytes]) -> list[tuple[str, list[float]]]:
    """In another process, which has loaded nothing yet."""
    every = [pickle.loads(content) for content in contents]
    return [(found.backend, found(**given())["input_ids"].flatten().tolist()) for found in every]


def test_it_is_handed_to_another_process(tmp_path: Path) -> None:
    every = [load(write(tmp_path), backend=backend) for backend in BACKENDS]
    with torch.no_grad():
        next(every[0].parameters()).add_(1.0)  # trained since: what is handed over is what it is now
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        there = pool.submit(_answers, [pickle.dumps(found) for found in every]).result(timeout=240)
    expected = [found(**given())["input_ids"].flatten().tolist() for found in every]
    assert there == [(name, pytest.approx(value, abs=1e-5)) for name, value in zip(BACKENDS, expected, strict=True)]
    assert expected[0] != pytest.approx(expected[1], abs=1e-2)


@pytest.mark.parametrize("backend", BACKENDS)
def test_four_threads_at_once_get_the_answers_of_one(backend: str, tmp_path: Path) -> None:
    found = load(write(tmp_path), backend=backend, threads=1 if backend == "onnxruntime" else None)
    every = [given(1 + seed % 4, 3 + seed % 5, seed) for seed in range(40)]
    expected = [found(**values) for values in every]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda values: found(**values), every))
    assert all(map(same, answers, expected))


def test_an_engine_says_that_it_needs_a_gpu(tmp_path: Path) -> None:
    engine = write_vision(tmp_path / "model.engine", depth=2)
    for name in (engine, f"{engine}.json"):
        with pytest.raises(
            EnvironmentLackError, match=r"model\.engine runs on a GPU, and there is none here"
        ) as caught:
            load(name)
        assert caught.value.hint
    with pytest.raises(ParallelizeError, match="tensorrt-rtx runs on a GPU, not on cpu"):
        load(engine, device="cpu", backend=RTX)


def test_a_backend_of_somebody_else_is_loaded_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "model.toy").write_text("3.0")
    with registered(TOY):
        found = load(tmp_path / "model.toy")
        assert torch.equal(found(x=torch.ones(2, 3)), torch.full((2, 3), 3.0))
        with pytest.raises(parallelize.InputError, match="has no argument 'y'"):
            found(y=torch.ones(2, 3))


REFUSED = {
    "There is no backend 'tensor'": {"backend": "tensor"},
    "There is no GPU cuda": {"device": "cuda"},
    "'mars' names no device": {"device": "mars"},
    "onnxruntime-cuda runs on a GPU, not on cpu": {"backend": "onnxruntime-cuda", "device": "cpu"},
    "out has no model.engine, which tensorrt runs": {"backend": "tensorrt"},
    "The threads of torch are set for a whole process": {"threads": 2},
}


@pytest.mark.skipif(torch.cuda.is_available(), reason="tells what is said where there is no GPU")
@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_loaded_so_is_refused_in_a_sentence(message: str, tmp_path: Path) -> None:
    with pytest.raises(ParallelizeError, match=message) as caught:
        load(write(tmp_path / "out"), **REFUSED[message])  # type: ignore[arg-type]
    assert caught.value.hint


def test_every_public_way_leads_here(tmp_path: Path) -> None:
    assert parallelize.load is load
    assert isinstance(load(write(tmp_path)), parallelize.Loaded)
