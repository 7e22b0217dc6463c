"""Graphs that the exporter prints are dropped; what the model's own code prints is not."""

from __future__ import annotations

import sys

import pytest

from parallelize.models.printed_graphs import without_graphs

GRAPH = "graph():\ndef forward(self, x):\n    relu = torch.ops.aten.relu.default(x);  return relu\n"


def test_graphs_are_dropped_and_all_other_texts_pass(capsys: pytest.CaptureFixture[str]) -> None:
    with without_graphs():
        assert sys.stderr.write(GRAPH) == len(GRAPH)
        sys.stderr.write("def forward(self): mine\n")
        sys.stderr.writelines(["my torch.ops.aten list\n"])
        assert not sys.stderr.isatty()
    assert capsys.readouterr().err == "def forward(self): mine\nmy torch.ops.aten list\n"


def test_afterwards_and_after_an_error_graphs_are_printed_again(capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stderr
    with pytest.raises(ValueError, match="end"), without_graphs():
        raise ValueError("end")
    assert sys.stderr is before
    sys.stderr.write(GRAPH)
    assert capsys.readouterr().err == GRAPH
