"""The user's code finds its own modules and no arguments, and leaves nothing behind."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import passes
from passes.errors import ParallelizeError
from tests.parallelize.models.sources.cases import load, refusal

OURS = ["passes", "paraformer", "parallelize", "tests"]
MODEL = """
from torch import nn

class Model(nn.Module):
    def __init__(self, scale=1.0):
        super().__init__()
        self.layer, self.scale = nn.Linear(4, 4), scale
        nn.init.ones_(self.layer.weight), nn.init.zeros_(self.layer.bias)

    def forward(self, x):
        return self.layer(x) * self.scale
"""


TAKEN_OUT = "parallelize.inspecting.diagram"  # modules that a test wants not to be there yet


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A current directory with a model; afterwards modules and search path must be what they were."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plain.py").write_text(MODEL)
    ours = {name: module for name, module in sys.modules.items() if name.partition(".")[0] in OURS}
    before = {name: module for name, module in ours.items() if not name.startswith(TAKEN_OUT)}
    path = list(sys.path)
    yield tmp_path
    assert {name: module for name, module in sys.modules.items() if name in before} == before
    assert not [name for name, m in sys.modules.items() if str(tmp_path) in str(getattr(m, "__file__", ""))]
    assert sys.path == path


def scale(reference: str, **options: Any) -> float:
    """What the model of a reference multiplies by."""
    return float(load(reference, "batchx4", **options).module(torch.full((1, 4), 0.25))[0, 0].detach())


def write(files: dict[str, str]) -> None:
    for name, text in files.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text)


@pytest.mark.parametrize("ours", OURS)
@pytest.mark.parametrize("reference", ["model.py:make", "model:make"])
def test_modules_called_as_ours_are_the_users_own_in_the_users_code(home: Path, ours: str, reference: str) -> None:
    write({f"{ours}.py": "SCALE = 3.0", "model.py": f"from plain import Model\nimport {ours}\ndef make():\n"})
    with Path("model.py").open("a") as file:
        file.write(f"    return Model({ours}.SCALE)\n")
    assert scale(reference) == 3


@pytest.mark.parametrize("ours", OURS)
def test_packages_called_as_ours_may_be_imported_late_and_have_parts(home: Path, ours: str) -> None:
    write(
        {
            f"{ours}/__init__.py": "from .sizes import SCALE",
            f"{ours}/sizes.py": "SCALE = 5.0",
            f"{ours}/late.py": f"import {ours}.sizes\nfrom . import SCALE as here\nassert {ours}.sizes.SCALE == here\n",
            "model.py": f"""
import importlib
import plain
class Late(plain.Model):
    def forward(self, x):
        from {ours}.late import here
        return super().forward(x) * here * importlib.import_module("{ours}.sizes").SCALE
""",
        }
    )
    assert scale("model.py:Late") == 25


@pytest.mark.parametrize("ours", OURS)
def test_a_file_may_be_called_as_ours(home: Path, ours: str) -> None:
    write({f"{ours}.py": MODEL})
    assert scale(f"{ours}.py:Model") == 1
    assert scale(f"{ours}:Model") == 1


def test_code_that_hides_one_package_of_ours_can_use_another(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(
        {
            "passes.py": "SCALE = 3.0",
            "model.py": """
import passes
import paraformer.model
import parallelize.models.prepare
from parallelize import ParallelizeError, capture, find_stacks
from plain import Model
assert ParallelizeError.__module__ == "passes.errors" and find_stacks.__module__ == "passes.stacks.find"
def make():
    import torch
    capture(Model().eval(), (torch.zeros(1, 4),))
    return Model(passes.SCALE)
