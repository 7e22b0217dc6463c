"""What a user names: which kind it is, which runner it gets, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from parallelize.backends.artefact import parse_artefact
from parallelize.models.capture import capture
from parallelize.models.program import Program
from passes.errors import ParallelizeError


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    for name in ("a.onnx", "a.engine", "a.pt2", "odd@name.onnx", "out/model.pt2", "out/model.onnx", "out/report.json"):
        (tmp_path / name).write_bytes(b"")
    return tmp_path


KINDS = {
    "a.pt2": ("a.pt2", "program", "torch"),
    "a.pt2@torch-compile": ("a.pt2", "program", "torch-compile"),
    "a.pt2@onnxruntime": ("a.pt2", "program", "onnxruntime"),
    "a.onnx": ("a.onnx", "onnx", "onnxruntime"),
    "a.onnx@onnxruntime-cuda": ("a.onnx", "onnx", "onnxruntime-cuda"),
    "odd@name.onnx": ("odd@name.onnx", "onnx", "onnxruntime"),
    "a.engine": ("a.engine", "engine", "tensorrt"),
    "a.engine@tensorrt-rtx": ("a.engine", "engine", "tensorrt-rtx"),
    "out": ("out/model.pt2", "program", "torch"),
    "out/@onnxruntime": ("out/model.onnx", "onnx", "onnxruntime"),
    "timm:vit_tiny@torch": ("timm:vit_tiny", "program", "torch"),
    "package.module:factory": ("package.module:factory", "program", "torch"),
}


@pytest.mark.parametrize("text", KINDS)
def test_what_is_named_tells_kind_and_runner(home: Path, text: str) -> None:
    found = parse_artefact(text)
    assert (found.source, found.kind.name, found.backend.name, found.label) == (*KINDS[text], text)


REFUSED = {
    "a.onnx@tensor": "There is no runner 'tensor'",
    "a.onnx@torch": "torch does not run a.onnx@torch, which is an ONNX file",
    "a.engine@onnxruntime": "which is an engine",
    "a.pt2@tensorrt": "which is a program",
    "gone.onnx": "gone.onnx does not exist",
    "gone.engine": "gone.engine does not exist",
    "out@tensorrt": "out/model.engine does not exist",
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_cannot_be_run_is_refused_in_one_sentence(home: Path, text: str) -> None:
    with pytest.raises(ParallelizeError, match=REFUSED[text]) as caught:
        parse_artefact(text)
    assert caught.value.exit_code == 2
    assert caught.value.hint


def test_prefixes_beside_a_model_of_convert_are_found_in_the_order_of_their_branches(home: Path) -> None:
    for name in ("prefix_10.onnx", "prefix_2.onnx", "prefix_2.pt2", "prefixes.onnx", "prefix_x.onnx"):
        (home / "out" / name).write_bytes(b"")
    found = parse_artefact("out@onnxruntime").prefixes
    labels = ["out@onnxruntime, prefix 2", "out@onnxruntime, prefix 10", "out@onnxruntime, every prefix"]
    assert [each.label for each in found] == labels
    assert [each.source for each in found] == ["out/prefix_2.onnx", "out/prefix_10.onnx", "out/prefixes.onnx"]
    assert [each.source for each in parse_artefact("out").prefixes] == ["out/prefix_2.pt2"]
    assert parse_artefact("a.onnx").prefixes == parse_artefact("out/prefix_2.onnx").prefixes == ()


class Twice(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


class Loaded(nn.Module):
    """As what `parallelize.load` gives of a file."""

    def __init__(self, artefact: Program | str) -> None:
        super().__init__()
        self.artefact = artefact


def test_modules_programs_and_what_was_loaded_are_told(home: Path) -> None:
    module, program = Twice(), capture(Twice().eval(), (torch.zeros(2, 3),), origin="doubled")
    for given, source, label in (
        (module, module, "Twice"),
        (program, program, "doubled"),
        (Loaded(program), program, "doubled"),
        (Loaded("out/model.onnx@onnxruntime"), "out/model.onnx", "out/model.onnx@onnxruntime"),
    ):
        found = parse_artefact(given)
        assert (found.source, found.label) == (source, label)
