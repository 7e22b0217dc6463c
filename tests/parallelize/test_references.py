"""References: each kind of MODEL gives a captured program, or one sentence says why not and never runs a pickle."""

from __future__ import annotations

import os
import pickle
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from paraformer import checkpoint
from paraformer.model import VisionConfig, VisionParaFormer
from parallelize.inputs import InputSpec, parse_input
from parallelize.references import LoadOptions, load_program
from passes.errors import EnvironmentLackError, ParallelizeError

SMALL = VisionConfig(depth=2, width=16, heads=2, hidden=32)
FACTORY = """
import torch
from torch import nn
from beside import WIDTH

class Model(nn.Module):
    def __init__(self, width=WIDTH):
        super().__init__()
        self.first = nn.Linear(4, width)
        self.drop = nn.Dropout()
        self.second = nn.Linear(width, 2)

    def forward(self, x, scale=None):
        y = self.second(self.drop(self.first(x)))
        return y if scale is None else y * scale

def small():
    torch.manual_seed(0)
    return Model()

def with_example():
    model = small()
    model.example_inputs = lambda: (torch.zeros(1, 4),)
    return model

def broken():
    raise ValueError("no such size\\nand more")

def needs_width(width):
    return Model(width)

class Home:
    make = staticmethod(small)

ready = small()
number = 3
def text(): return "text"
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current directory with a file of factories in it."""
    (tmp_path / "shop.py").write_text(FACTORY)
    (tmp_path / "beside.py").write_text("WIDTH = 8\n")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in ("shop", "beside", "crash", "leave"):
        sys.modules.pop(name, None)


def _load(reference: str, *inputs: str, samples: dict[str, np.ndarray] | None = None, **options: Any) -> Any:
    return load_program(reference, LoadOptions(inputs=tuple(map(parse_input, inputs)), **options), samples)


def _refusal(reference: str, *inputs: str, **options: Any) -> tuple[str, str]:
    with pytest.raises(ParallelizeError) as caught:
        _load(reference, *inputs, **options)
    assert "\n" not in str(caught.value)
    assert caught.value.hint
    return str(caught.value), caught.value.hint


def _checkpoint(path: Path) -> VisionParaFormer:
    torch.manual_seed(0)
    model = VisionParaFormer(SMALL).eval()
    checkpoint.save(path, checkpoint.Checkpoint(SMALL, model.state_dict()))
    return model


def test_a_checkpoint_knows_its_input(home: Path) -> None:
    model = _checkpoint(home / "small.pt")
    program = _load("small.pt")
    assert program.origin == "small.pt"
    assert program.inputs[0].shape == ("batch", 1, 28, 28)
    images = torch.rand(1, 1, 28, 28)
    assert torch.equal(program.module(images), model(images))


def test_a_checkpoint_takes_a_fixed_batch(home: Path) -> None:
    _checkpoint(home / "small.pt")
    assert _load("small.pt", "1x1x28x28").inputs[0].shape == (1, 1, 28, 28)


def test_an_exported_program_knows_its_input(home: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 2)).eval()
    batch = torch.export.Dim("rows")
    torch.export.save(torch.export.export(model, (torch.zeros(2, 4),), dynamic_shapes=({0: batch},)), "model.pt2")
    program = _load("model.pt2")
    assert program.inputs[0].shape == ("batch", 4)
    assert torch.equal(program.module(torch.ones(1, 4)), model(torch.ones(1, 4)))


@pytest.mark.parametrize(
    "reference", ["shop:small", "shop.py:small", "shop:Home.make", "shop:ready", "./shop.py:Model"]
)
def test_factories_classes_and_modules_are_found_in_modules_and_files(home: Path, reference: str) -> None:
    path = list(sys.path)
    program = _load(reference, "batchx4")
    assert program.inputs[0].shape == ("batch", 4)
    assert not [node for node in program.module.graph.nodes if "dropout" in node.name and node.args[2]]
    assert sys.path == path


def test_a_file_elsewhere_finds_the_files_beside_it(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "other").mkdir()
    monkeypatch.chdir(home / "other")
    assert _load(f"{home}/shop.py:small", "batchx4").outputs[0].shape == ("batch", 2)


