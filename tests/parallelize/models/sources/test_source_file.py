"""A file is imported as `python FILE` would run it, or as a part of the package that its relative imports ask for."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from parallelize.models.sources.source_file import import_file, package_home
from parallelize.models.sources.surroundings import Surroundings

BOTH = "from .sizes import SCALE\nfrom ..top import FACTOR\nPRODUCT = SCALE * FACTOR\n"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory whose modules are gone afterwards."""
    monkeypatch.chdir(tmp_path)
    with Surroundings((tmp_path,), ()).entered("test"):
        yield tmp_path


def write(files: dict[str, str]) -> None:
    for name, text in files.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text)


@pytest.mark.parametrize("top", ["whole", "bare-1.2"])
def test_relative_imports_find_the_package_with_and_without_init_files(home: Path, top: str) -> None:
    write({f"{top}/models/net.py": BOTH, f"{top}/models/sizes.py": "SCALE = 2.0", f"{top}/top.py": "FACTOR = 3.0"})
    if top == "whole":
        write({"whole/__init__.py": "", "whole/models/__init__.py": ""})
    module = import_file(home / top / "models/net.py")
    assert module.PRODUCT == 6
    assert module.__name__ == f"{top.replace('.', '_')}.models.net"
    assert package_home(home / top / "models/net.py") == home


def test_a_package_is_run_first_and_holds_its_parts(home: Path) -> None:
    write(
        {"pack/__init__.py": "ORDER = ['pack']", "pack/inner/__init__.py": "from .. import ORDER\nORDER += ['inner']"}
    )
    write({"pack/inner/net.py": "from .. import ORDER, inner\nfrom ..inner import ORDER as SAME"})
    module = import_file(home / "pack/inner/net.py")
    assert module.ORDER == ["pack", "inner"]
    assert module.SAME is module.ORDER


def test_the_package_goes_higher_where_a_relative_import_of_another_file_does(home: Path) -> None:
    write({"top/models/net.py": "from .blocks import WIDTH\n", "top/models/blocks.py": "from ..base import WIDTH\n"})
    write({"top/base.py": "WIDTH = 4"})
    module = import_file(home / "top/models/net.py")
    assert (module.WIDTH, module.__name__) == (4, "top.models.net")


def test_a_file_of_a_package_without_relative_imports_is_run_as_a_script_is(home: Path) -> None:
    write({"package/__init__.py": "raise OSError", "package/net.py": "WIDTH = 2"})
    module = import_file(home / "package/net.py")
    assert (module.WIDTH, module.__name__) == (2, "net")
    assert package_home(home / "package/net.py") == home
    assert package_home(home / "alone.py") == home


def test_a_file_may_have_the_name_of_an_installed_module_and_leaves_that_alone(home: Path) -> None:
    write({"pytest.py": "WIDTH = 4", "torch/__init__.py": "", "torch/net.py": "from . import __name__ as PACKAGE"})
    assert import_file(home / "pytest.py").WIDTH == 4
    assert import_file(home / "torch/net.py").PACKAGE == "_torch"
    assert sys.modules["pytest"] is pytest


def test_a_file_is_executed_each_time_and_what_it_raises_leaves_no_module(home: Path) -> None:
    write({"net.py": "WIDTH = 1"})
    first = import_file(home / "net.py")
    write({"net.py": "WIDTH = 22"})
    assert (first.WIDTH, import_file(home / "net.py").WIDTH) == (1, 22)
    for text, error in {"1 / 0": ZeroDivisionError, "def (": SyntaxError, "from .absent import x": ImportError}.items():
        write({"broken.py": text})
        with pytest.raises(error):
            import_file(home / "broken.py")
        assert not [name for name in sys.modules if name.endswith("broken")]


def test_a_dataclass_finds_the_module_that_it_is_made_in(home: Path) -> None:
    write({"net.py": "from __future__ import annotations\nfrom dataclasses import dataclass\n\n@dataclass\n"})
    write({"net.py": Path("net.py").read_text() + "class Sizes:\n    width: int = 3\n"})
    assert import_file(home / "net.py").Sizes().width == 3
