"""What several commands take is told by the backends that there are."""

from __future__ import annotations

from typing import get_args

from parallelize.backends.backend import ONNX, FileKind
from parallelize.backends.registry import backends
from parallelize.cli.options import Artefacts, files_of


def test_kinds_of_files_are_named_with_their_articles() -> None:
    assert files_of([ONNX, FileKind("number", "a number", ".toy")]) == ["an .onnx", "a .toy"]


def test_the_help_of_artefacts_names_every_kind_of_file_and_every_backend() -> None:
    _, told = get_args(Artefacts)
    assert "an .onnx, an .engine or a directory" in told.help
    assert all(backend.name in told.help for backend in backends())
    assert ".pt2" not in told.help  # which is a MODEL