def test_inputs_are_passed_by_name_or_by_place(home: Path) -> None:
    both = _load("shop:small", "scale:1@float32", "batchx4")
    assert [(spec.name, spec.shape) for spec in both.inputs] == [("x", ("batch", 4)), ("scale", (1,))]


def test_shapes_come_from_the_data(home: Path) -> None:
    for array, dtype in (
        (np.zeros((5, 4), np.uint8), torch.float32),
        (np.zeros((5, 4), np.float64), torch.float32),
        (np.zeros((5, 4), np.float32), torch.float32),
    ):
        program = _load("shop:small", samples={"x": array, "labels": np.zeros(5, int)})
        assert [(s.name, s.shape, s.dtype) for s in program.inputs] == [("x", ("batch", 4), dtype)]
    assert _load("shop:small", samples={"": np.zeros((5, 4))}).inputs[0].name == "x"


def test_integers_of_the_data_stay_integers(home: Path) -> None:
    (home / "shop.py").write_text("from torch import nn\ntokens = nn.Embedding(9, 4)\n")
    assert _load("shop:tokens", samples={"input": np.zeros((5, 7), np.int64)}).inputs[0].dtype == torch.int64


def test_a_free_dimension_is_tried_at_the_size_of_the_data(home: Path) -> None:
    (home / "shop.py").write_text("from torch import nn\npatches = nn.Conv1d(3, 2, 32, 32)\n")
    program = _load("shop:patches", "input:batchx3xlong", samples={"input": np.zeros((1, 3, 64))})
    assert program.inputs[0].shape == ("batch", 3, "long")


def test_example_inputs_are_used_from_the_model_or_from_beside_its_factory(home: Path) -> None:
    assert _load("shop:with_example").inputs[0].shape == ("batch", 4)
    (home / "shop.py").write_text(FACTORY + "example_inputs = {'x': torch.zeros(1, 4), 'scale': torch.zeros(1, 2)}\n")
    program = _load("shop.py:small")
    assert [(spec.name, spec.shape) for spec in program.inputs] == [("x", ("batch", 4)), ("scale", ("batch", 2))]


def test_weights_are_loaded_bare_or_from_a_training_checkpoint(home: Path) -> None:
    state = {name: torch.full_like(value, 0.5) for name, value in _model().state_dict().items()}
    torch.save(state, "bare.pt")
    torch.save({"epoch": 3, "state_dict": state}, "training.pt")
    for file in ("bare.pt", "training.pt"):
        program = _load("shop:small", "batchx4", weights=Path(file))
        assert program.module(torch.ones(1, 4)).tolist() == [[10.5, 10.5]]


