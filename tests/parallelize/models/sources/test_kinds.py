"""References of no kind, files that cannot be opened and options without a use are refused."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from parallelize.models import sources
from parallelize.models.sources import LoadOptions, known_kinds, load_program
from tests.parallelize.models.sources.cases import refusal, small_checkpoint


def test_files_that_cannot_be_opened_are_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("folder.pt").mkdir()
    for file in ("absent.pt", "absent.pt2", "absent.py:make"):
        assert refusal(file)[0] == f"{file.removesuffix(':make')} does not exist."
    assert refusal("folder.pt")[0] == "folder.pt is a directory."

    def denied(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    message, hint = refusal("closed.pt")
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
        message, hint = refusal(reference)
        assert message == sentence
        assert "FILE.pt2, FILE.pt, package.module:factory" in hint


def test_options_that_a_file_has_no_use_for_are_refused(home: Path) -> None:
    small_checkpoint(home / "small.pt")
    torch.export.save(torch.export.export(nn.Linear(4, 2).eval(), (torch.zeros(2, 4),)), "model.pt2")
    weights = Path("small.pt")
    assert refusal("small.pt", weights=weights)[0] == "small.pt has weights of its own."
    assert refusal("model.pt2", weights=weights)[0] == "model.pt2 has weights of its own."
    assert refusal("model.pt2", "1x4")[0] == "model.pt2 states the shapes of its inputs."


TOY = """
import torch
from parallelize.models.capture import capture
from parallelize.models.sources.kinds import Kind

def load(reference, options, samples):
    return capture(torch.nn.Linear(int(reference.removeprefix("toy:")), 2).eval(), (torch.zeros(2, 3),))

KINDS = (Kind("toy:WIDTH", lambda reference: reference.startswith("toy:"), load, place=35),)
"""


def test_one_more_file_is_one_more_kind(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = [kind.spelling for kind in known_kinds()]
    Path("more").mkdir()
    Path("more/toy_source.py").write_text(TOY)
    monkeypatch.setattr(sources, "__path__", [*sources.__path__, str(home / "more")])
    try:
        assert [tuple(spec.shape) for spec in load_program("toy:3", LoadOptions()).outputs] == [("batch", 2)]
        assert "timm:NAME, toy:WIDTH, FILE.pt2" in refusal("nothing")[1]
    finally:
        sys.modules.pop("parallelize.models.sources.toy_source", None)
    monkeypatch.undo()
    assert [kind.spelling for kind in known_kinds()] == before
