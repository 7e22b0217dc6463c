"""A reference to code leads to what it names, and whatever the code raises becomes one sentence."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from parallelize.models.sources.user_code import at_home, called, described, imported, names_code
from passes.errors import ParallelizeError

CODE = """
import sys
class Home:
    inner = staticmethod(lambda: sys.argv)
def broken(): raise ValueError("no such size.\\nAnd more")
def leaves(): raise SystemExit(3)
number = 3
"""


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("package.module:factory", True),
        ("module:Home.make", True),
        ("FILE.py:factory", True),
        ("some where/my-file.py:factory", True),
        ("C:/models/net.py:factory", True),
        ("timm:resnet-50", False),
        ("module", False),
        ("net.py", False),
        ("net.py:", False),
        ("net.py:3d", False),
        ("my-net.pt:factory", False),
        ("a..b:factory", False),
        (":factory", False),
    ],
)
def test_a_reference_names_code_by_a_module_or_file_and_a_name(reference: str, expected: bool) -> None:
    assert names_code(reference) is expected


def test_names_are_found_in_files_and_modules_and_the_code_sees_no_arguments(home: Path) -> None:
    Path("code.py").write_text(CODE)
    modules, path, arguments = dict(sys.modules), list(sys.path), sys.argv
    for reference in ("code.py:Home.inner", f"{home}/code.py:Home.inner"):
        with at_home(reference):
            _, found = imported(reference)
            assert called(found, reference) == [reference.rpartition(":")[0]]
    source, number = imported("shop:number")
    assert (source.number, number) == (3, 3)
    assert (sys.path, sys.argv) == (path, arguments)
    assert sys.modules == modules


def test_a_file_elsewhere_finds_what_lies_beside_it_and_its_package(home: Path) -> None:
    Path("other/pack").mkdir(parents=True)
    Path("other/pack/sizes.py").write_text("WIDTH = 3")
    Path("other/pack/net.py").write_text("from .sizes import WIDTH\nimport sizes, pack\nBOTH = WIDTH + sizes.WIDTH")
    assert imported("other/pack/net.py:BOTH")[1] == 6


@pytest.mark.parametrize(
    ("reference", "sentence"),
    [
        ("code.py:absent", "code.py has no 'absent'."),
        ("code.py:Home.absent", "code.py has no 'Home.absent'."),
        ("absent.py:make", "absent.py does not exist."),
        ("absent.one:make", "absent.one cannot be imported (ModuleNotFoundError: No module named 'absent')."),
        ("leave.py:make", "leave.py cannot be imported (SystemExit: 3)."),
        ("half.py:make", "half.py cannot be imported (SyntaxError: '(' was never closed (half.py, line 1))."),
    ],
)
def test_what_cannot_be_imported_is_refused_in_its_own_words(home: Path, reference: str, sentence: str) -> None:
    Path("code.py").write_text(CODE)
    Path("leave.py").write_text("raise SystemExit(3)")
    Path("half.py").write_text("f(")
    with pytest.raises(ParallelizeError) as caught:
        imported(reference)
    assert str(caught.value) == sentence


def test_what_a_factory_raises_is_told_and_what_cannot_be_called_stands_for_itself(home: Path) -> None:
    Path("code.py").write_text(CODE)
    source, broken = imported("code.py:broken")
    for factory, told in ((broken, "ValueError: no such size"), (source.leaves, "SystemExit: 3")):
        with pytest.raises(ParallelizeError) as caught:
            called(factory, "code.py:make")
        assert str(caught.value) == f"code.py:make raised {told}."
        assert caught.value.hint == "The factory must give the model when called without arguments."
    assert called(3, "code.py:number") == 3


def test_an_exception_without_words_is_its_type() -> None:
    assert described(KeyboardInterrupt()) == "KeyboardInterrupt"
    assert described(OSError("One. Two")) == "OSError: One"