def test_weights_are_loaded_from_safetensors(home: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    safetensors.save_file({n: torch.full_like(v, 0.5) for n, v in _model().state_dict().items()}, "w.safetensors")
    program = _load("shop:small", "batchx4", weights=Path("w.safetensors"))
    assert program.module(torch.ones(1, 4)).tolist() == [[10.5, 10.5]]


def _model() -> nn.Module:
    """Layers as the factory's."""
    model = nn.Module()
    model.first, model.second = nn.Linear(4, 8), nn.Linear(8, 2)
    return model


def test_weights_that_do_not_fit_are_refused_with_the_first_key(home: Path) -> None:
    state = _model().state_dict()
    missing = {name: value for name, value in state.items() if name != "first.weight"}
    cases = {
        "'first.weight' is missing": missing,
        "'first.weight' is missing, and 1 more keys do not fit": missing | {"third.weight": torch.zeros(1)},
        "'third.weight' is not in the model": state | {"third.weight": torch.zeros(1)},
        "'first.bias' has the shape 3, the model's 8": state | {"first.bias": torch.zeros(3)},
    }
    for sentence, weights in cases.items():
        torch.save(weights, "w.pt")
        message, hint = _refusal("shop:small", "batchx4", weights=Path("w.pt"))
        assert message == f"w.pt does not fit shop:small: {sentence}."
        assert "very model" in hint


def test_weights_that_are_no_state_dict_are_refused(home: Path) -> None:
    torch.save([1, 2], "list.pt")
    torch.save(nn.Linear(2, 2), "module.pt")
    Path("cut.pt").write_bytes(Path("module.pt").read_bytes()[:200])
    for file, sentence in {
        "list.pt": "list.pt holds no state dict.",
        "module.pt": "module.pt holds more than tensors.",
        "cut.pt": "cut.pt is damaged or not a PyTorch file.",
        "absent.pt": "absent.pt does not exist.",
    }.items():
        assert _refusal("shop:small", "batchx4", weights=Path(file))[0] == sentence


def test_safetensors_without_the_package_say_what_to_install(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "safetensors", None)
    Path("w.safetensors").write_bytes(b"")
    with pytest.raises(EnvironmentLackError, match=r"w.safetensors cannot be read: safetensors is not installed\."):
        _load("shop:small", "batchx4", weights=Path("w.safetensors"))


def test_a_plain_state_dict_is_refused_with_the_way_to_use_it(home: Path) -> None:
    torch.save(_model().state_dict(), "w.pt")
    message, hint = _refusal("w.pt")
    assert message == "w.pt is a state dict: weights without a model."
    assert "module:factory --weights w.pt" in hint


class Harmful:
    """Unpickling this would leave a trace."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, ("trace",))


def test_a_pickled_module_is_refused_and_not_run_without_permission(home: Path) -> None:
    torch.save(Harmful(), "new.pt")
    torch.save(Harmful(), "old.pth", _use_new_zipfile_serialization=False)
    for file in ("new.pt", "old.pth"):
        message, hint = _refusal(file)
        assert message == f"{file} is a pickled module, or holds other pickled objects."
        assert "run code" in hint
        assert "--allow-pickle" in hint
    assert not Path("trace").exists()


def test_a_pickled_module_is_loaded_with_permission(home: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 2), nn.Dropout())
    torch.save(model, "m.pt")
    program = _load("m.pt", "batchx4", allow_pickle=True)
    assert torch.equal(program.module(torch.ones(1, 4)), model.eval()(torch.ones(1, 4)))


def test_a_pickle_that_is_no_module_or_has_lost_its_code_is_refused(home: Path) -> None:
    torch.save({"a": Path("b")}, "path.pt")
    assert _refusal("path.pt", allow_pickle=True)[0] == "path.pt holds a dict, not a model."
    torch.save(Harmful(), "lost.pt")
    Path("trace").mkdir()
    message, hint = _refusal("lost.pt", allow_pickle=True)
    assert message.startswith("lost.pt cannot be unpickled (FileExistsError:")
    assert "importable" in hint


def test_an_exported_archive_with_pickled_objects_is_refused_and_not_run(home: Path) -> None:
    torch.export.save(torch.export.export(nn.Linear(4, 2).eval(), (torch.zeros(2, 4),)), "good.pt2")
    harmful = pickle.dumps(Harmful(), 2)
    with zipfile.ZipFile("good.pt2") as good, zipfile.ZipFile("bad.pt2", "w") as bad:
        samples = next(name for name in good.namelist() if "sample_inputs" in name)
        for name in good.namelist():
            bad.writestr(name, harmful if name == samples else good.read(name))
    message, _ = _refusal("bad.pt2")
    assert message.startswith("bad.pt2 ")
    assert not Path("trace").exists()
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ
    with zipfile.ZipFile("bad.pt2", "a") as bad:
        bad.writestr("archive/data/constants/opaque_obj_0", harmful)
    assert _refusal("bad.pt2")[0] == "bad.pt2 holds pickled objects."


@pytest.mark.parametrize("size", [0, 10, 1000, -30])
@pytest.mark.parametrize("file", ["small.pt", "model.pt2"])
def test_truncated_files_are_refused_as_damaged(
    home: Path, file: str, size: int, capfd: pytest.CaptureFixture[str]
) -> None:
    _checkpoint(home / "small.pt")
    torch.export.save(torch.export.export(nn.Linear(4, 2).eval(), (torch.zeros(2, 4),)), "model.pt2")
    Path(file).write_bytes(Path(file).read_bytes()[:size])
    assert _refusal(file)[0].startswith(f"{file} is damaged or ")
    assert capfd.readouterr().err == ""


def test_a_damaged_checkpoint_is_refused_in_its_own_words(home: Path) -> None:
    _checkpoint(home / "small.pt")
    value = torch.load("small.pt", weights_only=True)
    torch.save(value | {"format": "paraformer-checkpoint/9"}, "small.pt")
    assert _refusal("small.pt")[0].startswith("small.pt has the format 'paraformer-checkpoint/9'")
    torch.save(value | {"state_dict": {}}, "small.pt")
    assert "do not fit its own config" in _refusal("small.pt")[0]


def test_files_that_cannot_be_opened_are_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("folder.pt").mkdir()
    for file in ("absent.pt", "absent.pt2", "absent.py:make"):
        assert _refusal(file)[0] == f"{file.removesuffix(':make')} does not exist."
    assert _refusal("folder.pt")[0] == "folder.pt is a directory."

    def denied(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    message, hint = _refusal("closed.pt")
    assert message == "closed.pt cannot be read: Permission denied."
    assert "who may read" in hint


def test_references_of_no_kind_are_refused_with_the_kinds(home: Path) -> None:
    Path("notes.txt").write_text("")
    Path("folder").mkdir()
    for reference, sentence in {
        "notes.txt": "notes.txt is not a model that can be read.",
        "folder": "folder is a directory, not a model.",
        "nothing": "nothing is neither a file nor a factory.",
    }.items():
        message, hint = _refusal(reference)
        assert message == sentence
        assert "FILE.pt2, FILE.pt, package.module:factory" in hint


def test_factories_that_fail_are_refused_with_their_own_words(home: Path) -> None:
    Path("crash.py").write_text("1 / 0\n")
    Path("leave.py").write_text("raise SystemExit(3)\n")
    cases = {
        "shop:broken": "shop:broken raised ValueError: no such size.",
        "shop:text": "shop:text gives a str, not a model.",
        "shop:number": "shop:number gives a int, not a model.",
        "shop:absent": "shop has no 'absent'.",
        "crash:make": "crash cannot be imported (ZeroDivisionError: division by zero).",
        "leave.py:make": "leave.py cannot be imported (SystemExit: 3).",
        "nowhere.at.all:make": "nowhere.at.all cannot be imported (ModuleNotFoundError: No module named 'nowhere').",
    }
    for reference, sentence in cases.items():
        assert _refusal(reference, "batchx4")[0] == sentence
    assert "raised TypeError: needs_width() missing 1 required" in _refusal("shop:needs_width", "batchx4")[0]


def test_unknown_shapes_are_refused_with_the_spelling(home: Path) -> None:
    message, hint = _refusal("shop:small")
    assert message == "The shapes of the inputs of shop:small are not known: it reads 'x', 'scale'."
    assert "--input x:batchx3x224x224@float32" in hint
    message, _ = _refusal("shop:small", samples={"images": np.zeros((5, 4))})
    assert message.endswith("it reads 'x', 'scale', the data holds 'images'.")


def test_wrong_names_and_shapes_of_inputs_are_refused(home: Path) -> None:
    assert _refusal("shop:small", "y:batchx4")[0] == "shop:small has no input 'y': it reads 'x', 'scale'."
    assert _refusal("shop:small", "x:1x4", "x:1x4")[0] == "An input of shop:small is given twice."
    message, hint = _refusal("shop:small", "batchx5")
    assert message.startswith("shop:small does not run on an input of 3x5@float32: RuntimeError: ")
    assert "--input" in hint


def test_options_that_a_file_has_no_use_for_are_refused(home: Path) -> None:
    _checkpoint(home / "small.pt")
    torch.export.save(torch.export.export(nn.Linear(4, 2).eval(), (torch.zeros(2, 4),)), "model.pt2")
    weights = Path("small.pt")
    assert _refusal("small.pt", weights=weights)[0] == "small.pt has weights of its own."
    assert _refusal("model.pt2", weights=weights)[0] == "model.pt2 has weights of its own."
    assert _refusal("model.pt2", "1x4")[0] == "model.pt2 states the shapes of its inputs."


def test_a_fixed_spec_stays_fixed(home: Path) -> None:
    options = LoadOptions(inputs=(InputSpec(None, (1, 4)),))
    assert load_program("shop:small", options).inputs[0].shape == (1, 4)