""",
        }
    )
    for name in [name for name in sys.modules if name.startswith(TAKEN_OUT)]:
        monkeypatch.delitem(sys.modules, name)
    with Path("model.py").open("a") as file:
        file.write("import parallelize.inspecting.diagrams\nassert parallelize.inspecting.diagrams.draw\n")
    assert scale("model.py:make") == 3


def test_code_that_hides_none_of_ours_finds_them(home: Path) -> None:
    Path("passes").mkdir()  # results, say: without Python files it is no package
    write({"model.py": "import passes.errors\nfrom plain import Model\nassert passes.errors.ParallelizeError\n"})
    assert scale("model.py:Model") == 1
    assert passes.__file__ is not None


def test_what_hidden_modules_raise_is_told_and_ours_come_back(home: Path) -> None:
    write({"passes.py": "raise ValueError('nothing passes')", "model.py": "import passes\n"})
    message, _ = refusal("model.py:make", "batchx4")
    assert message == "model.py cannot be imported (ValueError: nothing passes)."
    with pytest.raises(ParallelizeError):
        load("model.py:make", "batchx4")


def test_two_directories_have_modules_of_the_same_names(home: Path) -> None:
    for name, value in {"a": 2.0, "b": 3.0}.items():
        write({f"{name}/sizes.py": f"SCALE = {value}", f"{name}/plain.py": MODEL})
        write({f"{name}/model.py": "import sizes, plain\ndef make(): return plain.Model(sizes.SCALE)"})
    assert [scale(f"{name}/model.py:make") for name in ("a", "b", "a")] == [2, 3, 2]


def test_a_search_path_that_the_code_extends_is_its_own(home: Path) -> None:
    write({"lib/deep/sizes.py": "SCALE = 7.0"})
    write({"model.py": "import sys, plain\nsys.path.append('lib/deep')\n", "other.py": "import sizes\n"})
    late = "class Late(plain.Model):\n    def forward(self, x):\n        import sizes\n        return x * sizes.SCALE\n"
    write({"model.py": Path("model.py").read_text() + late})
    assert scale("model.py:Late") * 4 == 7
    assert not {"lib/deep", "sizes"} & {*sys.path, *sys.modules}


def test_arguments_of_the_command_are_hidden_from_a_parser_of_the_users(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["parallelize", "inspect", "model.py:make", "--input", "batchx4"]
    monkeypatch.setattr(sys, "argv", arguments)
    write(
        {
            "model.py": """
import argparse, sys
from plain import Model
def read():
    parser = argparse.ArgumentParser()
    parser.add_argument("--scale", type=float, default=2.0)
    return parser.parse_args().scale
at_import = read()
class Parsing(Model):
    def forward(self, x):
        assert sys.argv == ["model.py"]
        return super().forward(x) * read()
def make(): return Parsing(at_import * read())
""",
        }
    )
    assert scale("model.py:make") == 8
    assert sys.argv is arguments


def test_a_parser_that_needs_an_argument_is_told_by_its_exit(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write({"model.py": "import argparse\np = argparse.ArgumentParser()\np.add_argument('data')\np.parse_args()\n"})
    assert refusal("model.py:make", "batchx4")[0] == "model.py cannot be imported (SystemExit: 2)."
    assert "data" in capfd.readouterr().err


def test_a_pickled_module_finds_its_class_in_the_current_directory(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write({"passes.py": MODEL})
    save = "import torch, passes, plain\nm = passes.Model(3.0)\ntorch.save(m, 'm.pt')\ndef make(): return m\n"
    write({"save.py": save})
    assert scale("save.py:make") == 3
    assert scale("m.pt", allow_pickle=True) == 3
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    assert scale("../m.pt", allow_pickle=True) == 3


def test_a_class_of_the_script_that_saved_it_is_named(home: Path) -> None:
    write({"save.py": "import torch\n" + MODEL + "Model.__module__ = '__main__'\nmake = Model\n"})
    write({"save.py": Path("save.py").read_text() + "import sys\nsys.modules['__main__'].Model = Model\n"})
    write({"save.py": Path("save.py").read_text() + "torch.save(Model(), 'm.pt')\ndel sys.modules['__main__'].Model\n"})
    scale("save.py:make")
    message, hint = refusal("m.pt", "batchx4", allow_pickle=True)
    assert message == "m.pt holds the class 'Model' of the script that saved it, which is not known here."
    assert "SCRIPT.py:Model --weights" in hint
